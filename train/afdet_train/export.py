"""Checkpoint to canonical ONNX: ten raw head tensors and the spec, without decode and NMS."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from afdet_train import checkpoint as checkpoints
from afdet_train.evaluate import TorchBackend
from afdet_train.model.network import AnchorFreeDetector, build_network, model_spec
from trt_afdet import __version__
from trt_afdet.engine.onnx.half_weights import store_half
from trt_afdet.errors import InvalidValueError, RunError
from trt_afdet.preprocess import preprocess
from trt_afdet.spec import METADATA_KEY, ModelSpec
from trt_afdet.support.files import atomic_path

#: Largest difference between torch and ONNX Runtime, relative to a tensor's largest magnitude.
TOLERANCE = 1e-3

#: The oldest opset that torch's exporter writes without a converter.
OPSET = 18

#: Backbones with layers that standard ONNX ops cannot express.
_UNEXPORTABLE = ("_dcn",)


@dataclass(frozen=True)
class Parity:
    """Differences between the outputs of ONNX Runtime and torch.

    Attributes:
        differences: Output name -> largest absolute difference over the tensor's largest magnitude.
        frames: Number of frames compared.
    """

    differences: dict[str, float]
    frames: int

    @property
    def worst(self) -> tuple[str, float]:
        return max(self.differences.items(), key=lambda item: item[1])


class _FlatOutputs(nn.Module):
    """The detector with its ten outputs as a flat tuple in ``spec.output_names`` order."""

    def __init__(self, detector: AnchorFreeDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.detector(images)
        return (*outputs.logits, *outputs.distances)


def to_onnx(detector: AnchorFreeDetector, spec: ModelSpec, *, batch: int | None = None) -> Any:
    """The detector as a checked, simplified ``onnx.ModelProto`` with the spec in its metadata.

    Args:
        detector: In eval mode, on the CPU.
        spec: Stored under ``trt_afdet.spec``.
        batch: A fixed batch size; None for a dynamic one.

    Raises:
        RunError: If a step of the conversion fails.
    """
    import onnx
    import onnxsim

    example = torch.zeros(batch or 2, 3, spec.height, spec.width)
    dynamic = None if batch else ({0: torch.export.Dim("batch")},)
    # The exporter prints to stdout and warns; its output is shown only if it fails.
    chatter = io.StringIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(chatter), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _FlatOutputs(detector),
                (example,),
                input_names=["images"],
                output_names=list(spec.output_names),
                dynamic_shapes=dynamic,
                opset_version=OPSET,
                dynamo=True,
                optimize=True,
                verbose=False,
            )
            assert program is not None
            model, ok = onnxsim.simplify(program.model_proto)
    except Exception as error:
        raise RunError(
            "the network cannot be exported to ONNX", got=str(error).strip().splitlines()[0]
        ) from error
    if not ok:
        raise RunError("onnxsim changed the network's outputs")
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces with paths of this machine
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.functions[:]
    onnx.helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    model.producer_name, model.producer_version = "trt-afdet", __version__
    if batch is None:
        _name_batch(model)
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def _name_batch(model: Any) -> None:
    """Names every dynamic batch dimension N."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    del model.graph.value_info[:]


def check_parity(
    detector: AnchorFreeDetector, onnx_path: Path, spec: ModelSpec, frames: list[np.ndarray]
) -> Parity:
    """Runs the same frames through torch and through ONNX Runtime.

    Args:
        frames: BGR uint8 pictures; real pictures give activations of realistic size.
    """
    from trt_afdet.runtime.onnxruntime import OnnxRuntimeBackend

    worst = dict.fromkeys(spec.output_names, 0.0)
    torch_backend = TorchBackend(detector, spec, torch.device("cpu"))
    with OnnxRuntimeBackend(onnx_path) as onnx_backend:
        for start in range(0, len(frames), 4):
            images, _ = preprocess(frames[start : start + 4], spec)
            if onnx_backend.batch_size:
                images = images[np.arange(onnx_backend.batch_size) % len(images)]
            pairs = zip(torch_backend.infer(images), onnx_backend.infer(images), strict=True)
            for name, (ours, theirs) in zip(spec.output_names, pairs, strict=True):
                scale = max(float(np.abs(ours).max()), 1e-6)
                difference = float(np.abs(ours - theirs).max()) / scale
                # max() would ignore a NaN.
                worst[name] = max(worst[name], difference if difference == difference else np.inf)
    return Parity(worst, len(frames))


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    frames: list[np.ndarray],
    *,
    batch: int | None = None,
    half_weights: bool = False,
    spec_changes: dict[str, Any] | None = None,
) -> Parity:
    """Writes the canonical ONNX of a checkpoint, unless it differs from torch.

    Args:
        checkpoint: A .safetensors file or the folder of a run.
        out: The .onnx file, written only after the check.
        frames: BGR uint8 pictures for the comparison.
        batch: A fixed batch size; None for a dynamic one.
        half_weights: Store the weights in FP16, after the comparison in FP32.
        spec_changes: Values of the spec to store instead of the defaults.

    Returns:
        How far the file is from torch.

    Raises:
        AfdetError: If the checkpoint is bad, the conversion fails, a tensor differs by more than
            :data:`TOLERANCE`, or the file cannot be written.
    """
    if not frames:
        raise InvalidValueError("the comparison needs at least one frame")
    saved = checkpoints.load(checkpoint)
    if saved.recipe.model.backbone.name.endswith(_UNEXPORTABLE):
        raise InvalidValueError(
            "deformable convolutions cannot be exported to ONNX",
            got=saved.recipe.model.backbone.name,
            hint="deploy the same backbone without _dcn",
        )
    detector = build_network(saved.recipe.model, load_weights=False).eval()
    checkpoints.load_weights(detector, saved.weights, str(checkpoint))
    spec = model_spec(saved.recipe.model).replace(**(spec_changes or {}))
    model = to_onnx(detector, spec, batch=batch)
    with atomic_path(out) as temporary:
        temporary.write_bytes(model.SerializeToString())
        parity = check_parity(detector, temporary, spec, frames)
        name, difference = parity.worst
        if difference > TOLERANCE:
            raise RunError(
                f"ONNX Runtime differs from torch: worst tensor {name} by {difference:.2e} "
                f"relative, limit {TOLERANCE:.0e}"
            )
        if half_weights:
            store_half(model)
            temporary.write_bytes(model.SerializeToString())
            parity = check_parity(detector, temporary, spec, frames)
    return parity
