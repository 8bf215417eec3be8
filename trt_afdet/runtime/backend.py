"""What a backend is: a network that can be opened, run and closed."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from trt_afdet.spec import ModelSpec


@runtime_checkable
class Backend(Protocol):
    """Runs a network. Entering the context opens it, leaving closes it; ``infer`` opens it too.

    Attributes:
        spec: What the network expects and returns.
        batch_size: Images per call if the file fixes it, else None.
        finished: Whether the network ends in NMS: it gives detections instead of heads.
    """

    spec: ModelSpec
    batch_size: int | None
    finished: bool

    def infer(self, images: npt.NDArray[np.float32]) -> list[npt.NDArray[Any]]:
        """Runs the network.

        Args:
            images: float32 [N, 3, H, W], normalised.

        Returns:
            Heads in the order of ``spec.output_names``; if :attr:`finished`, detections in the
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
