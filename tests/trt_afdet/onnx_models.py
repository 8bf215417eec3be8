"""Canonical ONNX files made by hand: real little networks with random weights, without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from trt_afdet.spec import METADATA_KEY, ModelSpec

SPEC = ModelSpec(name="tiny", class_names=("imp", "zombie", "barrel"), height=256, width=384)


def build_model(
    spec: ModelSpec = SPEC,
    *,
    seed: int = 0,
    batch: int | str = "N",
    metadata: str | None = "",
    input_name: str = "images",
    input_size: tuple[int, int] | None = None,
    classes: int | None = None,
    drop: str | None = None,
    half: bool = False,
    opset: int = 17,
) -> onnx.ModelProto:
    """A pyramid of average pools with one 1x1 convolution per head.

    Args:
        spec: Stored in the metadata.
        seed: Of the weights.
        batch: The batch dimension.
        metadata: The text to store; the spec's JSON for "", no metadata for None.
        input_name, input_size, classes, drop: Ways of not fitting the spec: the input's name and
            (height, width), the number of class channels, an output left out.
        half: Input, weights and outputs in FP16.
        opset: ONNX opset.
    """
    rng = np.random.default_rng(seed)
    height, width = input_size or (spec.height, spec.width)
    depth = classes or spec.num_classes
    nodes, weights, outputs = [], [], []
    dtype, element = (np.float16, T.FLOAT16) if half else (np.float32, T.FLOAT)

    def convolution(source: str, target: str, out: int, bias: float, scale: float) -> None:
        kernel = rng.normal(0, scale, (out, 3, 1, 1)).astype(dtype)
        weights.append(numpy_helper.from_array(kernel, f"{target}.w"))
        offset = rng.normal(bias, 0.5, out).astype(dtype)
        weights.append(numpy_helper.from_array(offset, f"{target}.b"))
        nodes.append(helper.make_node("Conv", [source, f"{target}.w", f"{target}.b"], [target]))

    for level, stride in zip(spec.levels, spec.strides, strict=True):
        pooled = f"pool{level}"
        nodes.append(
            helper.make_node(
                "AveragePool",
                [input_name],
                [pooled],
                kernel_shape=[stride, stride],
                strides=[stride, stride],
            )
        )
        convolution(pooled, f"cls_p{level}", depth, -2.0, 2.0)
        convolution(pooled, f"raw_p{level}", 4, 0.4, 0.1)
        nodes.append(helper.make_node("Relu", [f"raw_p{level}"], [f"reg_p{level}"]))
        for kind, channels in (("cls", depth), ("reg", 4)):
            name = f"{kind}_p{level}"
            if name != drop:
                shape = [batch, channels, height // stride, width // stride]
                outputs.append(helper.make_tensor_value_info(name, element, shape))
    shape = [batch, 3, height, width]
    source = helper.make_tensor_value_info(input_name, element, shape)
    graph = helper.make_graph(nodes, "tiny", [source], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    text = spec.to_json() if metadata == "" else metadata
    if text is not None:
        helper.set_model_props(model, {METADATA_KEY: text})
    onnx.checker.check_model(model)
    return model


def heads_as_inputs(model: onnx.ModelProto, canonical: onnx.ModelProto) -> onnx.ModelProto:
    """What was added to a canonical model, alone: its inputs are the canonical model's outputs."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[: len(canonical.graph.node)]
    del result.graph.initializer[: len(canonical.graph.initializer)]
    del result.graph.input[:], result.graph.value_info[:]
    result.graph.input.extend(canonical.graph.output)
    onnx.checker.check_model(result, full_check=True)
    return result


def save_model(path: Path, model: onnx.ModelProto | None = None) -> Path:
    """Writes a model (by default the plain one) and returns its path."""
    path.write_bytes((model or build_model()).SerializeToString())
    return path
