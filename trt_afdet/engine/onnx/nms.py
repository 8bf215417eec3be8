"""Adding decode + NMS to a canonical ONNX model.

Two forms, of the same meaning and with the same outputs
(:data:`trt_afdet.interface.DETECTION_NAMES`): the node of the TensorRT plugin, and standard ONNX
operators (:mod:`trt_afdet.engine.onnx.portable_nms`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trt_afdet.engine.onnx.portable_nms import MIN_OPSET, write_portable_nms
from trt_afdet.engine.onnx.writer import GraphWriter
from trt_afdet.errors import InvalidValueError
from trt_afdet.interface import (
    DETECTION_NAMES,
    FLOATS,
    NMS_FORMS,
    NMS_KEY,
    PLUGIN_DOMAIN,
    PLUGIN_OP,
    PLUGIN_VERSION,
    check_network,
    output_shapes,
    read_nms,
    read_spec,
)
from trt_afdet.spec import METADATA_KEY, ModelSpec
from trt_afdet.support.packages import missing

if TYPE_CHECKING:
    import onnx


def add_nms(
    model: onnx.ModelProto, form: str, *, loop: bool = False, file: object = "the model"
) -> onnx.ModelProto:
    """A copy of a canonical model that ends in decode + NMS, as its spec says.

    Args:
        model: Canonical; input and heads FP32 or FP16.
        form: ``"plugin"`` for the TensorRT plugin, ``"onnx"`` for standard operators, ``"none"``
            to keep the heads.
        loop: In the ``"onnx"`` form, suppress by a loop of elementary operators instead of
            NonMaxSuppression, which TensorRT-RTX does not have: the same result, slower in ONNX
            Runtime. TensorRT takes up to 3840 candidates per level and detections.
        file: What messages call the model.

    Returns:
        With ``trt_afdet.nms`` = form in the metadata. Unless the form is ``"none"``, the outputs
        are num_detections int32 [N, 1], detection_boxes float32 [N, M, 4] (x1 y1 x2 y2 in
        network-input pixels), detection_scores float32 [N, M] and detection_classes int32 [N, M];
        unused rows are zero, their class is -1.

    Raises:
        InvalidValueError: If the form is unknown; and as :func:`check_canonical`.
        MissingDependencyError: If onnx is not installed.
    """
    if form not in NMS_FORMS:
        raise InvalidValueError(f"NMS must be one of {', '.join(NMS_FORMS)}", got=form)
    onnx = import_onnx()
    spec = check_canonical(model, file)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _set_metadata(result, NMS_KEY, form)
    if form == "none":
        return result
    if form == "plugin":
        _append_plugin(result, spec)
    else:
        _append_portable(result, spec, loop, file)
    _declare_outputs(result, spec)
    try:
        onnx.checker.check_model(result, full_check=form == "onnx")
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InvalidValueError(
            f"{file} is not a valid ONNX model once NMS is added",
            got=next(iter(str(error).strip().splitlines()), ""),
            hint="export the model again",
        ) from error
    return result


def check_canonical(model: onnx.ModelProto, file: object = "the model") -> ModelSpec:
    """The spec of a model with FP32 or FP16 input and heads, once it is known to be canonical.

    Raises:
        InvalidValueError: If it is not ours, has NMS already, or contradicts its own spec.
        MissingDependencyError: If onnx is not installed.
    """
    import_onnx()
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    spec = read_spec(metadata.get(METADATA_KEY), file)
    form = read_nms(metadata.get(NMS_KEY), file)
    if form != "none" or set(DETECTION_NAMES) & {value.name for value in model.graph.output}:
        raise InvalidValueError(
            f"{file} already ends in NMS",
            got=form if form != "none" else ", ".join(value.name for value in model.graph.output),
            hint="use the canonical model that it was made from",
        )
    weights = {tensor.name for tensor in model.graph.initializer}
    check_network(
        spec,
        file,
        [(v.name, _shape(v), _element(v)) for v in model.graph.input if v.name not in weights],
        [(v.name, _shape(v)) for v in model.graph.output],
    )
    for value in model.graph.output:
        if value.name in spec.output_names and _element(value) not in FLOATS:
            raise InvalidValueError(
                f"{file}: output {value.name!r} must be {' or '.join(FLOATS)}", got=_element(value)
            )
    return spec


def import_onnx() -> Any:
    """The package, with its parts that are used here; raises MissingDependencyError without it."""
    try:
        import onnx
        import onnx.checker
        import onnx.shape_inference
    except ImportError as error:
        raise missing(error) from error
    return onnx


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    """Sizes; names for those that vary."""
    dims = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in dims]


def _element(value: onnx.ValueInfoProto) -> str:
    """The element type as NumPy calls it: "float32" and the like."""
    from onnx import TensorProto

    name = TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
    return "float32" if name == "float" else name


def _set_metadata(model: onnx.ModelProto, key: str, value: str) -> None:
    found = next((entry for entry in model.metadata_props if entry.key == key), None)
    entry = found or model.metadata_props.add(key=key)
    entry.value = value


def _append_plugin(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """One node; its attributes are described beside the plugin."""
    from onnx import helper

    # More candidates than pairs means all of them; the plugin has its limits.
    pairs = max(rows * columns for rows, columns in spec.grid_sizes) * spec.num_classes
    node = helper.make_node(
        PLUGIN_OP,
        list(spec.output_names),
        list(DETECTION_NAMES),
        name=PLUGIN_OP,
        domain=PLUGIN_DOMAIN,
        height=spec.height,
        width=spec.width,
        strides=list(spec.strides),
        regression_scale=float(spec.regression_scale),
        score_threshold=float(spec.score_threshold),
        candidates_per_level=min(spec.candidates_per_level, pairs),
        nms_iou=float(spec.nms_iou),
        class_agnostic=int(spec.class_agnostic),
        max_detections=spec.max_detections,
        plugin_version=PLUGIN_VERSION,
        plugin_namespace="",
    )
    model.graph.node.append(node)
    if all(entry.domain != PLUGIN_DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(PLUGIN_DOMAIN, 1))


def _append_portable(model: onnx.ModelProto, spec: ModelSpec, loop: bool, file: object) -> None:
    opset = max((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), default=0)
    if opset < MIN_OPSET:
        raise InvalidValueError(
            f"NMS in ONNX operators needs opset {MIN_OPSET} or newer",
            got=f"{file} of opset {opset}",
            hint="export the model again",
        )
    writer = GraphWriter("nms")
    write_portable_nms(writer, spec, loop=loop)
    model.graph.node.extend(writer.nodes)
    model.graph.initializer.extend(writer.constants)


def _declare_outputs(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Detections become the outputs; the heads stay as tensors inside."""
    from onnx import TensorProto, helper

    batch = next(_shape(v)[0] for v in model.graph.output if v.name == spec.output_names[0])
    heads = list(model.graph.output)
    del model.graph.output[:]
    model.graph.value_info.extend(heads)
    kinds = (TensorProto.INT32, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT32)
    for (name, tail), kind in zip(output_shapes(spec, True).items(), kinds, strict=True):
        model.graph.output.append(helper.make_tensor_value_info(name, kind, [batch, *tail]))
