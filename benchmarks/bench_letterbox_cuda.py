"""The letterbox kernel on a GPU, compared with its byte floor, and with OpenCV and an upload.

The floor is the time to move the necessary bytes at the GPU's memory-copy rate. Each launch uses
different frames than the previous one; all frames together exceed every cache.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from table import interleaved_ms, show

from trt_afdet import native
from trt_afdet.errors import AfdetError
from trt_afdet.geometry import Letterbox
from trt_afdet.preprocess import preprocess
from trt_afdet.runtime.device import Device, Resources
from trt_afdet.runtime.devices import open_device
from trt_afdet.spec import ModelSpec

SPEC = ModelSpec(name="bench", class_names=("any",), height=512, width=512)

#: More bytes than the caches of any GPU.
COLD_BYTES = 256 << 20

SECTOR = 32


class Case(NamedTuple):
    """One case.

    Attributes:
        height, width: Size of a frame.
        nv12: Whether frames are NV12; otherwise they are BGR.
        batch: Frames per launch.
        dtype: Type of the network input.
    """

    height: int
    width: int
    nv12: bool
    batch: int
    dtype: str

    def __str__(self) -> str:
        layout = "NV12" if self.nv12 else "BGR"
        return f"{self.batch} x {self.width}x{self.height} {layout} to {self.dtype}"

    @property
    def frame_bytes(self) -> int:
        return self.height * self.width * 3 // (2 if self.nv12 else 1)

    @property
    def output_bytes(self) -> int:
        return self.batch * 3 * SPEC.height * SPEC.width * np.dtype(self.dtype).itemsize


CASES = [
    Case(1080, 1920, False, 1, "float16"),
    Case(1080, 1920, False, 1, "float32"),
    Case(1080, 1920, True, 1, "float16"),
    Case(480, 640, False, 1, "float16"),
    Case(2160, 3840, False, 1, "float16"),
    Case(1080, 1920, False, 16, "float16"),
    Case(1080, 1920, True, 16, "float16"),
]


def touched(size: int, resized: int) -> list[int]:
    """The pixels along one axis of a frame that the resize reads."""
    source = np.floor((np.arange(resized) + 0.5) * size / resized - 0.5).astype(int)
    return sorted({*np.clip(source, 0, size - 1), *np.clip(source + 1, 0, size - 1)})


def sectors(columns: list[int], pixel_bytes: int) -> int:
    """The number of memory sectors of a row that hold these pixels."""
    first = np.array(columns) * pixel_bytes
    return len({*(first // SECTOR), *((first + pixel_bytes - 1) // SECTOR)})


def bytes_moved(case: Case) -> int:
    """Bytes of one launch that reads each necessary sector once and writes the output."""
    box = Letterbox.fit(case.height, case.width, SPEC.height, SPEC.width)
    lines = touched(case.height, box.height)
    columns = touched(case.width, box.width)
    if case.nv12:
        chroma = len({line // 2 for line in lines})
        pairs = sorted({column // 2 for column in columns})
        read = len(lines) * sectors(columns, 1) + chroma * sectors(pairs, 2)
    else:
        read = len(lines) * sectors(columns, 3)
    return case.batch * read * SECTOR + case.output_bytes


def bgr(nv12: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(nv12, cv2.COLOR_YUV2BGR_NV12), np.uint8)


def describe(case: Case, address: int) -> native.FrameDescriptor:
    """The descriptor of a frame with contiguous rows."""
    box = Letterbox.fit(case.height, case.width, SPEC.height, SPEC.width)
    pixels = case.height * case.width
    return native.FrameDescriptor(
        planes=(ctypes.c_void_p * 2)(address, address + pixels),
        pitches=(ctypes.c_int32 * 2)(case.width * (1 if case.nv12 else 3), case.width),
        height=case.height,
        width=case.width,
        format=int(case.nv12),
        color=0,
        top=box.top,
        left=box.left,
        box_height=box.height,
        box_width=box.width,
    )


class Bench:
    """Measures times on one GPU."""

    def __init__(self, device: Device, library: native.CudaLibrary) -> None:
        self.device = device
        self.library = library
        self._rate = 0.0

    def median_ms(self, resources: Resources, work: Callable[[int], None], count: int) -> float:
        """Time per item of ``work``, which queues ``count`` items on the stream it gets."""
        device = self.device
        stream = resources.stream()
        start, end = resources.event(), resources.event()
        work(stream)
        device.synchronize(stream)
        graph = device.capture(stream, lambda: work(stream)) if device.has_graphs else None
        times = []
        for _ in range(30):
            device.record(start, stream)
            if graph is None:
                work(stream)
            else:
                device.launch(graph, stream)
            device.record(end, stream)
            device.synchronize(stream)
            times.append(device.elapsed_ms(start, end) / count)
        if graph is not None:
            device.destroy_graph(graph)
        return statistics.median(times)

    def bytes_per_ms(self) -> float:
        """Rate at which the GPU copies its memory, reads plus writes."""
        if not self._rate:
            resources = Resources(self.device)
            try:
                source, target = resources.memory(COLD_BYTES), resources.memory(COLD_BYTES)
                elapsed = self.median_ms(
                    resources,
                    lambda stream: self.device.copy(target, source, COLD_BYTES, stream),
                    1,
                )
            finally:
                resources.close()
            self._rate = 2 * COLD_BYTES / elapsed
        return self._rate

    def run(self, case: Case, seconds: float) -> dict[str, float]:
        """Median milliseconds of one launch, and of the alternatives with the same result."""
        resources = Resources(self.device)
        try:
            return self._run(resources, case, seconds)
        finally:
            resources.close()

    def _run(self, resources: Resources, case: Case, seconds: float) -> dict[str, float]:
        device = self.device
        launches = -(-COLD_BYTES // (case.batch * case.frame_bytes))
        size = case.batch * case.frame_bytes
        staging = resources.pinned(size)
        staging[:] = np.random.default_rng(0).integers(0, 256, size, np.uint8)
        stream = resources.stream()
        each = ctypes.sizeof(native.FrameDescriptor) * case.batch
        table = resources.pinned(launches * each)
        outputs = []
        frames = [resources.memory(size) for _ in range(launches)]
        for launch, memory in enumerate(frames):
            device.copy_in(memory, staging, stream)
            described = [describe(case, memory + i * case.frame_bytes) for i in range(case.batch)]
            self.library.check_frames(described, SPEC)
            raw = bytes((native.FrameDescriptor * case.batch)(*described))
            table[launch * each : (launch + 1) * each] = np.frombuffer(raw, np.uint8)
            outputs.append(resources.memory(case.output_bytes))
        descriptors = resources.memory(len(table))
        device.copy_in(descriptors, table, stream)
        device.synchronize(stream)

        def letterbox(launch: int, stream: int) -> None:
            self.library.letterbox(
                descriptors + launch * each,
                case.batch,
                SPEC,
                outputs[launch],
                case.dtype,
                stream,
            )

        def all_launches(stream: int) -> None:
            for launch in range(launches):
                letterbox(launch, stream)

        kernel = self.median_ms(resources, all_launches, launches)

        def upload_and_kernel() -> None:
            device.copy_in(frames[0], staging, stream)
            letterbox(0, stream)
            device.synchronize(stream)

        result = resources.pinned(case.output_bytes)
        shape = (case.height * 3 // 2, case.width) if case.nv12 else (case.height, case.width, 3)
        images = list(staging.reshape(case.batch, *shape))

        def opencv_and_upload() -> None:
            batch, _ = preprocess([bgr(image) for image in images] if case.nv12 else images, SPEC)
            result.view(case.dtype)[:] = batch.reshape(-1)
            device.copy_in(outputs[0], result, stream)
            device.synchronize(stream)

        floor = bytes_moved(case) / self.bytes_per_ms()
        whole = interleaved_ms(
            {"upload + kernel": upload_and_kernel, "OpenCV + upload": opencv_and_upload}, seconds
        )
        rate = self.bytes_per_ms() / 1e6
        return {f"byte floor at {rate:.0f} GB/s": floor, "kernel": kernel} | whole


def rows(case: Case, medians: dict[str, float]) -> list[list[str]]:
    """One row per task, rounded to 0.1 microseconds; the ratio is relative to the floor."""
    floor = next(iter(medians.values()))
    return [[str(case), name, f"{ms:.4f}", f"{ms / floor:.2f}"] for name, ms in medians.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="per case (default: 2)")
    args = parser.parse_args()
    try:
        library, device = native.cuda(), open_device()
    except AfdetError as error:
        print(f"cannot measure the letterbox kernel: {error}")
        return
    cv2.setNumThreads(1)
    bench = Bench(device, library)
    with device.active():
        lines = [line for case in CASES for line in rows(case, bench.run(case, args.seconds))]
    show(f"letterbox to {SPEC.width}x{SPEC.height} on {device.name}", lines)


if __name__ == "__main__":
    main()
