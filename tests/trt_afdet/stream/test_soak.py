"""Months in a minute: 100,000 frames over eight streams; nothing grows, nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.paths import ROOT
from tests.trt_afdet.stream.detectors import SyncDetector
from trt_afdet.detections import Detections
from trt_afdet.stream.config.addresses import make_sink, make_source, parse_source
from trt_afdet.stream.pipeline import Pipeline, PipelineOptions, SourceSpec

FRAMES = 100_000
STREAMS = 8
PER_FRAME = 2


class Instant(SyncDetector):
    """Finds the same two objects in every frame, at once."""

    def __init__(self) -> None:
        boxes = np.array([[1, 1, 30, 30], [8, 8, 50, 60]], np.float32)
        confidence = np.array([0.9, 0.8], np.float32)
        self._found = Detections(boxes, confidence, np.array([0, 1], np.int32), ("a", "b"))
        self.frames = 0

    def __call__(self, frames: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        self.frames += len(frames)
        return [self._found] * len(frames)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run(folder: str) -> None:
    """The pipeline, with a look at the process at 30, 60 and 100 percent of the frames."""
    detector = Instant()
    each = FRAMES // STREAMS
    specs = [
        parse_source(f"test://?width=64&height=64&fps=0&objects=2&frames={each}&seed={i}")
        for i in range(STREAMS)
    ]
    plans = [
        SourceSpec(f"s{i}", lambda s=spec, n=f"s{i}": make_source(s, n), live=False)
        for i, spec in enumerate(specs)
    ]
    sinks = [make_sink(f"jsonl:{folder}/found.jsonl"), make_sink(f"csv:{folder}/found.csv")]
    pipeline = Pipeline(detector, plans, sinks, PipelineOptions(batch=8, stop_within=30))
    looks: list[tuple[int, int, int]] = []

    def look() -> None:
        for share in (0.3, 0.6, 0.95):
            while detector.frames < share * FRAMES:
                stop.wait(0.05)  # timing: the pause between two looks
                if stop.is_set():
                    return
            threads = threading.active_count()
            looks.append((resident_bytes(), threads, len(list(Path("/proc/self/fd").iterdir()))))

    stop = threading.Event()
    looker = threading.Thread(target=look)
    looker.start()
    pipeline.run()
    stop.set()
    looker.join()
    counts = pipeline.snapshot()
    print(
        json.dumps(
            {
                "looks": looks,
                "processed": {n: s.processed for n, s in counts.sources.items()},
                "dropped": sum(queue.dropped + queue.stale for queue in counts.queues.values()),
                "threads_left": threading.active_count(),
            }
        )
    )


@pytest.mark.slow
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="there is no /proc: a run on Linux"
)
def test_a_hundred_thousand_frames(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    seen = json.loads(result.stdout)
    assert len(seen["looks"]) == 3
    (first, threads, files), *rest = seen["looks"]
    for memory, threads_now, files_now in rest:
        # The allocator's own ups and downs are below this; one object kept per frame is above.
        assert memory < first + 3 * 2**20
        assert (threads_now, files_now) == (threads, files)
    assert seen["threads_left"] == 1
    assert seen["dropped"] == 0
    each = FRAMES // STREAMS
    assert seen["processed"] == {f"s{i}": each for i in range(STREAMS)}
    lines: Counter[tuple[str, int]] = Counter()
    detections = 0
    with (tmp_path / "found.jsonl").open() as file:
        for line in file:
            row = json.loads(line)
            if "detections" in row:
                lines[row["source"], row["sequence"]] += 1
                detections += len(row["detections"])
    assert set(lines.values()) == {1}
    assert len(lines) == FRAMES
    assert detections == PER_FRAME * FRAMES
    rows = sum(
        1 for line in (tmp_path / "found.csv").open() if line.startswith(tuple("0123456789s"))
    )
    assert rows >= PER_FRAME * FRAMES


if __name__ == "__main__":
    run(sys.argv[1])
