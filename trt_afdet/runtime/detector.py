"""Detector: frames in, detections out, whatever runs the network."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence, Sized
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, overload

import numpy as np

from trt_afdet.detections import Detections
from trt_afdet.errors import AfdetError, InvalidValueError, RunError
from trt_afdet.postprocess import from_outputs, postprocess
from trt_afdet.preprocess import preprocess
from trt_afdet.runtime.backend import Backend, FrameBackend, Ticket
from trt_afdet.runtime.image_input import Frame, is_one, several, to_frame
from trt_afdet.runtime.model_errors import kind_of
from trt_afdet.runtime.options import class_ids, count, share
from trt_afdet.runtime.times import StageTimes
from trt_afdet.spec import ModelSpec

if TYPE_CHECKING:
    from PIL.Image import Image

#: What stands for a picture; :mod:`trt_afdet.runtime.image_input` has the whole list.
Picture: TypeAlias = "Frame | str | Path | bytes | Image"

#: Pictures of a generator that are in memory at a time.
CHUNK = 16


class Detector:
    """A detector ready to run.

    ``detector(frame)`` gives :class:`Detections`, ``detector([frame, ...])`` a list of them.
    Use it as a context manager, or call :meth:`close`.

    A detector may be called from several threads, as ONNX Runtime and engines may;
    :attr:`times` then mixes their figures.

    Args:
        backend: Runs the network.
        conf, iou, max_detections: Replace the spec's score threshold, NMS IoU and maximum. They
            are built into a network that ends in NMS: of that only a higher threshold and a lower
            maximum can be asked for.
        classes: Names or ids of the classes to look for; all by default. Of a network that ends in
            NMS the others are left out afterwards.

    Attributes:
        spec: The network's spec with the replacements.
        times: Milliseconds of every stage.

    Raises:
        InvalidValueError: If a value is out of range or cannot be changed, or a class is unknown.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        conf: float | None = None,
        iou: float | None = None,
        max_detections: int | None = None,
        classes: str | int | Iterable[str | int] | None = None,
    ) -> None:
        if isinstance(backend, (str, os.PathLike)):
            raise InvalidValueError(
                "a detector is opened from a file by Detector.load",
                got=os.fspath(backend),
                hint="Detector.load(path)",
            )
        changes = {
            "score_threshold": share("conf (score_threshold)", conf),
            "nms_iou": share("iou (nms_iou)", iou),
            "max_detections": count("max_detections", max_detections),
        }
        self.backend = backend
        self.spec: ModelSpec = backend.spec.replace(
            **{name: value for name, value in changes.items() if value is not None}
        )
        if backend.finished:
            check_built_in(backend.spec, self.spec)
        self.classes = None if classes is None else class_ids(classes, self.spec.class_names)
        self.times = StageTimes()
        self._closed = False
        if isinstance(backend, FrameBackend):
            backend.configure(self.spec, self.classes)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        conf: float | None = None,
        iou: float | None = None,
        max_detections: int | None = None,
        classes: str | int | Iterable[str | int] | None = None,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        rebuild: bool = False,
    ) -> Detector:
        """Opens a model file; its suffix chooses the backend.

        ONNX Runtime runs .onnx files, TensorRT .engine and .plan files.

        Args:
            path: The file.
            conf, iou, max_detections, classes: See :class:`Detector`.
            threads: CPU threads of the network; the backend's choice by default.
            providers: ONNX Runtime execution providers; the CPU by default.
            rebuild: Whether to build an engine that does not fit this machine again, from the ONNX
                file beside it.

        Raises:
            MissingFileError, CorruptFileError, InvalidValueError, RunError: See the backend.
            MissingDependencyError: If the backend's package is not installed.
        """
        backend = open_backend(path, threads=threads, providers=providers, rebuild=rebuild)
        try:
            return cls(backend, conf=conf, iou=iou, max_detections=max_detections, classes=classes)
        except AfdetError:
            backend.close()
            raise

    @overload
    def __call__(self, frames: Picture) -> Detections: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, frames: Iterable[Picture]) -> list[Detections]: ...

    def __call__(self, frames: Any) -> Detections | list[Detections]:
        """Detects objects.

        Args:
            frames: One picture: a BGR uint8 [H, W, 3] array, a path, a PIL image and whatever else
                :mod:`trt_afdet.runtime.image_input` takes. Or several, of any size and kind.
                A list goes through the network as one batch (in pieces if the model file fixes its
                batch), a generator in pieces of :data:`CHUNK`.

        Returns:
            Detections in pixels of each picture: one for one, a list for several.

        Raises:
            InvalidValueError: If a picture is not what it must be.
            MissingFileError, CorruptFileError: If one cannot be read.
            RunError: If the network fails, or the detector is closed.
        """
        self._check_open()
        if is_one(frames):
            return self.collect(self.submit([frames]))[0]
        given = several(frames)
        if isinstance(frames, Sized):
            return self._batch([to_frame(frame) for frame in given])
        results: list[Detections] = []
        while chunk := [to_frame(frame) for frame in islice(given, CHUNK)]:
            results += self._batch(chunk)
        return results

    def _batch(self, frames: list[Frame]) -> list[Detections]:
        """Detects in frames that are as they must be."""
        if isinstance(self.backend, FrameBackend):
            step = self.backend.max_batch
            tickets = [self.submit(frames[i : i + step]) for i in range(0, len(frames), step)]
            return [found for ticket in tickets for found in self.collect(ticket)]
        step = self.backend.batch_size or len(frames) or 1
        results: list[Detections] = []
        for start in range(0, len(frames), step):
            results += self._detect(list(frames[start : start + step]))
        return results

    @property
    def overlaps(self) -> bool:
        """Whether :meth:`submit` returns before the work is done."""
        return isinstance(self.backend, FrameBackend)

    @property
    def max_batch(self) -> int | None:
        """Most frames of one :meth:`submit`; None if any number goes."""
        if isinstance(self.backend, FrameBackend):
            return self.backend.max_batch
        return self.backend.batch_size

    def submit(self, frames: Sequence[Picture]) -> Ticket:
        """Sends frames on their way, to be collected later: on a GPU, without waiting for them.

        Keep one or two batches under way to have upload, network and download overlap.

        Args:
            frames: As many as one batch takes, see :meth:`__call__`. They may be changed as soon
                as this returns.

        Raises:
            InvalidValueError: If a frame is not what it must be, or there are too many.
            RunError: If the network fails.
        """
        self._check_open()
        ready = [to_frame(frame) for frame in frames]
        if isinstance(self.backend, FrameBackend):
            return self.backend.submit(ready)
        return _Done(self._detect(ready))

    def collect(self, ticket: Ticket) -> list[Detections]:
        """The detections of submitted frames; waits for them.

        Raises:
            RunError: If the network failed.
        """
        if not callable(getattr(ticket, "detections", None)):
            raise InvalidValueError("collect takes what submit returned", got=type(ticket).__name__)
        found = ticket.detections()
        for stage, seconds in ticket.seconds.items():
            self.times.record(stage, seconds, ticket.count)
        return found

    def _detect(self, frames: list[Frame]) -> list[Detections]:
        count = len(frames)
        with self.times.measure("preprocess", count):
            images, letterboxes = preprocess(frames, self.spec)
            fixed = self.backend.batch_size
            if fixed is not None and fixed > count:
                images = np.concatenate([images, np.repeat(images[-1:], fixed - count, axis=0)])
        with self.times.measure("network", count):
            outputs = self.backend.infer(images)
        with self.times.measure("postprocess", count):
            outputs = [output[:count] for output in outputs]
            if not self.backend.finished:
                return postprocess(outputs, self.spec, letterboxes, self.classes)
            raised = self.spec.score_threshold > self.backend.spec.score_threshold
            above = self.spec.score_threshold if raised else None
            return from_outputs(outputs, self.spec, letterboxes, self.classes, above=above)

    def close(self) -> None:
        """Frees the network; closing twice is fine."""
        self._closed = True
        self.backend.close()

    def __reduce__(self) -> NoReturn:
        raise InvalidValueError(
            "a detector can neither be copied nor sent to another process",
            hint="open one in each: Detector.load(path)",
        )

    def _check_open(self) -> None:
        if self._closed:
            raise RunError("the detector is closed", hint="open it again with Detector.load")

    def __enter__(self) -> Detector:
        self._check_open()
        self.backend.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        self.backend.__exit__(kind, error, trace)


