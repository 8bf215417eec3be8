"""Detector: frames in, detections out, whatever runs the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import overload

import numpy as np
import numpy.typing as npt

from trt_afdet.detections import Detections
from trt_afdet.errors import AfdetError, InvalidValueError
from trt_afdet.postprocess import postprocess
from trt_afdet.preprocess import preprocess
from trt_afdet.runtime.backend import Backend
from trt_afdet.runtime.times import StageTimes
from trt_afdet.spec import ModelSpec
from trt_afdet.suggest import nearest

Frame = npt.NDArray[np.uint8]


class EngineNotSupportedError(AfdetError, NotImplementedError):
    """The file needs a backend that this version does not have."""


class Detector:
    """A detector ready to run.

    ``detector(frame)`` gives :class:`Detections`, ``detector([frame, ...])`` a list of them.
    Use it as a context manager, or call :meth:`close`.

    A detector may be called from several threads if its backend may (ONNX Runtime may);
    :attr:`times` then mixes their figures.

    Args:
        backend: Runs the network.
        conf, iou, max_detections: Replace the spec's score threshold, NMS IoU and maximum.
        classes: Names or ids of the classes to look for; all by default.

    Attributes:
        spec: The network's spec with the replacements.
        times: Milliseconds of every stage.

    Raises:
        InvalidValueError: If a value is out of range or a class is unknown.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        conf: float | None = None,
        iou: float | None = None,
        max_detections: int | None = None,
        classes: Iterable[str | int] | None = None,
    ) -> None:
        changes = {"score_threshold": conf, "nms_iou": iou, "max_detections": max_detections}
        self.backend = backend
        self.spec: ModelSpec = backend.spec.replace(
            **{name: value for name, value in changes.items() if value is not None}
        )
        self.classes = None if classes is None else class_ids(classes, self.spec.class_names)
        self.times = StageTimes()

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        conf: float | None = None,
        iou: float | None = None,
        max_detections: int | None = None,
        classes: Iterable[str | int] | None = None,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> Detector:
        """Opens a model file; its suffix chooses the backend (.onnx: ONNX Runtime).

        Args:
            path: The file.
            conf, iou, max_detections, classes: See :class:`Detector`.
            threads: CPU threads of the network; the backend's choice by default.
            providers: ONNX Runtime execution providers; the CPU by default.

        Raises:
            MissingFileError, CorruptFileError, InvalidValueError: See the backend.
            MissingDependencyError: If the backend's package is not installed.
        """
        backend = open_backend(path, threads=threads, providers=providers)
        return cls(backend, conf=conf, iou=iou, max_detections=max_detections, classes=classes)

    @overload
    def __call__(self, frames: Frame) -> Detections: ...

    @overload
    def __call__(self, frames: Sequence[Frame]) -> list[Detections]: ...

    def __call__(self, frames: Frame | Sequence[Frame]) -> Detections | list[Detections]:
        """Detects objects.

        Args:
            frames: One BGR uint8 [H, W, 3] frame, or a list of such of any sizes. A list goes
                through the network as one batch (in pieces if the model file fixes its batch).

        Returns:
            Detections in pixels of each frame: one for one frame, a list for a list.

        Raises:
            InvalidValueError: If a frame is not what it must be.
            RunError: If the network fails.
        """
        if isinstance(frames, np.ndarray):
            return self._detect([frames])[0]
        step = self.backend.batch_size or len(frames) or 1
        results: list[Detections] = []
        for start in range(0, len(frames), step):
            results += self._detect(list(frames[start : start + step]))
        return results

    def _detect(self, frames: list[Frame]) -> list[Detections]:
        count = len(frames)
        with self.times.measure("preprocess", count):
            images, letterboxes = preprocess(frames, self.spec)
            fixed = self.backend.batch_size
            if fixed is not None and fixed > count:
                images = np.concatenate([images, np.repeat(images[-1:], fixed - count, axis=0)])
        with self.times.measure("network", count):
            heads = self.backend.infer(images)
        with self.times.measure("postprocess", count):
            heads = [head[:count] for head in heads]
            return postprocess(heads, self.spec, letterboxes, self.classes)

    def close(self) -> None:
        """Frees the network."""
        self.backend.close()

    def __enter__(self) -> Detector:
        self.backend.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.backend.__exit__(kind, error, trace)


def open_backend(
    path: str | Path, *, threads: int | None = None, providers: Sequence[str] | None = None
) -> Backend:
    """The backend that reads a model file, chosen by its suffix.

    Raises:
        InvalidValueError: If no backend reads such files.
        EngineNotSupportedError: For TensorRT engines.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".onnx":
        from trt_afdet.runtime.onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(path, threads=threads, providers=providers)
    if suffix in (".engine", ".plan"):
        raise EngineNotSupportedError(
            "TensorRT engines come with the TensorRT backend, which this version does not have",
            got=path,
            hint="run the model.onnx that the engine was built from",
        )
    raise InvalidValueError("a model is an .onnx file", got=path)


def class_ids(classes: Iterable[str | int], names: Sequence[str]) -> list[int]:
    """Names or ids to ascending ids without repeats.

    Raises:
        InvalidValueError: If one is unknown, with the nearest name.
    """
    ids = set()
    for wanted in classes:
        if isinstance(wanted, str) and wanted in names:
            ids.add(names.index(wanted))
            continue
        try:
            index = int(wanted)
        except ValueError:
            index = -1
        if not 0 <= index < len(names):
            raise InvalidValueError(
                "the model has no such class",
                got=wanted,
                hint=nearest(str(wanted), names) or f"it has {', '.join(names)}",
            )
        ids.add(index)
    if not ids:
        raise InvalidValueError("classes must name at least one class")
    return sorted(ids)
