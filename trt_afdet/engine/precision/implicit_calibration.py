"""Pictures for TensorRT's own INT8 calibrator (8.x and 10.x), which runs them on the GPU."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt

from trt_afdet.datasets.index import ProgressLike
from trt_afdet.engine.onnx.model_file import Canonical
from trt_afdet.engine.plan import BuildPlan
from trt_afdet.engine.precision.calibration import FEWEST, calibration_key
from trt_afdet.engine.sample_pictures import Frame, open_pictures
from trt_afdet.errors import AfdetError, InvalidValueError, RunError
from trt_afdet.preprocess import preprocess
from trt_afdet.runtime.device import Resources
from trt_afdet.runtime.devices import open_device
from trt_afdet.support.files import write_text


class ImplicitCalibration:
    """Batches of preprocessed pictures in device memory; see
    :class:`trt_afdet.trt.versions.CalibrationBatches`.

    Raises:
        InvalidValueError: If too few pictures can be read.
        MissingDependencyError: If neither pycuda nor cuda-python is installed.
    """

    def __init__(self, plan: BuildPlan, source: Canonical, progress: ProgressLike) -> None:
        options = plan.options
        assert options.calib is not None
        pictures = open_pictures(options.calib).spread(options.calib_images)
        # In place of a method of ours.
        method = f"implicit entropy {plan.flavour}"
        self.calibration_key = calibration_key(
            source.sha256, pictures, source.spec, method, options.keep
        )
        # TensorRT calibrates with the profile's best batch.
        self.size = options.batch[1]
        self._cache = plan.calib_cache
        self._spec = spec = source.spec
        self._pictures = pictures
        self._failure: Exception | None = None
        self._unkept: AfdetError | None = None
        self._batches: Iterator[npt.NDArray[np.float32]] = iter(())
        if self.read_cache() is None:
            # Looks for enough readable pictures before the GPU is kept busy.
            least = max(FEWEST, self.size)
            if (found := sum(1 for _ in islice(pictures, least))) < least:
                raise InvalidValueError(
                    f"calibration needs at least {least} readable pictures",
                    got=f"{found} of {len(pictures)} in {pictures.source}",
                )
            pictures.skipped.clear()
            self._batches = self._read(pictures.shown(progress, "calibrating"))
        self._device = open_device()
        self._resources = Resources(self._device)
        with self._device.active():
            size = self.size * 3 * spec.height * spec.width * 4
            self._address = self._resources.memory(size)
            self._pinned = self._resources.pinned(size)
            self._stream = self._resources.stream()

    def _read(self, items: Iterable[tuple[int, Frame]]) -> Iterator[npt.NDArray[np.float32]]:
        """Full batches; TensorRT takes no others."""
        frames = (frame for _, frame in items)
        while len(batch := list(islice(frames, self.size))) == self.size:
            yield preprocess(batch, self._spec)[0]

    def next_address(self) -> int | None:
        """Where the next batch lies, float32 [size, 3, H, W]; None after the last."""
        try:
            images = next(self._batches, None)
            if images is None:
                return None
            with self._device.active():
                self._pinned[:] = images.reshape(-1).view(np.uint8)
                self._device.copy_in(self._address, self._pinned, self._stream)
                self._device.synchronize(self._stream)
            return self._address
        except Exception as error:  # TensorRT would take it for the last batch.
            self._failure = error
            return None

    def read_cache(self) -> bytes | None:
        """The result in the cache's file, if that is whole and of this key."""
        try:
            raw = json.loads(self._cache.read_text(encoding="utf-8"))
            data = base64.b64decode(raw["cache"], validate=True)
            whole = raw["sha256"] == hashlib.sha256(data).hexdigest()
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return data if whole and raw.get("key") == self.calibration_key else None

    def write_cache(self, cache: bytes) -> None:
        """Keeps the result; that it cannot be kept is told at the end, and no reason to stop."""
        if self._failure is not None:
            return
        raw = {
            "key": self.calibration_key,
            "sha256": hashlib.sha256(cache).hexdigest(),
            "cache": base64.b64encode(cache).decode(),
        }
        try:
            write_text(self._cache, json.dumps(raw, indent=1) + "\n")
        except AfdetError as error:
            self._unkept = error

    def finish(self, warn: Callable[[str], None]) -> None:
        """Frees the memory, and tells what went wrong while TensorRT read.

        Raises:
            AfdetError: If not all pictures could be given to TensorRT.
        """
        self._resources.close()
        self._device.close()
        if isinstance(self._failure, AfdetError):
            raise self._failure
        if self._failure is not None:
            raise RunError("calibration stopped early", got=self._failure) from self._failure
        if self._pictures.skipped:
            warn(f"{len(self._pictures.skipped)} of {len(self._pictures)} pictures unreadable")
        if self._unkept is not None:
            warn(f"the calibration is not kept: {self._unkept}")
