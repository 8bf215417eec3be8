"""Each frame exactly once, however often a run was killed and started again."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.trt_afdet.onnx_models import save_model
from tests.trt_afdet.stream.sinks.sink_makers import result, status
from trt_afdet.errors import CorruptFileError, MissingFileError
from trt_afdet.media import VideoWriter
from trt_afdet.records import read_records
from trt_afdet.stream.analysis.zones import ObjectEntered
from trt_afdet.stream.sinks.text_files import CsvSink, JsonLinesSink

KINDS = {"jsonl": JsonLinesSink, "csv": CsvSink}


def write(path: Path, frames: range, *, source: str = "clip", live: bool = False) -> None:
    sink = KINDS[path.suffix[1:]](path)
    sink.open()
    for sequence in frames:
        sink.write(result(sequence, source, position=None if live else sequence / 30))
    sink.close()


def frames(path: Path, source: str = "clip") -> list[tuple[int, str]]:
    """Sequence and run of each frame."""
    found = [r for r in read_records(path) if r["source"] == source and "sequence" in r]
    return list(dict.fromkeys((int(r["sequence"]), r["run"]) for r in found))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_replaces_earlier_ones_as_far_as_it_got(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{kind}"
    for reached in (3, 8, 5, 2):
        write(path, range(reached))
    found = sorted(frames(path))
    assert [sequence for sequence, _ in found] == list(range(8))
    runs = [run for _, run in found]
    assert len(set(runs)) == 3
    assert runs == [runs[0]] * 2 + [runs[2]] * 3 + [runs[5]] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_every_record_of_a_camera_counts(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{kind}"
    for _ in range(3):
        write(path, range(4), live=True)
        write(path, range(4), source="other")
    assert len(frames(path)) == 12
    assert sorted(sequence for sequence, _ in frames(path, "other")) == [0, 1, 2, 3]


def test_events_follow_their_frames_and_statuses_stay(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    event = ObjectEntered("clip", 5.0, "gate", 7, "person")
    for _ in range(2):
        sink = JsonLinesSink(path, send=("events", "status"))
        sink.open()
        sink.status(status("live", "clip"))
        sink.write(result(3, "clip", position=0.1, events=(event,)))
        sink.close()
    assert [r["type"] for r in read_records(path)] == ["status", "status", "event"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_torn_end_is_left_out(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{kind}"
    write(path, range(5))
    whole = path.read_bytes()
    for cut in range(1, 200, 7):
        path.write_bytes(whole[:-cut])
        assert [sequence for sequence, _ in frames(path)] in ([0, 1, 2, 3], [0, 1, 2])


def test_parts_of_a_rotated_file(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write(first, range(5))
    write(second, range(3))
    assert sorted(int(r["sequence"]) for r in read_records(first, second)) == [0, 1, 2, 3, 4]


def test_what_is_no_file_of_records(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        list(read_records(tmp_path / "none"))
    (tmp_path / "text").write_text("hello\n")
    with pytest.raises(CorruptFileError, match="line 1"):
        list(read_records(tmp_path / "text"))


def test_kills_of_the_real_command_leave_each_position_once(tmp_path: Path) -> None:
    count = 120
    model, clip = save_model(tmp_path / "model.onnx"), tmp_path / "clip.mp4"
    rng = np.random.default_rng(0)
    with VideoWriter(clip, 20) as writer:
        for _ in range(count):
            small = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
            writer.write(np.kron(small, np.ones((40, 40, 1), np.uint8)))
    jsonl, table = tmp_path / "out.jsonl", tmp_path / "out.csv"
    command = [sys.executable, "-m", "trt_afdet", "run", f"clip={clip}", "--model", str(model)]
    command += ["--quiet", "--track", "--sink", f"jsonl:{jsonl}", "--sink", f"csv:{table}"]
    chance = random.Random(0)
    for kills in range(9):
        before = jsonl.read_bytes().count(b"\n") if jsonl.exists() else 0
        process = subprocess.Popen(command)
        wanted = before + chance.randint(1, count)
        end = time.monotonic() + 120
        while kills < 8 and process.poll() is None:
            assert time.monotonic() < end
            if jsonl.exists() and jsonl.read_bytes().count(b"\n") >= wanted:
                process.kill()
            time.sleep(0.001)  # timing: the pause between two looks
        assert process.wait(120) in (0, -9)
    assert process.returncode == 0
    results = [r for r in read_records(jsonl) if r["type"] == "result"]
    assert sorted(r["sequence"] for r in results) == list(range(count))
    assert len({r["position"] for r in results}) == count
    boxes = {(r["sequence"], i) for r in results for i in range(len(r["detections"]))}
    rows = [(int(r["sequence"]), int(r["index"])) for r in read_records(table)]
    assert len(rows) == len(set(rows))
    assert set(rows) == boxes
