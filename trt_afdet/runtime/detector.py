"""Detector: frames in, detections out, whatever runs the network."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Sequence, Sized
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar, overload

from trt_afdet.assets import SHIPPED_MODEL
from trt_afdet.detections import Detections
from trt_afdet.errors import AfdetError, InvalidValueError, RunError
from trt_afdet.media.image_input import Frame, is_one, several, to_frame
from trt_afdet.runtime.backend import Backend, Ticket
from trt_afdet.runtime.model_errors import kind_of
from trt_afdet.runtime.times import StageTimes
from trt_afdet.spec import ModelSpec
from trt_afdet.support.arguments import class_ids, count, fraction

if TYPE_CHECKING:
    from PIL.Image import Image

#: What stands for a picture; :mod:`trt_afdet.media.image_input` has the whole list.
Picture: TypeAlias = "Frame | str | Path | bytes | Image"

_Detector = TypeVar("_Detector", bound="Detector")

#: Pictures of a generator that are in memory at a time.
CHUNK = 16


class Detector:
    """A detector ready to run. :class:`trt_afdet.Detector` documents its arguments."""

    def __init__(
        self,
        model: str | Path | Backend | None = None,
        *,
        conf: float | None = None,
        iou: float | None = None,
        max_detections: int | None = None,
        classes: str | int | Iterable[str | int] | None = None,
        device: int | str | None = None,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        rebuild: bool = False,
    ) -> None:
        changes = {
            "score_threshold": fraction("conf (score_threshold)", conf),
            "nms_iou": fraction("iou (nms_iou)", iou),
            "max_detections": count("max_detections", max_detections),
        }
        backend = SHIPPED_MODEL if model is None else model
        if not isinstance(backend, Backend):
            backend = open_backend(
                backend, device=device, threads=threads, providers=providers, rebuild=rebuild
            )
        self.backend = backend
        self.times = StageTimes()
        self._closed = False
        try:
            self.spec: ModelSpec = backend.spec.replace(
                **{name: value for name, value in changes.items() if value is not None}
            )
            if backend.has_nms:
                check_built_in(backend.spec, self.spec)
            self.classes = None if classes is None else class_ids(classes, self.spec.class_names)
            backend.configure(self.spec, self.classes)
        except AfdetError:
            if backend is not model:
                backend.close()
            raise

    @classmethod
    def load(cls: type[_Detector], path: str | Path, **options: Any) -> _Detector:
        """Opens a model file, with the same options as :class:`Detector`."""
        check_path(path)
        return cls(path, **options)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the model's classes."""
        return self.spec.class_names

    @overload
    def __call__(self, frames: Picture, *, rgb: bool = ...) -> Detections: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, frames: Iterable[Picture], *, rgb: bool = ...) -> list[Detections]: ...

    def __call__(self, frames: Any, *, rgb: bool = False) -> Detections | list[Detections]:
        """Detects objects.

        Args:
            frames: One picture: a BGR uint8 [H, W, 3] array, a path, a PIL image and whatever else
                :mod:`trt_afdet.media.image_input` takes. Or several, of any size and kind.
                A list goes through the network as one batch (in pieces if the model file fixes its
                batch), a generator in pieces of :data:`CHUNK`.
            rgb: Arrays are RGB instead of BGR. Files and PIL images know their order.

        Returns:
            Detections in pixels of each picture: one for one, a list for several.

        Raises:
            InvalidValueError: If a picture is not what it must be.
            MissingFileError, CorruptFileError: If one cannot be read.
            RunError: If the network fails, or the detector is closed.
        """
        self._check_open()
        if is_one(frames):
            return self.collect(self.submit([to_frame(frames, rgb=rgb)]))[0]
        given = (to_frame(frame, rgb=rgb) for frame in several(frames))
        if isinstance(frames, Sized):
            return self._batch(list(given))
        results: list[Detections] = []
        while chunk := list(islice(given, CHUNK)):
            results += self._batch(chunk)
        return results

    def _batch(self, frames: list[Frame]) -> list[Detections]:
        """Detects in frames that are as they must be."""
        step = self.max_batch or len(frames) or 1
        tickets = [self.submit(frames[i : i + step]) for i in range(0, len(frames), step)]
        return [found for ticket in tickets for found in self.collect(ticket)]

    @property
    def is_async(self) -> bool:
        """Whether :meth:`submit` returns before the work is done."""
        return self.backend.is_async

    @property
    def max_batch(self) -> int | None:
        """Most frames of one :meth:`submit`; None if any number goes."""
        return self.backend.max_batch

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
        return self.backend.submit([to_frame(frame) for frame in frames])

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

    def close(self) -> None:
        """Frees the network; closing twice is fine."""
        self._closed = True
        self.backend.close()

    def __reduce__(self) -> NoReturn:
        raise InvalidValueError(
            "a detector can neither be copied nor sent to another process",
            hint="open one in each: Detector(path)",
        )

    def _check_open(self) -> None:
        if self._closed:
            raise RunError("the detector is closed", hint="open it again: Detector(path)")

    def __enter__(self) -> Detector:
        self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_path(path: object) -> None:
    """Refuses what cannot name a model file.

    Raises:
        InvalidValueError: If it is neither a text nor a path, or empty.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        shown = repr(path) if path is None or path == "" else type(path).__name__
        raise InvalidValueError("a model is named by its path", got=shown)


def device_index(device: int | str | None) -> int | None:
    """The number of a GPU: 1, "1", "cuda:1", "cuda"; -1 for "cpu"; None stays None.

    Raises:
        InvalidValueError: If it is none of these.
    """
    if device is None:
        return None
    text = str(device).strip().lower().removeprefix("cuda").removeprefix(":")
    if text == "cpu":
        return -1
    if isinstance(device, bool) or not (text.isdecimal() or (text == "" and device)):
        raise InvalidValueError('a device is a number, "cuda:1" or "cpu"', got=repr(device))
    return int(text or 0)


def open_backend(
    path: str | Path,
    *,
    device: int | str | None = None,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    rebuild: bool = False,
) -> Backend:
    """The backend that reads a model file, chosen by its suffix.

    Raises:
        InvalidValueError: If no backend reads such files.
    """
    check_path(path)
    index = device_index(device)
    threads = count("threads", threads)
    if isinstance(providers, str):
        providers = [providers]
    suffix = Path(path).suffix.lower()
    if suffix == ".onnx":
        from trt_afdet.runtime.onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(path, threads=threads, providers=providers, device=index)
    if suffix in (".engine", ".plan"):
        from trt_afdet.runtime.engine import open_engine

        if index == -1:
            raise InvalidValueError(
                "an engine runs on a GPU", got="device cpu", hint="the .onnx file runs on the CPU"
            )
        return open_engine(path, rebuild=rebuild, index=index or 0)
    kind, hint = kind_of(Path(path)) or (None, None)
    got = f"{path}, {kind}" if kind else path
    raise InvalidValueError("a model is an .onnx or an .engine file", got=got, hint=hint)


def check_built_in(built: ModelSpec, wanted: ModelSpec) -> None:
    """Checks that detections made as ``built`` says can be cut to what ``wanted`` says.

    Raises:
        InvalidValueError: If they cannot: a lower score threshold, another IoU, more detections.
    """
    for name, what, fits in (
        ("score_threshold", "score threshold {} cannot be lowered", operator.ge),
        ("nms_iou", "NMS IoU {} cannot be changed", operator.eq),
        ("max_detections", "maximum of detections {} cannot be raised", operator.le),
    ):
        asked, fixed = getattr(wanted, name), getattr(built, name)
        if not fits(asked, fixed):
            raise InvalidValueError(
                f"the model ends in NMS: its {what.format(fixed)}",
                got=asked,
                hint="the model without NMS takes any",
            )
