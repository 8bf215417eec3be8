"""The cost of a pipeline: overhead, many streams, overload, a dead camera, and a lockstep loader.

Frames are decoded once and kept in memory, so the benchmark measures scheduling. The shipped
detector runs on ONNX Runtime. The bare loop and the pipelines take turns; times are medians.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from table import installed

import trt_afdet
from trt_afdet.cli import ui
from trt_afdet.media import open_inputs
from trt_afdet.runtime.detector import Detector
from trt_afdet.stream.frame import StreamResult
from trt_afdet.stream.monitoring.status import StatusEvent
from trt_afdet.stream.pipeline import Pipeline, PipelineOptions, SourceSpec
from trt_afdet.stream.sources.base import Picture, SourceInfo

Image = npt.NDArray[np.uint8]
ASSETS = Path(trt_afdet.__file__).parent / "assets"


class Kept:
    """A source of frames in memory.

    Args:
        frames: The frames, repeated.
        count: Number of frames until the source ends; 0: endless.
        fps: Frames per second; 0: as fast as possible.
    """

    name = "kept"

    def __init__(self, frames: Sequence[Image], count: int = 0, fps: float = 0.0) -> None:
        self.live = count == 0
        self._frames = itertools.cycle(frames)
        self._left = count or -1
        self._fps = fps
        self._next = 0.0
        self._interrupted = threading.Event()

    def open(self) -> SourceInfo:
        self._next = time.monotonic()
        return SourceInfo(0, 0, self._fps or None, "memory")

    def read(self) -> Picture | None:
        if self._left == 0:
            return None
        self._left -= 1
        if self._fps:
            self._next += 1 / self._fps
            if self._interrupted.wait(max(0.0, self._next - time.monotonic())):
                return None
        return Picture(next(self._frames))

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        """Nothing is held open."""


class Dead:
    """A camera that never finishes opening."""

    name = "dead"
    live = True

    def __init__(self) -> None:
        self._interrupted = threading.Event()

    def open(self) -> SourceInfo:
        self._interrupted.wait()
        return SourceInfo(0, 0, None, "none")

    def read(self) -> Picture | None:
        return None

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        """Nothing is held open."""


class Latencies:
    """A sink that records the age of each frame on arrival."""

    name = "latencies"
    durable = True

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.sources: list[str] = []

    def open(self) -> None:
        """Nothing to open."""

    def write(self, result: StreamResult) -> None:
        self.seconds.append(time.monotonic() - result.frame.captured)
        self.sources.append(result.frame.source)

    def status(self, event: StatusEvent) -> None:
        """Not wanted."""

    def close(self) -> None:
        """Nothing is held open."""


def load_frames(count: int) -> list[Image]:
    with open_inputs(ASSETS / "clip.mp4") as video:
        return [frame.image for frame in itertools.islice(video, count)]


def bare_loop(detector: Detector, frames: Sequence[Image], count: int, batch: int) -> float:
    """Frames per second of the detector without a pipeline."""
    endless = itertools.cycle(frames)
    started = time.perf_counter()
    for _ in range(count // batch):
        detector([next(endless) for _ in range(batch)])
    return count // batch * batch / (time.perf_counter() - started)


def piped(
    detector: Detector, frames: Sequence[Image], count: int, batch: int, streams: int
) -> float:
    """Frames per second of ``streams`` files side by side in a pipeline."""
    each = count // streams
    plans = [
        SourceSpec(f"s{i}", lambda: Kept(frames, each), live=False, queue=2 * batch)
        for i in range(streams)
    ]
    sink = Latencies()
    started = time.perf_counter()
    Pipeline(detector, plans, [sink], PipelineOptions(batch=batch)).run()
    assert len(sink.seconds) == each * streams
    return len(sink.seconds) / (time.perf_counter() - started)


def interleaved(tasks: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of each task; the tasks take turns."""
    values: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            values[name].append(task())
    return {name: statistics.median(found) for name, found in values.items()}


def for_a_while(
    detector: Detector, plans: list[SourceSpec], options: PipelineOptions, seconds: float
) -> tuple[Latencies, float]:
    """Runs live sources for ``seconds``."""
    sink = Latencies()
    pipeline = Pipeline(detector, plans, [sink], options)
    timer = threading.Timer(seconds, pipeline.stop)
    timer.start()
    started = time.perf_counter()
    pipeline.run()
    timer.cancel()
    return sink, time.perf_counter() - started


def throughput(detector: Detector, frames: list[Image], rounds: int) -> None:
    lines = []
    for batch in (1, 4):
        tasks = {"bare loop": lambda b=batch: bare_loop(detector, frames, 192, b)}
        for streams in (1, 2, 4, 8):
            tasks[f"pipeline, {streams} stream(s)"] = lambda b=batch, s=streams: piped(
                detector, frames, 192, b, s
            )
        found = interleaved(tasks, rounds)
        bare = found["bare loop"]
        lines += [
            [f"batch {batch}", name, f"{fps:.1f}", f"{100 * fps / bare:.1f} %"]
            for name, fps in found.items()
        ]
    ui.table("frames/s", ["case", "implementation", "frames/s", "of the bare loop"], lines)


