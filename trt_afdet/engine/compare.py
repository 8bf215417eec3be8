"""Two networks on the same pictures: outputs, boxes and AP."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trt_afdet.datasets import Dataset, Record
from trt_afdet.datasets.index import ProgressLike
from trt_afdet.detections import Detections
from trt_afdet.engine.onnx.model_file import save_model
from trt_afdet.engine.sample_pictures import Pictures
from trt_afdet.evaluation import evaluate_coco
from trt_afdet.evaluation.matching import pairwise_iou
from trt_afdet.geometry import Letterbox
from trt_afdet.postprocess import from_outputs, postprocess
from trt_afdet.preprocess import preprocess
from trt_afdet.runtime.backend import Backend
from trt_afdet.runtime.onnxruntime import OnnxRuntimeBackend
from trt_afdet.spec import ModelSpec

if TYPE_CHECKING:
    import onnx

#: AP counts detections from this confidence on, as `trt-afdet eval` does.
AP_CONFIDENCE = 0.01

#: Boxes of this confidence are compared one to one; a partner may have half of it.
MATCH_CONFIDENCE = 0.3
MATCH_IOU = 0.9

_BATCH = 4

Heads = list[npt.NDArray[Any]]


@dataclass(frozen=True)
class OutputError:
    """How far one output is from the reference's; infinite if it is not finite.

    ``rms`` is the root mean square of the difference over that of the reference, ``largest`` the
    largest difference over the reference's largest magnitude.
    """

    name: str
    rms: float
    largest: float


def batches(
    pictures: Pictures, spec: ModelSpec, progress: ProgressLike | None, doing: str
) -> Iterator[tuple[list[int], npt.NDArray[np.float32], list[Letterbox]]]:
    """Indices, network inputs and placements of the readable pictures, a few at a time."""
    items = iter(pictures.shown(progress, doing))
    while some := list(islice(items, _BATCH)):
        yield [i for i, _ in some], *preprocess([frame for _, frame in some], spec)


@contextmanager
def in_onnxruntime(model: onnx.ModelProto) -> Iterator[OnnxRuntimeBackend]:
    """A model in memory as a backend."""
    with tempfile.TemporaryDirectory(prefix="trt-afdet-") as folder:
        path = Path(folder) / "model.onnx"
        save_model(model, path)
        with OnnxRuntimeBackend(path) as backend:
            yield backend


def infer(backend: Backend, images: npt.NDArray[np.float32]) -> Heads:
    """Runs any number of images, also where the network fixes its batch."""
    step = backend.batch_size or len(images)
    parts = []
    for start in range(0, len(images), step):
        part = images[start : start + step]
        lacking = ((0, step - len(part)), (0, 0), (0, 0), (0, 0))
        outputs = backend.infer(np.pad(part, lacking, "edge"))
        parts.append([output[: len(part)] for output in outputs])
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def detect(
    backend: Backend, outputs: Heads, letterboxes: list[Letterbox], confidence: float
) -> list[Detections]:
    """Outputs to detections in pixels of the pictures."""
    if backend.has_nms:
        return from_outputs(outputs, backend.spec, letterboxes)
    return postprocess(outputs, backend.spec.replace(score_threshold=confidence), letterboxes)


class ErrorSum:
    """Errors of outputs, added up batch by batch."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self._sums = np.zeros((len(self.names), 4))

    def add(self, reference: Heads, candidate: Heads) -> None:
        """One batch of outputs, in the order of the names."""
        for row, expected, got in zip(self._sums, reference, candidate, strict=True):
            want = expected.astype(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):
                difference = np.abs(got.astype(np.float64) - want)
            difference = np.where(np.isfinite(difference), difference, np.inf)
            row[0] += np.square(difference).sum()
            row[1] += np.square(want).sum()
            row[2:] = np.maximum(row[2:], [difference.max(), np.abs(want).max()])

    def result(self) -> tuple[OutputError, ...]:
        tiny = np.finfo(np.float64).tiny
        return tuple(
            OutputError(name, math.sqrt(row[0] / max(row[1], tiny)), row[2] / max(row[3], tiny))
            for name, row in zip(self.names, self._sums.tolist(), strict=True)
        )


def average_precision(truth: Dataset, found: list[Detections]) -> float:
    """AP (IoU .50:.95) in points of 100; the truth has the model's classes."""
    return 100 * evaluate_coco(truth, found).ap


def as_truth(pictures: Pictures, found: list[Detections], sizes: list[tuple[int, int]]) -> Dataset:
    """Confident detections as truth, where nobody drew boxes; sizes are width, height in pixels."""
    records = []
    items = zip(pictures.files, found, sizes, strict=True)
    for number, (path, detections, size) in enumerate(items, 1):
        sure = detections[detections.confidence >= MATCH_CONFIDENCE]
        records.append(Record.build(path, number, *size, sure.xyxy, sure.class_id))
    names = found[0].class_names
    ids = tuple(range(1, len(names) + 1))
    return Dataset(f"detections in {pictures.source}", names, tuple(records), ids)


def matched_share(reference: list[Detections], candidate: list[Detections]) -> float:
    """See :attr:`CandidateResult.matched`; 1 where neither has a box."""
    return (_found_again(reference, candidate) + _found_again(candidate, reference)) / 2


def _found_again(wanted: list[Detections], among: list[Detections]) -> float:
    total = hits = 0
    for sure, others in zip(wanted, among, strict=True):
        sure = sure[sure.confidence >= MATCH_CONFIDENCE]
        others = others[others.confidence >= MATCH_CONFIDENCE / 2]
        total += len(sure)
        near = pairwise_iou(sure.xyxy, others.xyxy) >= MATCH_IOU
        same = sure.class_id[:, None] == others.class_id[None]
        hits += int((near & same).any(axis=1).sum())
    return hits / total if total else 1.0
