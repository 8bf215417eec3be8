"""What a backend is: a network that can be opened, run and closed."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from trt_afdet.spec import ModelSpec

if TYPE_CHECKING:
    from trt_afdet.detections import Detections


@runtime_checkable
class Backend(Protocol):
    """Runs a network. Entering the context opens it, leaving closes it; ``infer`` opens it too.

    Attributes:
        spec: What the network expects and returns.
        batch_size: Images per call if the file fixes it, else None.
        has_nms: Whether the network ends in NMS: it gives detections instead of heads.
    """

    spec: ModelSpec
    batch_size: int | None
    has_nms: bool

    def infer(self, images: npt.NDArray[np.float32]) -> list[npt.NDArray[Any]]:
        """Runs the network.

        Args:
            images: float32 [N, 3, H, W], normalised.

        Returns:
            Heads in the order of ``spec.output_names``; if :attr:`has_nms`, detections in the
            order of :data:`trt_afdet.interface.DETECTION_NAMES`. Each with N in front.

        Raises:
            InvalidValueError: If the images' shape is not what the network takes.
            RunError: If the run fails.
        """
        ...

    def close(self) -> None:
        """Frees the network; closing twice is fine."""
        ...

    def __enter__(self) -> Backend: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


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
        ...


@runtime_checkable
class FrameBackend(Backend, Protocol):
    """A backend that goes from frames to detections by itself, as a GPU does.

    Attributes:
        max_batch: Most frames that can be submitted together.
    """

    max_batch: int

    def configure(self, spec: ModelSpec, classes: Sequence[int] | None) -> None:
        """Sets thresholds, limits and classes of everything submitted from now on."""
        ...

    def submit(self, frames: Sequence[npt.NDArray[np.uint8]]) -> Ticket:
        """Sends frames (BGR uint8 [H, W, 3] of any sizes) on their way without waiting for them.

        Raises:
            InvalidValueError: If a frame is not what it must be, or there are too many.
            RunError: If the device fails.
        """
        ...
