"""Reading and writing ONNX model files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trt_afdet.engine.onnx.half_weights import restore
from trt_afdet.engine.onnx.nms import check_canonical, import_onnx
from trt_afdet.errors import AfdetError, CorruptFileError, InvalidValueError
from trt_afdet.runtime.model_errors import kind_of, reason
from trt_afdet.spec import ModelSpec
from trt_afdet.support.files import atomic_path, check_model_path, file_sha256

if TYPE_CHECKING:
    import onnx

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger")


@dataclass(frozen=True)
class Canonical:
    """An exported model, read once for a whole build; see :func:`load_canonical`."""

    model: onnx.ModelProto
    spec: ModelSpec
    sha256: str

    @classmethod
    def load(cls, path: str | Path) -> Canonical:
        """Raises what :func:`load_canonical` raises."""
        model, spec = load_canonical(path)
        return cls(model, spec, file_sha256(Path(path)))


def load_canonical(path: str | Path) -> tuple[onnx.ModelProto, ModelSpec]:
    """Reads an exported model.onnx.

    Returns:
        The model, FP32, with a shape for every tensor and a unique name for every node; and its
        spec.

    Raises:
        MissingFileError: If there is no such file.
        CorruptFileError: If it is not an ONNX file, or damaged.
        InvalidValueError: If it is not ours, not canonical, not FP32, or uses an operator that
            ONNX does not have.
        MissingDependencyError: If onnx is not installed.
    """
    path = Path(path)
    model = read_model(path)
    try:
        _check_operators(model, path)
        spec = check_canonical(model, path)
        _check_float(model, path)
        return _complete(model), spec
    except AfdetError:
        raise
    except Exception as error:  # onnx's errors share no base; damaged text comes as bytes.
        raise CorruptFileError(
            f"{path} is not a valid ONNX model", got=reason(error), hint="export it again"
        ) from error


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Writes a model atomically; raises WriteError if it cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def read_model(path: Path) -> onnx.ModelProto:
    """Reads any ONNX file; weights that are stored in FP16 but computed with in FP32 become FP32.

    Raises:
        MissingFileError: If there is no such file.
        CorruptFileError: If it is not an ONNX file, or damaged.
        MissingDependencyError: If onnx is not installed.
    """
    check_model_path(path)
    load = import_onnx().load
    try:
        model: onnx.ModelProto = load(str(path))
        restore(model)
    except Exception as error:  # protobuf's and onnx's own, besides those of external data.
        if kind := kind_of(path):
            said = f"{path} is not an ONNX model but {kind[0]}"
            raise CorruptFileError(said, hint=kind[1]) from error
        raise CorruptFileError(
            f"{path} is not an ONNX model, or it is cut off",
            got=reason(error),
            hint="export or copy it again; a separate file of weights belongs beside it",
        ) from error
    if not model.graph.node or not model.graph.output:
        what, hint = kind_of(path) or (None, None)
        what = f"it is {what}" if what else "it holds no graph"
        raise CorruptFileError(f"{path} is not an ONNX model: {what}", hint=hint)
    return model


def _check_operators(model: onnx.ModelProto, path: Path) -> None:
    """Names the first operator that no ONNX runtime can know."""
    import onnx.defs

    versions = {entry.domain: entry.version for entry in model.opset_import}
    newest = onnx.defs.onnx_opset_version()
    if versions.get("", 0) > newest:
        raise InvalidValueError(
            f"{path} is of ONNX opset {versions['']}, the installed onnx knows up to {newest}",
            hint="upgrade onnx, or export with an older opset",
        )
    for node in model.graph.node:
        if not onnx.defs.has(node.op_type, max(versions.get(node.domain, 0), 1), node.domain):
            raise InvalidValueError(
                f"{path}: ONNX opset {versions.get(node.domain, 0)} has no operator "
                f"{node.domain + '::' if node.domain else ''}{node.op_type}",
                got=f"node {node.name or ', '.join(node.output)!r}",
                hint="export the model again",
            )


def _check_float(model: onnx.ModelProto, path: Path) -> None:
    from onnx import TensorProto

    kinds = {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
    quantized = next((n for n in model.graph.node if n.op_type in _QUANTIZERS), None)
    if quantized is not None or TensorProto.FLOAT16 in kinds:
        raise InvalidValueError(
            f"{path} has been converted to another precision already",
            got=quantized.op_type if quantized is not None else "float16",
            hint="give the exported model, in FP32",
        )


def _complete(model: onnx.ModelProto) -> onnx.ModelProto:
    """Adds shapes and node names; the file may lack both."""
    import onnx.checker
    import onnx.shape_inference

    onnx.checker.check_model(model)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    taken = {node.name for node in model.graph.node}
    seen = {""}
    for index, node in enumerate(model.graph.node):
        if node.name in seen:
            node.name = f"{node.name or node.op_type}_{index}"
            while node.name in taken:
                node.name += "_"
            taken.add(node.name)
        seen.add(node.name)
    return model
