"""What runs a network: from frames to detections, whatever is behind it.

A backend has ``spec``, ``has_nms``, ``batch_size``, ``max_batch`` and ``is_async``, and the methods
of :class:`Backend`. :class:`HostBackend` is the base of backends that only run the network;
the CPU does letterbox and boxes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from trt_afdet.detections import Detections
from trt_afdet.errors import InvalidValueError
from trt_afdet.postprocess import from_outputs, postprocess
from trt_afdet.preprocess import preprocess
from trt_afdet.runtime.times import StageTimes
from trt_afdet.spec import ModelSpec

Frame = npt.NDArray[np.uint8]


class Ticket(Protocol):
    """Frames that were submitted.

    Attributes:
        count: How many.
        seconds: What each stage took, once the detections were collected.
    """

    count: int
    seconds: dict[str, float]

    def detections(self) -> list[Detections]:
        """Waits for the detections: one for each frame, in its pixels.

        Raises:
            RunError: If the run failed.
        """


@runtime_checkable
class Backend(Protocol):
    """Runs a model on frames.

    Attributes:
        spec: What the network expects and returns.
        has_nms: Whether the network ends in NMS: it gives detections instead of heads.
        batch_size: Images per run if the file fixes it, else None.
        max_batch: Most frames of one ``submit``; None if any number goes.
        is_async: Whether ``submit`` returns before the work is done.
    """

    spec: ModelSpec
    has_nms: bool
    batch_size: int | None
    is_async: bool

    @property
    def max_batch(self) -> int | None: ...

    def configure(self, spec: ModelSpec, classes: Sequence[int] | None) -> None:
        """Sets thresholds, limits and classes of everything submitted from now on."""

    def submit(self, frames: Sequence[Frame]) -> Ticket:
        """Sends frames (BGR uint8 [H, W, 3] of any sizes) on their way.

        Raises:
            InvalidValueError: If a frame is not what it must be, or there are too many.
            RunError: If the run fails.
        """

    def infer(self, images: npt.NDArray[np.float32]) -> list[npt.NDArray[Any]]:
        """Runs the network alone.

        Args:
            images: float32 [N, 3, H, W], normalised.

        Returns:
            Heads in the order of ``spec.output_names``; if :attr:`has_nms`, detections in the
            order of :data:`trt_afdet.interface.DETECTION_NAMES`. Each with N in front.

        Raises:
            InvalidValueError: If the images' shape is not what the network takes.
            RunError: If the run fails.
        """

    def close(self) -> None:
        """Frees the network; closing twice is fine."""


def check_images(
    images: npt.NDArray[Any], shape: tuple[int, ...], batch: int | None = None
) -> None:
    """Refuses what ``infer`` does not take: a shape without the batch, and a batch that is fixed.

    Raises:
        InvalidValueError: If the images are not float32 of that shape.
    """
    fits = images.dtype == np.float32 and images.ndim == 4 and images.shape[1:] == shape
    if not fits or batch not in (None, len(images)):
        raise InvalidValueError(
            f"images must be float32 [{batch or 'N'}, {', '.join(map(str, shape))}]",
            got=f"{images.dtype} {list(images.shape)}",
        )


_Host = TypeVar("_Host", bound="HostBackend")


class HostBackend(ABC):
    """A :class:`Backend` that implements ``infer``; the CPU does the rest, at once.

    Subclasses set ``spec``, and ``has_nms`` and ``batch_size`` where they differ.
    """

    spec: ModelSpec
    has_nms = False
    batch_size: int | None = None
    is_async = False
    _wanted: tuple[ModelSpec, Sequence[int] | None] | None = None

    @property
    def max_batch(self) -> int | None:
        return self.batch_size

    @abstractmethod
    def infer(self, images: npt.NDArray[np.float32]) -> list[npt.NDArray[Any]]:
        """See :meth:`Backend.infer`."""

    def configure(self, spec: ModelSpec, classes: Sequence[int] | None) -> None:
        self._wanted = (spec, classes)

    def submit(self, frames: Sequence[Frame]) -> HostTicket:
        spec, classes = self._wanted or (self.spec, None)
        count, times = len(frames), StageTimes()
        with times.measure("preprocess"):
            images, letterboxes = preprocess(list(frames), spec)
            if (missing := (self.batch_size or 0) - count) > 0:
                images = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
        with times.measure("network"):
            outputs = self.infer(images)
        with times.measure("postprocess"):
            heads = [output[:count] for output in outputs]
            if self.has_nms:
                raised = spec.score_threshold > self.spec.score_threshold
                above = spec.score_threshold if raised else None
                found = from_outputs(heads, spec, letterboxes, classes, above=above)
            else:
                found = postprocess(heads, spec, letterboxes, classes)
        return HostTicket(found, {stage: sum(taken) for stage, taken in times.seconds.items()})

    def close(self) -> None:  # noqa: B027 - most hold nothing to free.
        """Frees the network."""

    def __enter__(self: _Host) -> _Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class HostTicket:
    """See :class:`Ticket`; the work is done."""

    def __init__(self, found: list[Detections], seconds: dict[str, float]) -> None:
        self.count = len(found)
        self.seconds = seconds
        self._found = found

    def detections(self) -> list[Detections]:
        return self._found