class _Done:
    """A ticket of a backend that has done the work already."""

    def __init__(self, found: list[Detections]) -> None:
        self.count = len(found)
        self.seconds: dict[str, float] = {}
        self._found = found

    def detections(self) -> list[Detections]:
        return self._found


def open_backend(
    path: str | Path,
    *,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    rebuild: bool = False,
) -> Backend:
    """The backend that reads a model file, chosen by its suffix.

    Raises:
        InvalidValueError: If no backend reads such files.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        shown = repr(path) if path is None or path == "" else type(path).__name__
        raise InvalidValueError("a model is named by its path", got=shown)
    threads = count("threads", threads)
    if isinstance(providers, str):
        providers = [providers]
    suffix = Path(path).suffix.lower()
    if suffix == ".onnx":
        from trt_afdet.runtime.onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(path, threads=threads, providers=providers)
    if suffix in (".engine", ".plan"):
        from trt_afdet.runtime.engine import open_engine

        return open_engine(path, rebuild=rebuild)
    kind, hint = kind_of(Path(path)) or (None, None)
    raise InvalidValueError(
        "a model is an .onnx or an .engine file",
        got=f"{path}, {kind}" if kind else path,
        hint=hint or None,
    )


def check_built_in(built: ModelSpec, wanted: ModelSpec) -> None:
    """Checks that detections made as ``built`` says can be cut to what ``wanted`` says.

    Raises:
        InvalidValueError: If they cannot: a lower score threshold, another IoU, more detections.
    """
    if wanted.score_threshold < built.score_threshold:
        asked: float = wanted.score_threshold
        fixed = f"score threshold {built.score_threshold} cannot be lowered"
    elif wanted.nms_iou != built.nms_iou:
        asked = wanted.nms_iou
        fixed = f"NMS IoU {built.nms_iou} cannot be changed"
    elif wanted.max_detections > built.max_detections:
        asked = wanted.max_detections
        fixed = f"maximum of detections {built.max_detections} cannot be raised"
    else:
        return
    raise InvalidValueError(
        f"the model ends in NMS: its {fixed}", got=asked, hint="the model without NMS takes any"
    )
