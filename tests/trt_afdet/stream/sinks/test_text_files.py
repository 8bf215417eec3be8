"""Files of records: exactly once, whatever happens to the process or the disk."""

from __future__ import annotations

import csv
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.trt_afdet.stream.sinks.sink_makers import result, status
from tests.waiting import wait_until
from trt_afdet.errors import CorruptFileError, InvalidValueError, RunError, WriteError
from trt_afdet.stream.analysis.zones import ObjectEntered
from trt_afdet.stream.sinks.text_files import COLUMNS, CsvSink, JsonLinesSink

Sink = JsonLinesSink | CsvSink
KINDS = {"jsonl": JsonLinesSink, "csv": CsvSink}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def fill(sink: Sink, sequences: range) -> None:
    sink.open()
    for sequence in sequences:
        sink.write(result(sequence))
    sink.close()


def write_on(sink: Sink) -> None:
    """Writes until that fails."""
    wait_until(lambda: sink.write(result(0)), "a failure to write")


def test_a_line_says_all_there_is_to_say(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.jsonl"
    sink = JsonLinesSink(path)
    sink.open()
    sink.status(status("live", "Straße", "Kamera"))
    event = ObjectEntered("Straße", 5.0, "gate", 7, "person")
    sink.write(result(3, "Straße", position=0.1, events=(event,), tracked=True))
    sink.close()
    first, second = lines(path)
    assert first == {
        "type": "status",
        "schema": 1,
        "run": second["run"],
        "number": 0,
        "source": "Straße",
        "time": "2026-01-31T23:59:59.250Z",
        "state": "live",
        "detail": "Kamera",
    }
    assert second == {
        "type": "result",
        "schema": 1,
        "run": first["run"],
        "number": 1,
        "source": "Straße",
        "sequence": 3,
        "time": "2026-01-31T23:59:59.350Z",
        "position": 0.1,
        "width": 64,
        "height": 48,
        "latency": 0.02,
        "detected": True,
        "detections": result(3, tracked=True).detections.to_dicts(),
        "events": [event.to_json()],
    }
    assert "ß" in path.read_text(encoding="utf-8")


def test_a_row_is_a_detection(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    sink = CsvSink(path)
    sink.open()
    sink.write(result(0, 'a "b",\nc', count=0))
    sink.write(result(1, 'a "b",\nc', count=2, tracked=True))
    sink.status(status())
    sink.close()
    first, second = rows(path)
    assert tuple(first) == COLUMNS
    assert first["source"] == 'a "b", c'
    assert (first["sequence"], first["number"]) == ("1", "1")
    assert (first["class"], first["tracker_id"], second["tracker_id"]) == ("person", "", "0")
    assert [float(second[c]) for c in ("x1", "y1", "x2", "y2")] == [3, 3, 23.5, 13]
    assert [(r["count"], r["index"]) for r in (first, second)] == [("2", "0"), ("2", "1")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_restart_appends_a_run_of_its_own(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    fill(KINDS[kind](path), range(3))
    fill(KINDS[kind](path), range(3))
    found = lines(path) if kind == "jsonl" else rows(path)[::2]
    runs = [str(record["run"]) for record in found]
    assert len(set(runs)) == 2
    assert runs[0] < runs[-1] or runs[0][:16] == runs[-1][:16]
    assert [int(str(record["number"])) for record in found] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zeros", [0, 5000])
def test_whatever_a_cut_leaves_is_repaired(kind: str, zeros: int, tmp_path: Path) -> None:
    path = tmp_path / "out"
    fill(KINDS[kind](path), range(2))
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    # In CSV the first line is the header, and a frame here has two rows.
    good = [0, *ends] if kind == "jsonl" else [0, *ends[0::2]]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut] + bytes(zeros))
        sink = KINDS[kind](path, "never")
        sink.open()
        kept = max(end for end in good if end <= cut)
        header = ends[0] if kind == "csv" else 0
        assert path.read_bytes() == whole[: max(kept, header)]
        sink.write(result(9))
        sink.close()
        found = lines(path) if kind == "jsonl" else rows(path)
        assert str(found[-1]["sequence"]) == "9"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "content", [b"dear diary,\nall went well\n", b'{"images": []}\n', b"a,b,c\n1,2,3\n", b"x"]
)
def test_files_of_others_are_not_touched(kind: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match="something else"):
        KINDS[kind](path).open()
    assert path.read_bytes() == content


def test_large_damage_is_not_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "out"
    fill(JsonLinesSink(path), range(2))
    with path.open("ab") as file:
        file.write(b"%s\n" % (b"garbage" * 10000) * 300)
    size = path.stat().st_size
    with pytest.raises(CorruptFileError, match="damaged"):
        JsonLinesSink(path).open()
    assert path.stat().st_size == size


def test_two_cannot_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    first = JsonLinesSink(path)
    first.open()
    with pytest.raises(RunError, match="another process"):
        JsonLinesSink(path).open()
    first.close()
    fill(JsonLinesSink(path), range(1))


def test_a_file_that_is_moved_away_is_followed_by_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    sink = CsvSink(path)
    sink.open()
    sink.write(result(0))
    path.rename(tmp_path / "out.csv.1")
    sink.write(result(1))
    path.unlink()
    sink.write(result(2))
    sink.close()
    assert {r["sequence"] for r in rows(tmp_path / "out.csv.1")} == {"0"}
    assert {r["sequence"] for r in rows(path)} == {"2"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here: a run on Linux")
def test_a_device_without_room_is_a_clear_failure(kind: str) -> None:
    sink = KINDS[kind](Path("/dev/full"))
    with pytest.raises(WriteError, match="the disk is full"):
        fill(sink, range(1))


FULL = """
import resource, signal, sys
from pathlib import Path
from tests.trt_afdet.stream.sinks.sink_makers import result
from trt_afdet.errors import WriteError
from trt_afdet.stream.sinks.text_files import CsvSink, JsonLinesSink

kind, path, limit = sys.argv[1:]
sink = {"jsonl": JsonLinesSink, "csv": CsvSink}[kind](Path(path))
sink.open()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
sequence = 0
try:
    while True:
        sink.write(result(sequence, count=5))
        sequence += 1
except WriteError as error:
    print(sequence, error)
sink.close()
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [4096, 20001])
def test_a_full_disk_tears_nothing(kind: str, limit: int, tmp_path: Path) -> None:
    path = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", FULL, kind, str(path), str(limit)],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    written, _, message = done.stdout.partition(" ")
    assert "largest size" in message
    found = lines(path) if kind == "jsonl" else rows(path)
    per_frame = 1 if kind == "jsonl" else 5
    assert [int(str(r["sequence"])) for r in found] == [
        i for i in range(int(written)) for _ in range(per_frame)
    ]
    before = path.read_bytes()
    sink = KINDS[kind](path)
    sink.open()
    assert path.read_bytes() == before
    sink.close()


WRITER = """
import sys
from pathlib import Path
from tests.trt_afdet.stream.sinks.sink_makers import result
from trt_afdet.stream.sinks.text_files import CsvSink, JsonLinesSink

kind, path, first = sys.argv[1:]
sink = {"jsonl": JsonLinesSink, "csv": CsvSink}[kind](Path(path), "never")
sink.open()
sequence = int(first)
while True:
    # Every tenth is larger than a page many times over, and can be torn by a kill.
    sink.write(result(sequence, count=3000 if sequence % 10 == 0 else 2))
    print(sequence, flush=True)
    sequence += 1
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_kills_lose_and_double_nothing(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    random.seed(kind)
    acknowledged: list[int] = []
    start = 0
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, kind, str(path), str(start)],
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        seen = [process.stdout.readline()]
        time.sleep(random.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        seen += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        acknowledged += [int(line) for line in seen if line.endswith("\n")]
        start = acknowledged[-1] + 1000  # What was written without a word is told apart.
    fill(KINDS[kind](path), range(10**6, 10**6 + 1))
    found = lines(path) if kind == "jsonl" else rows(path)
    count: Counter[int] = Counter()
    for record in found:
        detections = record["detections"] if kind == "jsonl" else [record]
        count[int(str(record["sequence"]))] += len(detections)  # type: ignore[arg-type]
    for sequence in acknowledged:
        assert count.pop(sequence) == (3000 if sequence % 10 == 0 else 2)
    assert count.pop(10**6) == 2
    # At most one more per kill, and that one whole.
    assert len(count) <= 20
    for sequence, number in count.items():
        assert number == (3000 if sequence % 10 == 0 else 2)
    assert len(acknowledged) >= 20


@pytest.mark.parametrize("policy", ["never", "second", "always"])
def test_data_is_forced_onto_the_disk_as_the_policy_says(
    policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[float] = []
    real = os.fsync

    def fsync(file: int) -> None:
        synced.append(time.monotonic())
        real(file)

    sink = JsonLinesSink(tmp_path / "out", policy)  # type: ignore[arg-type]
    sink.open()
    monkeypatch.setattr(os, "fsync", fsync)
    for sequence in range(50):
        sink.write(result(sequence))
    at_once = len(synced)
    if policy == "second":
        wait_until(lambda: synced, "the next second")
    in_time = len(synced)
    sink.close()
    assert at_once >= 50 if policy == "always" else at_once < 50
    assert (in_time >= 1) == (policy != "never")
    assert (len(synced) > 0) == (policy != "never")


def test_an_error_of_the_disk_behind_our_back_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = JsonLinesSink(tmp_path / "out")
    sink.open()

    def broken(file: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(WriteError, match="Input/output error"):
        write_on(sink)
    with pytest.raises(WriteError, match="Input/output error"):
        sink.close()


def test_bad_places_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InvalidValueError, match="never, second, always"):
        JsonLinesSink(tmp_path / "out", "sometimes")  # type: ignore[arg-type]
    with pytest.raises(WriteError, match="cannot write"):
        JsonLinesSink(tmp_path).open()
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="a part of the path is a file"):
        CsvSink(tmp_path / "file" / "out.csv").open()
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]
