"""What the runner's tests need of a machine: a device, kernels, a network."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.skips import skip_test
from tests.trt_afdet.onnx_models import SPEC, build_model
from tests.trt_afdet.runtime.host_device import HostDevice, HostKernels, OrtNetwork
from trt_afdet import native
from trt_afdet.assets import ASSETS, SHIPPED_MODEL
from trt_afdet.detections import Detections
from trt_afdet.media import open_inputs
from trt_afdet.runtime.detector import Detector
from trt_afdet.runtime.runner import Runner
from trt_afdet.spec import ModelSpec

MODEL = build_model().SerializeToString()


@cache
def shipped() -> tuple[bytes, ModelSpec, list[npt.NDArray[np.uint8]]]:
    """The shipped detector's file and spec, and frames of the shipped clip."""
    with Detector.load(SHIPPED_MODEL) as detector:
        spec = detector.spec
    with open_inputs(ASSETS / "clip.mp4") as source:
        frames = [frame.image for frame in source if frame.index % 40 == 20]
    return SHIPPED_MODEL.read_bytes(), spec, frames


class HostRig:
    """Everything on the host. After a test nothing may be left on any device.

    Attributes:
        gpu: Whether this is the real thing.
        lost: Devices that failed for good, so that nothing on them could be freed.
    """

    gpu = False

    def __init__(self) -> None:
        self._made: list[tuple[HostDevice, Runner | None]] = []
        self.lost: list[HostDevice] = []

    def __enter__(self) -> HostRig:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for device, runner in self._made:
            device.fail_with = None
            if runner is not None:
                runner.close()
        for device, _runner in self._made:
            if kind is None and device not in self.lost:
                assert device.held() == []

    def device(self, seed: int | None = None, **options: Any) -> HostDevice:
        device = HostDevice(seed, **options)
        self._made.append((device, None))
        return device

    def kernels(self, device: HostDevice) -> HostKernels:
        try:
            return HostKernels(device, native.emulated())
        except native.NativeMissingError as error:
            skip_test(error, "make native-host")

    def runner(
        self,
        model: bytes = MODEL,
        spec: ModelSpec = SPEC,
        batches: tuple[int, int, int] = (1, 2, 4),
        *,
        device: HostDevice | None = None,
        seed: int | None = None,
        kernels: bool = True,
        dtype: str = "float32",
        keeps_batches: bool = True,
        graphs: bool = True,
    ) -> Runner:
        device = device or HostDevice(seed)
        network = OrtNetwork(device, model, batches, dtype=dtype, keeps_batches=keeps_batches)
        found = self.kernels(device) if kernels else None
        self._made.append((device, None))
        runner = Runner(network, device, spec, found, graphs=graphs)
        self._made[-1] = (device, runner)
        return runner


def scene(seed: int = 0, height: int = 300, width: int = 400) -> npt.NDArray[np.uint8]:
    """Blocks of colour, so that the pooling network sees contrast."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    rows = -(-height // 6)
    columns = -(-width // 8)
    big = np.kron(small, np.ones((rows, columns, 1), np.uint8))
    return np.ascontiguousarray(big[:height, :width])


def equal(got: Detections, want: Detections, pixels: float = 1e-3) -> None:
    """The same detections in the same order."""
    assert len(got) == len(want) > 0
    assert got.class_id.tolist() == want.class_id.tolist()
    np.testing.assert_allclose(got.confidence, want.confidence, atol=1e-5)
    np.testing.assert_allclose(got.xyxy, want.xyxy, atol=pixels)


def overlaps(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """IoU of each box of a with each of b."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.prod(np.clip(high - low, 0, None), axis=2)
    area = [np.prod(x[:, 2:] - x[:, :2], axis=1) for x in (a, b)]
    return np.asarray(inter / (area[0][:, None] + area[1][None] - inter), np.float64)


def near(
    got: Detections, want: Detections, score: float = 0.02, iou: float = 0.9, above: float = 0.3
) -> None:
    """Every confident detection of either has a partner in the other: class, score and place."""
    for first, second in ((got, want), (want, got)):
        lowest = above + score
        assert (first.confidence > lowest).any()
        table = overlaps(first.xyxy, second.xyxy)
        table[first.class_id[:, None] != second.class_id[None]] = 0
        table[np.abs(first.confidence[:, None] - second.confidence[None]) > score] = 0
        best = table.max(axis=1)
        alone = (best < iou) & (first.confidence > lowest)
        assert not alone.any(), (first[alone].to_dicts(), best[alone])
