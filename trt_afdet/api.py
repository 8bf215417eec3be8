"""The public API, as ``import trt_afdet`` shows it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_afdet.detections import Detections
from trt_afdet.runtime import detector as runtime


class Detector(runtime.Detector):
    """A detector ready to run.

    ``detector(picture)`` gives :class:`Detections`, ``detector([picture, ...])`` a list of them.
    Use it as a context manager, or call :meth:`close`. Several threads may call one detector.

    Args:
        model: A model file, or an open backend; the shipped model by default. ONNX Runtime runs
            .onnx files, TensorRT runs .engine and .plan files.
        conf: Lowest confidence, 0..1; the model's own by default, as for the next two.
        iou: NMS IoU, 0..1.
        max_detections: Most detections per picture.
        classes: Names or ids of the classes to look for; all by default.
        device: Number of the GPU, also as "cuda:1", or "cpu". By default an engine runs on GPU 0
            and an ONNX file on the CPU.
        threads: CPU threads of the network; the backend's choice by default.
        providers: ONNX Runtime execution providers, instead of ``device``.
        rebuild: Build an engine that does not fit this machine again, from the ONNX file beside it.

    A network that ends in NMS has thresholds built in: only a higher ``conf`` and a lower
    ``max_detections`` can be asked of it.

    Attributes:
        spec: The model's spec with these values.
        times: Milliseconds of every stage.

    Raises:
        MissingFileError, CorruptFileError: If the file is missing or damaged.
        InvalidValueError: If a value is out of range or cannot be changed, or a class is unknown.
        MissingDependencyError: If the package that runs the model is not installed.
        RunError: If there is no such GPU.
    """

    def stream(
        self,
        source: str | int | os.PathLike[str],
        *,
        conf: float | None = None,
        classes: Sequence[str] | None = None,
        track: bool = False,
        zones: Mapping[str, Any] | None = None,
        every: int = 1,
        realtime: bool = False,
    ) -> Iterator[tuple[npt.NDArray[np.uint8], Detections]]:
        """Detects on a camera, a stream, a video or a folder of pictures, frame after frame.

        A file yields every frame, in order. A live camera yields its newest frame and is
        reconnected when it fails. Leaving the loop closes the source.

        Args:
            source: An address such as ``rtsp://...``, the number of a camera, or a file.
            conf: Lowest confidence, 0..1; the detector's by default.
            classes: Names of the classes to report.
            track: Number the objects.
            zones: Zones and lines, as :func:`trt_afdet.watch` takes them.
            every: Detect on one frame in so many; tracks continue in between.
            realtime: Play files at their own pace.

        Yields:
            The frame, BGR uint8 [H, W, 3], and its detections.

        Raises:
            InvalidValueError: If the address or an option is wrong.
            RunError: If the detector or the source fails.
        """
        from trt_afdet.live.watch import watch

        self._check_open()
        running = watch(
            source,
            model=self,
            conf=conf,
            classes=classes,
            track=track,
            zones=zones,
            every=every,
            realtime=realtime,
        )
        assert running is not None

        def frames() -> Iterator[tuple[npt.NDArray[np.uint8], Detections]]:
            with running:
                for result in running:
                    yield result.image, result.detections

        return frames()
