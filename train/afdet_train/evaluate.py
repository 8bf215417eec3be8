"""Evaluates a checkpoint with the runtime's code; torch runs only the network's forward pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from afdet_train import checkpoint as checkpoints
from afdet_train.distributed import pick_device
from afdet_train.model.network import build_network, model_spec
from trt_afdet.datasets import Dataset
from trt_afdet.errors import InvalidValueError
from trt_afdet.evaluation import CocoResult, evaluate_coco, predict
from trt_afdet.runtime.backend import HostBackend
from trt_afdet.runtime.detector import Detector
from trt_afdet.spec import ModelSpec


class TorchBackend(HostBackend):
    """Runs a torch module as the runtime runs an ONNX file.

    Args:
        module: Images [N, 3, H, W] -> HeadOutputs; must be in eval mode.
        spec: The network's inputs and outputs.
        device: The module's device.
    """

    def __init__(self, module: nn.Module, spec: ModelSpec, device: torch.device) -> None:
        self.module = module
        self.spec = spec
        self.device = device

    @torch.inference_mode()
    def infer(self, images: npt.NDArray[np.float32]) -> list[npt.NDArray[np.floating[Any]]]:
        x = torch.from_numpy(images).to(self.device, memory_format=torch.channels_last)
        outputs = self.module(x)
        return [t.float().cpu().numpy() for t in (*outputs.logits, *outputs.distances)]


def evaluate_network(
    module: nn.Module,
    spec: ModelSpec,
    truth: Dataset,
    device: torch.device,
    *,
    batch: int = 8,
    progress: Callable[..., Any] | None = None,
) -> CocoResult:
    """COCO AP of a module in eval mode on a dataset."""
    detector = Detector(TorchBackend(module, spec, device))
    return evaluate_coco(truth, predict(truth, detector, batch=batch, progress=progress))


def load_detector(
    path: str | Path,
    *,
    conf: float | None = None,
    iou: float | None = None,
    max_detections: int | None = None,
    classes: list[str] | None = None,
    threads: int | None = None,
    device: str = "auto",
) -> Detector:
    """A checkpoint (.safetensors or the folder of a run) as a :class:`Detector`.

    Raises:
        MissingFileError, CorruptFileError, InvalidValueError: See ``checkpoint.load``.
    """
    if threads is not None:
        if threads < 1:
            raise InvalidValueError("threads must be at least 1", got=threads)
        torch.set_num_threads(threads)
    saved = checkpoints.load(Path(path))
    network = build_network(saved.recipe.model, load_weights=False)
    checkpoints.load_weights(network, saved.weights, str(path))
    place = pick_device(device)
    network.to(place).eval()
    backend = TorchBackend(network, model_spec(saved.recipe.model), place)
    return Detector(backend, conf=conf, iou=iou, max_detections=max_detections, classes=classes)
