"""All sinks in one pipeline, in bad company."""

from __future__ import annotations

import csv
import json
import socket
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.skips import skip_test
from tests.trt_afdet.stream.detectors import FunctionDetector
from tests.trt_afdet.stream.sinks.sink_makers import detections, wait_until
from tests.trt_afdet.stream.sinks.sink_peers import free_port
from trt_afdet.detections import Detections
from trt_afdet.stream.config.addresses import make_sink
from trt_afdet.stream.frame import StreamResult
from trt_afdet.stream.monitoring.status import StatusEvent
from trt_afdet.stream.pipeline import Pipeline, PipelineError, PipelineOptions, SourceSpec
from trt_afdet.stream.sources.test_pattern import TestPatternSource


@FunctionDetector
def two_each(frames: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
    return [detections(2) for _ in frames]


def plans(count: int, query: str) -> list[SourceSpec]:
    return [
        SourceSpec(
            f"s{i}",
            lambda i=i: TestPatternSource(f"test://?width=64&height=64&seed={i}&{query}"),  # type: ignore[misc]
            live="frames=0" in query,
        )
        for i in range(count)
    ]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_files_are_complete_beside_peers_that_are_dead_or_deaf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # Takes connections, says nothing.
        port = deaf.getsockname()[1]
        sinks = [
            make_sink(uri)
            for uri in (
                f"mqtt://127.0.0.1:{free_port()}/x",
                f"mqtt://127.0.0.1:{port}/x",
                f"redis://127.0.0.1:{port}/x",
                f"webhook+http://127.0.0.1:{port}/",
                "mjpeg://127.0.0.1:0",
                f"video:{tmp_path}/clips",
                f"jsonl:{tmp_path}/out.jsonl",
                f"csv:{tmp_path}/out.csv",
            )
        ]
        pipeline = Pipeline(two_each, plans(3, "fps=60&frames=0"), sinks, PipelineOptions(batch=3))
        thread = threading.Thread(target=pipeline.run)
        thread.start()
        wait_until(lambda: sum(s.processed for s in pipeline.snapshot().sources.values()) > 200)
        pipeline.stop()
        thread.join(60)
    assert not thread.is_alive()
    figures = pipeline.snapshot()
    processed = {name: source.processed for name, source in figures.sources.items()}
    # Until a moment after the stop each of them still writes.
    wait_until(lambda: all(w[2] == 0 for w in pipeline.snapshot().sinks.values()))
    found = [line for line in lines(tmp_path / "out.jsonl") if line["type"] == "result"]
    assert Counter(str(line["source"]) for line in found) == processed
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = Counter(row["source"] for row in csv.DictReader(file))
    assert rows == {name: 2 * count for name, count in processed.items()}
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 3
    spools = list((tmp_path / "state").glob("trt-afdet/spool/*.sqlite"))
    assert len(spools) == 4
    assert all(count == 0 for name, (_, count, _) in figures.sinks.items() if "mjpeg" not in name)


def test_a_full_disk_ends_the_pipeline_with_a_name(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        skip_test("this system has no /dev/full", "a run on Linux")
    other = make_sink(f"jsonl:{tmp_path}/out.jsonl")
    pipeline = Pipeline(
        two_each, plans(2, "fps=0&frames=200"), [make_sink("jsonl:/dev/full"), other]
    )
    with pytest.raises(PipelineError, match=r"sink jsonl /dev/full failed: .*the disk is full"):
        pipeline.run()
    assert all(lines(tmp_path / "out.jsonl"))


class Leisurely:
    """Closes when all the others are closing, too."""

    durable = True

    def __init__(self, name: str, together: threading.Barrier) -> None:
        self.name = name
        self._together = together
        self.closed = False

    def open(self) -> None:
        """Nothing to open."""

    def write(self, result: StreamResult) -> None:
        """Forgets it."""

    def status(self, event: StatusEvent) -> None:
        """Forgets it."""

    def close(self) -> None:
        self._together.wait(60)
        self.closed = True


def test_sinks_close_side_by_side() -> None:
    together = threading.Barrier(6)
    sinks = [Leisurely(name, together) for name in "abcdef"]
    pipeline = Pipeline(
        two_each, plans(1, "fps=0&frames=5"), sinks, PipelineOptions(stop_within=60)
    )
    pipeline.run()
    assert all(sink.closed for sink in sinks)
