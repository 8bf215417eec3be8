"""The public API, as ``import trt_afdet`` shows it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_afdet.runtime import detector as runtime


class Detector(runtime.Detector):
    __doc__ = runtime.Detector.__doc__

    def stream(
        self, source: str | int | os.PathLike[str], **options: Any
    ) -> Iterator[tuple[npt.NDArray[np.uint8], Any]]:
        """Detects on a camera, a stream, a video or a folder of pictures, frame after frame.

        Of files every frame comes, in order. Of a live camera the newest frame comes; it is
        reconnected when it fails. Leaving the loop closes the source.

        Args:
            source: An address such as ``rtsp://...``, the number of a camera, or a file.
            options: ``conf``, ``classes``, ``track``, ``zones``, ``every`` and ``realtime`` of
                :func:`trt_afdet.watch`.

        Yields:
            The frame, BGR uint8 [H, W, 3], and its :class:`~trt_afdet.Detections`.

        Raises:
            InvalidValueError: If the address or an option is wrong.
            RunError: If the detector or the source fails.
        """
        from trt_afdet.stream.watch import watch

        self._check_open()
        running = watch(source, model=self, **options)
        assert running is not None

        def frames() -> Iterator[tuple[npt.NDArray[np.uint8], Any]]:
            with running:
                for result in running:
                    yield result.frame.image, result.detections

        return frames()
