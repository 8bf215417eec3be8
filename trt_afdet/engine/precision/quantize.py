"""INT8 by Q/DQ in the ONNX: ONNX Runtime's quantizer with the settings that TensorRT takes.

The library's defaults do not build: they quantize biases, use unsigned zero points and put Q/DQ
behind convolutions. ``check_qdq`` proves the result on the graph, because a wrong
axis of a per-channel scale builds silently and only costs accuracy.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trt_afdet.engine.onnx.writer import replace
from trt_afdet.engine.precision.blocks import Wiring
from trt_afdet.engine.precision.calibration import OneInput, Ranges
from trt_afdet.engine.precision.check_qdq import check_quantized
from trt_afdet.engine.precision.fp16 import SMALLEST, copy_of, sort_nodes, to_half
from trt_afdet.engine.precision.placement import Placement, place
from trt_afdet.errors import InvalidValueError, RunError
from trt_afdet.spec import ModelSpec
from trt_afdet.support.packages import missing

if TYPE_CHECKING:
    import onnx

_HALF_SCALES_OPSET = 19


def quantize(
    model: onnx.ModelProto,
    spec: ModelSpec,
    ranges: Ranges,
    *,
    keep: Collection[str] = (),
    half_scales: bool = False,
    keep_fp32: Collection[str] = (),
    io: str = "float32",
) -> onnx.ModelProto:
    """A copy of a canonical FP32 model with Q/DQ, and FP16 around them if asked for.

    The nodes of ``keep`` stay in floating point. ``half_scales`` makes the rest FP16 (but for
    ``keep_fp32``; input and heads are of type ``io``), with FP16 scales: each DequantizeLinear then
    gives FP16 without a cast. TensorRT 8.x wants FP32 scales and types by flags.

    Raises:
        InvalidValueError: If nothing is left to quantize, or a range is missing.
        RunError: If the quantizer fails, or its result is not what TensorRT takes.
        MissingDependencyError: If onnx or onnxruntime is not installed.
    """
    placement = place(model, {*keep, *keep_fp32})
    if not placement.nodes:
        raise InvalidValueError("no convolution is left to quantize")
    unknown = [name for name in placement.tensors if name not in ranges.tensors]
    if unknown:
        raise InvalidValueError("calibration has no range of a tensor", got=unknown[0])
    quantized = _insert(model, spec, placement, ranges)
    _keep_planned_edges(quantized, placement)
    if half_scales:
        _raise_opset(quantized)
        _enlarge_scales(quantized)
        quantized = to_half(quantized, keep_fp32, io)
    check_quantized(quantized, placement)
    return quantized


def _insert(
    model: onnx.ModelProto, spec: ModelSpec, placement: Placement, ranges: Ranges
) -> onnx.ModelProto:
    """The library's work: Q/DQ at every input and weight of the chosen nodes."""
    try:
        import onnx
        from onnxruntime.quantization import (
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )
    except ImportError as error:
        raise missing(error, extra="quantize") from error
    readers = {reader for _, reader in placement.edges}
    names = [*placement.nodes, *sorted(readers.difference(placement.nodes))]
    kinds = sorted({node.op_type for node in model.graph.node if node.name in set(names)})
    source = copy_of(model)
    # Marks it as prepared; without it the library warns on the root logger.
    source.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    with tempfile.TemporaryDirectory(prefix="trt-afdet-") as folder:
        out = Path(folder) / "quantized.onnx"
        try:
            quantize_static(
                source,
                str(out),
                # One picture to satisfy the interface; the ranges below replace what it says.
                OneInput(np.zeros((batch, 3, spec.height, spec.width), np.float32)),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=kinds,
                nodes_to_quantize=names,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "AddQDQPairToWeight": True,
                    "OpTypesToExcludeOutputQuantization": kinds,
                    "TensorQuantOverrides": _overrides(placement, ranges),
                },
            )
            result: onnx.ModelProto = onnx.load(str(out))
        except Exception as error:  # The library raises whatever it meets.
            logging.getLogger("trt_afdet").debug("quantize_static", exc_info=True)
            raise RunError(
                "ONNX Runtime's quantizer failed", got=f"{type(error).__name__}: {error}"[:200]
            ) from error
    del result.metadata_props[:]
    result.metadata_props.extend(model.metadata_props)
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    return result


def _overrides(placement: Placement, ranges: Ranges) -> dict[str, list[dict[str, Any]]]:
    """Each tensor's range; one for all of a group."""
    limits = {name: max(map(abs, ranges.tensors[name])) for name in placement.tensors}
    for group in placement.groups:
        widest = max(limits[name] for name in group if name in limits)
        limits.update({name: widest for name in group if name in limits})
    # A tensor that is always zero has no scale; any will do.
    return {
        name: [{"rmin": np.float32(-(limit or 1)), "rmax": np.float32(limit or 1)}]
        for name, limit in limits.items()
    }


def _keep_planned_edges(model: onnx.ModelProto, placement: Placement) -> None:
    """Lets all but the planned readers of a tensor read it as it was before Q/DQ.

    The library serves the quantized tensor to every reader, so a convolution that was to stay in
    floating point would get rounded input.
    """
    wiring = Wiring(model)
    origin = {
        node.output[0]: wiring.producer[node.input[0]].input[0]
        for node in wiring.nodes
        if node.op_type == "DequantizeLinear"
    }
    chosen = set(placement.nodes)
    for node in wiring.nodes:
        for index, name in enumerate(node.input):
            source = origin.get(name)
            weight = source in wiring.weights and index == 1 and node.name in chosen
            if source and not weight and (source, node.name) not in placement.edges:
                node.input[index] = source
    _drop_unread(model.graph)
    sort_nodes(model)


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Takes out Q/DQ that nobody reads, and what only they read."""

    def read() -> set[str]:
        return {name for node in graph.node for name in node.input}

    for kind in ("DequantizeLinear", "QuantizeLinear"):
        wanted = read() | {value.name for value in graph.output}
        replace(graph.node, [n for n in graph.node if n.op_type != kind or n.output[0] in wanted])
    used = read()
    replace(graph.initializer, [t for t in graph.initializer if t.name in used])


def _raise_opset(model: onnx.ModelProto) -> None:
    """Moves to an opset in which Q/DQ take FP16 scales.

    From 17 on the operators of a detector changed only in the types they take, so their nodes stay
    as they are; anything else is refused by the checker afterwards.
    """
    entry = next(entry for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if entry.version < 17:
        raise InvalidValueError(
            f"FP16 scales need ONNX opset {_HALF_SCALES_OPSET}",
            got=f"opset {entry.version}",
            hint="export with opset 17 or newer",
        )
    entry.version = max(entry.version, _HALF_SCALES_OPSET)


def _enlarge_scales(model: onnx.ModelProto) -> None:
    """Scales that FP16 would round to zero become its smallest number; their channels are dead."""
    from onnx import numpy_helper

    scales = {n.input[1] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            values = np.maximum(numpy_helper.to_array(tensor), np.float32(SMALLEST))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
