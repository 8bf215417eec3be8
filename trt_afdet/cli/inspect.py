"""``trt-afdet inspect``: inputs, outputs and precision of a model file."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trt_afdet.cli import ui
from trt_afdet.errors import AfdetError, CorruptFileError, InvalidValueError
from trt_afdet.support.files import check_output, data_on_stdout, output_file

if TYPE_CHECKING:
    from trt_afdet.spec import ModelSpec
    from trt_afdet.trt.sidecar import EngineSidecar

SUMMARY = "show inputs, outputs, spec and precision of a model.onnx or an engine"

EPILOG = """\
examples:
  trt-afdet inspect model.onnx
  trt-afdet inspect model.engine --picture precisions.png
  trt-afdet inspect model.engine.json --layers
"""

_COLOURS = {"INT8": "#55a868", "HALF": "#4c72b0", "FLOAT": "#c44e52"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help=".onnx, an engine with its sidecar, or a sidecar")
    add("--layers", action="store_true", help="the precision of every layer")
    add("--picture", type=output_file, metavar="PNG", help="draw the precision per block")


class Findings(NamedTuple):
    """The findings about a file: facts for people, and layers with weights, by block and type."""

    facts: list[list[str]]
    tensors: list[list[str]]  # Name, kind, type and shape of inputs and outputs.
    spec: ModelSpec
    groups: Mapping[str, Mapping[str, int]]
    layers: Mapping[str, str]  # By the name of the ONNX node.


def run(args: argparse.Namespace) -> int:
    found = examine(args.file)
    if args.picture is not None:
        check_output(args.picture)
    with data_on_stdout(args.picture):
        ui.table(str(args.file), ("what", ""), found.facts)
        ui.table("tensors", ("name", "kind", "type", "shape"), found.tensors)
        ui.table("spec", ("what", ""), _spec_rows(found.spec))
        kinds = sorted({kind for counts in found.groups.values() for kind in counts})
        groups = found.groups.items()
        rows = [[block, *(str(counts.get(kind, 0)) for kind in kinds)] for block, counts in groups]
        ui.table("layers with weights, by type", ("block", *kinds), rows)
        if args.layers:
            ui.table("layers", ("ONNX node", "type"), list(found.layers.items()))
        if args.picture is not None:
            save_picture(found.groups, kinds, args.file.name, args.picture)
            print(f"wrote {args.picture}")
    return 0


def examine(path: Path) -> Findings:
    """Reads an ONNX file, an engine's sidecar, or the engine's beside it."""
    from trt_afdet.runtime.model_errors import reason
    from trt_afdet.trt.sidecar import read

    if path.suffix.lower() != ".onnx":
        return _of_sidecar(read(path))
    try:
        return _of_onnx(path)
    except AfdetError:
        raise
    except Exception as error:  # onnx's errors share no base; damaged text comes as bytes.
        what = f"{path} is not a valid ONNX model"
        raise CorruptFileError(what, got=reason(error), hint="export it again") from error


def _of_onnx(path: Path) -> Findings:
    from trt_afdet.engine.precision.readback import node_blocks, of_model
    from trt_afdet.interface import NMS_KEY, read_nms, read_spec
    from trt_afdet.spec import METADATA_KEY
    from trt_afdet.support.files import file_sha256

    model = _read_onnx(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    spec = read_spec(metadata.get(METADATA_KEY), path)
    opsets = [f"{e.domain or 'ai.onnx'} {e.version}" for e in model.opset_import]
    facts = [
        ["kind", "ONNX model"],
        ["size", f"{path.stat().st_size / 1e6:.1f} MB"],
        ["NMS", read_nms(metadata.get(NMS_KEY), path)],
        ["operators", ", ".join(opsets)],
        ["nodes", str(len(model.graph.node))],
        ["SHA-256", file_sha256(path)],
    ]
    weights = {tensor.name for tensor in model.graph.initializer}
    tensors = [_tensor_row(v, "input") for v in model.graph.input if v.name not in weights]
    tensors += [_tensor_row(value, "output") for value in model.graph.output]
    types = of_model(model, node_blocks(model))
    return Findings(facts, tensors, spec, types.groups(), types.types)


def _read_onnx(path: Path) -> Any:
    """Any model of ours: canonical, converted, with NMS."""
    from trt_afdet.engine.onnx.model_file import load_canonical, read_model

    try:
        return load_canonical(path)[0]
    except InvalidValueError:  # Whole, but not canonical.
        model = read_model(path)
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return model


def _tensor_row(value: Any, kind: str) -> list[str]:
    from onnx import TensorProto

    kinds = value.type.tensor_type
    name = TensorProto.DataType.Name(kinds.elem_type).lower()
    sizes = [d.dim_param or str(d.dim_value) for d in kinds.shape.dim]
    dtype = "float32" if name == "float" else name
    return [value.name, kind, dtype, f"[{', '.join(sizes)}]"]


def _of_sidecar(sidecar: EngineSidecar) -> Findings:
    from trt_afdet.interface import INPUT_NAME, output_shapes

    spec = sidecar.spec
    low, best, high = sidecar.batch
    verified = sidecar.verification
    capability = ", ".join(sidecar.compute_capability or ()) or "unknown"
    facts = [
        ["kind", "TensorRT engine"],
        ["built by", f"{sidecar.flavour} {sidecar.tensorrt_version} on {sidecar.platform}"],
        ["for compute capability", capability],
        ["GPU", sidecar.gpu_name or "built without one"],
        ["precision", f"{sidecar.precision_asked}, read back from the {sidecar.precision_source}"],
        ["larger than asked", "; ".join(sidecar.fallback) or "nothing"],
        ["kept on purpose", ", ".join(sidecar.kept) or "nothing"],
        ["NMS", sidecar.nms + (f" {sidecar.plugin_version}" if sidecar.plugin_version else "")],
        ["batch", str(low) if low == high else f"{low} to {high}, best {best}"],
        ["runs on other versions", "newer ones" if sidecar.version_compatible else "no"],
        ["runs on other GPUs", sidecar.hardware_compatible.replace("none", "no")],
        ["weights", "left out" if sidecar.stripped else "inside"],
        ["DLA core", "none" if sidecar.dla_core is None else str(sidecar.dla_core)],
        ["verified", _verdict(verified)],
        ["built", f"{sidecar.created} in {sidecar.build_seconds:.1f} s"],
        ["from", sidecar.onnx_file],
        ["its SHA-256", sidecar.onnx_sha256],
        ["engine's SHA-256", sidecar.engine_sha256],
        ["again with", " ".join(sidecar.arguments())],
    ]
    shapes = output_shapes(spec, False) | output_shapes(spec, True)
    shapes[INPUT_NAME] = (3, spec.height, spec.width)
    batch = low if low == high else "N"
    kinds = [(INPUT_NAME, "input", sidecar.input_dtype)]
    kinds += [(name, "output", dtype) for name, dtype in sidecar.output_dtypes.items()]
    tensors = [[*kind, f"[{', '.join(map(str, (batch, *shapes[kind[0]])))}]"] for kind in kinds]
    return Findings(facts, tensors, spec, sidecar.precision_groups, sidecar.layer_types)


def _verdict(verified: Mapping[str, Any] | None) -> str:
    if verified is None:
        return "no"
    verdict = "passed" if verified.get("passed") else "failed"
    return f"{verdict}, {verified.get('pictures')} pictures"


def _spec_rows(spec: ModelSpec) -> list[list[str]]:
    rows = []
    for name, value in dataclasses.asdict(spec).items():
        if name == "class_names":
            rows.append(["classes", f"{len(value)}: {', '.join(value)}"])
        else:
            text = ", ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)
            rows.append([name.replace("_", " "), text])
    return rows


def save_picture(
    groups: Mapping[str, Mapping[str, int]], kinds: list[str], title: str, path: Path
) -> None:
    """Layers of each block as bars, coloured by type, as PNG."""
    from trt_afdet.support.figures import new_figure, save_figure

    figure = new_figure(7, 1.2 + 0.3 * len(groups))
    axes = figure.subplots()
    names = list(groups)
    left = [0] * len(names)
    for kind in kinds:
        widths = [groups[name].get(kind, 0) for name in names]
        axes.barh(names, widths, left=left, label=kind, color=_COLOURS.get(kind, "#8c8c8c"))
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("layers with weights")
    axes.set_title(title)
    axes.legend()
    axes.grid(axis="x", alpha=0.3)
    save_figure(figure, path)