def overload(detector: Detector, frames: list[Image], seconds: float) -> None:
    lines = []
    cases = {
        "newest frame of each (default)": ("drop-oldest", 1, None),
        "queues of 8, oldest dropped": ("drop-oldest", 8, None),
        "queues of 8, newest dropped": ("drop-newest", 8, None),
        "queues of 8, none older than 0.3 s": ("drop-oldest", 8, 0.3),
    }
    for name, (policy, queue, age) in cases.items():
        plans = [
            SourceSpec(f"s{i}", lambda: Kept(frames, fps=30), policy=policy, queue=queue)  # type: ignore[arg-type]
            for i in range(8)
        ]
        sink, took = for_a_while(detector, plans, PipelineOptions(batch=4, max_age=age), seconds)
        ms = np.array(sink.seconds) * 1e3
        p50, p99 = np.percentile(ms, [50, 99])
        lines.append([name, f"{len(ms) / took:.1f}", f"{p50:.0f}", f"{p99:.0f}", f"{ms.max():.0f}"])
    ui.table(
        "8 cameras of 30 frames/s each, more than the CPU can do",
        ["policy", "frames/s", "latency p50 ms", "p99", "largest"],
        lines,
    )


def dead_camera(detector: Detector, frames: list[Image], seconds: float, rounds: int) -> None:
    """Seven live cameras that overload the CPU, with and without a dead eighth camera."""

    def run(with_dead: bool) -> float:
        plans = [SourceSpec(f"s{i}", lambda: Kept(frames, fps=30)) for i in range(7)]
        if with_dead:
            plans.append(SourceSpec("dead", Dead))
        sink, took = for_a_while(detector, plans, PipelineOptions(batch=8), seconds)
        return len(sink.seconds) / took

    found = interleaved(
        {"7 cameras": lambda: run(False), "and a dead one": lambda: run(True)}, rounds
    )
    first = found["7 cameras"]
    ui.table(
        "a dead camera's cost",
        ["case", "frames/s of the seven", "ratio"],
        [[name, f"{fps:.2f}", f"{fps / first:.3f}"] for name, fps in found.items()],
    )


@contextlib.contextmanager
def cameras(frames: Sequence[Image], rates: Sequence[float]) -> Iterator[list[str]]:
    """Starts MJPEG cameras over HTTP with the given rates; yields their addresses."""
    encoded = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames[:32]]

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            rate = rates[int(self.path.strip("/").partition(".")[0])]
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            due = time.monotonic()
            with contextlib.suppress(OSError):
                for data in itertools.cycle(encoded):
                    head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
                    self.wfile.write(head % len(data) + data + b"\r\n")
                    due += 1 / rate
                    time.sleep(max(0.0, due - time.monotonic()))

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield [f"http://127.0.0.1:{server.server_port}/{i}.mjpg" for i in range(len(rates))]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def beside_lockstep(detector: Detector, frames: list[Image], seconds: float) -> None:
    """Three cameras of 8 frames/s and one of 1 frame/s over HTTP, with the same detector."""
    from trt_afdet.stream.config.addresses import make_source, parse_source

    rates = (8.0, 8.0, 8.0, 1.0)
    lines = []

    def add(name: str, counts: dict[str, int], took: float) -> None:
        quick = sum(counts.get(str(i), 0) for i in range(3)) / 3 / took
        lines.append([name, f"{quick:.2f}", f"{counts.get('3', 0) / took:.2f}"])

    with cameras(frames, rates) as addresses:
        plans = []
        for index, address in enumerate(addresses):
            spec = parse_source(address)
            plans.append(SourceSpec(str(index), lambda spec=spec: make_source(spec, spec.name)))
        sink, took = for_a_while(detector, plans, PipelineOptions(batch=4), seconds)
        add("trt-afdet", {n: sink.sources.count(n) for n in set(sink.sources)}, took)
    if installed("ultralytics", "make bench-peers"):
        with cameras(frames, rates) as addresses:
            add("ultralytics LoadStreams", *lockstep(detector, addresses, seconds))
    ui.table(
        "three cameras of 8 frames/s, one of 1 frame/s",
        ["loader, the same detector", "frames/s, each of the three", "of the slow one"],
        lines,
    )


def lockstep(
    detector: Detector, addresses: Sequence[str], seconds: float
) -> tuple[dict[str, int], float]:
    """The number of new frames per camera that the detector processed, and the seconds."""
    os.environ.setdefault("YOLO_OFFLINE", "true")
    from ultralytics.data.loaders import LoadStreams

    with tempfile.NamedTemporaryFile("w", suffix=".streams") as listed:
        listed.write("\n".join(addresses))
        listed.flush()
        loader = LoadStreams(listed.name)
        counts: dict[str, int] = {}
        started = time.perf_counter()
        for _, images, _ in loader:
            detector(images)
            for index in range(len(images)):
                counts[str(index)] = counts.get(str(index), 0) + 1
            if time.perf_counter() - started > seconds:
                break
        took = time.perf_counter() - started
        loader.close()
    return counts, took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="per live case (default: 8)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved runs (default: 5)")
    args = parser.parse_args()
    socket.setdefaulttimeout(10)
    frames = load_frames(64)
    with Detector.load(ASSETS / "model.onnx") as detector:
        detector(frames[:4])
        throughput(detector, frames, args.rounds)
        overload(detector, frames, args.seconds)
        dead_camera(detector, frames, args.seconds, max(3, args.rounds - 2))
        beside_lockstep(detector, frames, args.seconds)


if __name__ == "__main__":
    main()
