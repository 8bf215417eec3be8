"""Everything that leaves as a record is as the JSON Schema says, and the page shows that schema."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest

from tests.paths import ASSETS, ROOT
from tests.trt_afdet.record_schema import DEFINITION, VALIDATOR, check
from tests.trt_afdet.stream.sinks.sink_makers import result, status
from trt_afdet.cli import main
from trt_afdet.errors import CorruptFileError
from trt_afdet.media import VideoWriter, open_inputs, write_picture
from trt_afdet.records import SCHEMA, read_records, upgraded
from trt_afdet.stream.analysis import zones
from trt_afdet.stream.monitoring.status import State
from trt_afdet.stream.sinks.recorder import Recorder
from trt_afdet.stream.sinks.text_files import COLUMNS, CsvSink, JsonLinesSink

PAGE = ROOT / "docs" / "records.md"
WHO = ("cam", 1769903999.25, "door")
EVENTS = (
    zones.ObjectEntered(*WHO, 7, "person"),
    zones.ObjectLeft(*WHO, 7, "person", 2.5, "lost"),
    zones.ObjectDwelled(*WHO, 7, "person", 10.0),
    zones.LineCrossed(*WHO, 7, "person", "in", 1, 0),
    zones.ZoneCount(*WHO, 1, {"person": 1}, 4),
    "an event of somebody's own",
)


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(DEFINITION)
    assert DEFINITION["$defs"]["result"]["properties"]["schema"]["const"] == SCHEMA


def test_it_has_all_states_and_reasons() -> None:
    states = DEFINITION["$defs"]["status"]["properties"]["state"]["enum"]
    assert states == list(get_args(State))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("position", [None, 1.5])
def test_every_record_of_a_sink(event: object, position: float | None) -> None:
    recorder = Recorder(("results", "events", "status"))
    records = recorder.result(result(3, position=position, events=(event,), tracked=True))
    records += recorder.result(result(4, position=position, count=0))
    for state in get_args(State):
        records += recorder.status(status(state))
    assert [r["type"] for r in records] == ["result", "event", "result"] + ["status"] * 6
    for record in records:
        check(json.loads(json.dumps(record)))
        assert record["schema"] == SCHEMA


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", 2),
        ("source", 3),
        ("sequence", -1),
        ("position", "1.5"),
        ("time", "yesterday"),
        ("detections", [{"box": [1, 2, 3], "confidence": 0.5, "class_id": 0, "class": "a"}]),
        ("detections", [{"box": [1, 2, 3, 4], "confidence": 2, "class_id": 0, "class": "a"}]),
        ("events", [{"kind": "enter"}]),
        ("events", [{"kind": "unheard of"}]),
    ],
)
def test_it_refuses_what_is_wrong(field: str, value: object) -> None:
    [record] = Recorder(("results",)).result(result())
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate({**record, field: value})


def test_it_refuses_what_is_missing() -> None:
    [record] = Recorder(("results",)).result(result())
    for field in record:
        with pytest.raises(jsonschema.ValidationError):
            VALIDATOR.validate({k: v for k, v in record.items() if k != field})


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """The beginning of the demo's clip, and a picture of it beside it."""
    path = tmp_path / "in" / "clip.mp4"
    with open_inputs(ASSETS / "clip.mp4") as source, VideoWriter(path, 30) as writer:
        for frame in itertools.islice(source, 12):
            writer.write(frame.image)
    write_picture(path.with_name("frame.png"), frame.image)
    return path


def test_what_detect_writes(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "boxes.jsonl"
    assert main(["detect", str(clip.parent), "--jsonl", str(path)]) == 0
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["sequence"] for r in records] == [0, *range(12)]
    assert [r["position"] is None for r in records] == [True] + [False] * 12
    assert any(r["detections"] for r in records)
    for record in records:
        check(record)
    assert list(read_records(path)) == records


def test_what_run_writes(clip: Path, tmp_path: Path) -> None:
    path, table = tmp_path / "found.jsonl", tmp_path / "found.csv"
    zones = tmp_path / "zones.json"
    half = {"name": "left", "polygon": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}
    zones.write_text(json.dumps({"clip": {"zones": [half]}}))
    words = ["run", f"clip={clip}", "--zones", str(zones)]
    sinks = ["--sink", f"jsonl:{path}?send=results,events,status", "--sink", f"csv:{table}"]
    assert main([*words, *sinks]) == 0
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert {r["type"] for r in records} == {"result", "event", "status"}
    for record in records:
        check(record)
    rows = list(read_records(table))
    boxes = [d for r in records if r["type"] == "result" for d in r["detections"]]
    assert len(rows) == len(boxes) > 0


def test_the_columns_of_csv_are_fields_of_a_result() -> None:
    fields = (
        DEFINITION["$defs"]["result"]["properties"] | DEFINITION["$defs"]["detection"]["properties"]
    )
    assert set(COLUMNS) - set(fields) == {"count", "index", "x1", "y1", "x2", "y2"}


def test_a_row_of_csv_says_what_the_record_says(tmp_path: Path) -> None:
    for kind in (CsvSink, JsonLinesSink):
        sink = kind(tmp_path / kind.__name__)
        sink.open()
        sink.write(result(3, position=0.1, tracked=True))
        sink.close()
    [record] = read_records(tmp_path / "JsonLinesSink")
    rows = list(read_records(tmp_path / "CsvSink"))
    assert len(rows) == len(record["detections"])
    for row, found in zip(rows, record["detections"], strict=True):
        assert [float(row[side]) for side in ("x1", "y1", "x2", "y2")] == found["box"]
        for field in ("sequence", "width", "height", "position", "source"):
            assert row[field] == str(record[field])
        for field in ("class_id", "class", "confidence"):
            assert row[field] == str(found[field])


def test_old_records_are_read(tmp_path: Path) -> None:
    """Of detect and of run, before records had a version."""
    found = {"box": [1.0, 2.0, 3.0, 4.0], "confidence": 0.5, "class_id": 0, "class": "imp"}
    size = {"width": 8, "height": 6, "detections": [found]}
    video = {"source": "a.mp4", "frame": 3, "timestamp_ms": 150.0, **size}
    picture = {"source": "a.png", "frame": 0, **size}
    for old, position in ((video, 0.15), (picture, None)):
        new = upgraded(old)
        check(new)
        assert (new["sequence"], new["position"]) == (old["frame"], position)
    [record] = Recorder(("results",)).result(result())
    old_run = {name: value for name, value in record.items() if name != "schema"}
    assert upgraded(old_run) == record == upgraded(record)
    path = tmp_path / "old.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in (video, picture, old_run)))
    assert [r["sequence"] for r in read_records(path)] == [3, 0, 0]


def test_records_of_a_newer_version_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "new.jsonl"
    path.write_text(json.dumps({"type": "result", "schema": SCHEMA + 1, "source": "a"}) + "\n")
    with pytest.raises(CorruptFileError, match=r"version 2.*line 1.*update"):
        list(read_records(path))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["records", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == DEFINITION
    path = tmp_path / "found.jsonl"
    for _ in range(2):
        sink = JsonLinesSink(path)
        sink.open()
        sink.write(result(0, position=0.0))
        sink.close()
    assert main(["records", str(path)]) == 0
    [line] = capsys.readouterr().out.splitlines()
    check(json.loads(line))
    assert main(["records"]) == main(["records", "--schema", str(path)]) == 2


def examples() -> Iterator[Any]:
    """The JSON objects of the page."""
    for block in re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL):
        yield json.loads(block)


def test_the_examples_of_the_page() -> None:
    kinds = []
    for record in examples():
        check(record)
        kinds.append(record["type"])
    assert kinds == ["result", "result", "event", "status"]


def described() -> Iterator[str]:
    """The rows of the page's tables, from the schema."""
    parts = DEFINITION["$defs"]
    result_rows = list(rows(parts["result"], "`run` only"))
    yield from result_rows
    yield from rows(parts["detection"], "if tracked")
    for name in ("event_record", "status"):
        shared = parts["result"]["properties"]
        yield from rows(parts[name], "", [f for f in parts[name]["properties"] if f not in shared])
    kinds: dict[str, list[str]] = {}  # Per row of a field: the kinds of event that have it.
    for name, item in parts.items():
        if name.startswith("event_") and name != "event_record":
            for row in rows(item, "", [f for f in item["properties"] if f != "kind"]):
                kinds.setdefault(row, []).append(item["title"])
    for row, names in kinds.items():
        yield row.replace("| always |", f"| {', '.join(names)} |")


def rows(item: dict[str, Any], else_when: str, only: list[str] | None = None) -> Iterator[str]:
    for name, field in item["properties"].items():
        if only is not None and name not in only:
            continue
        kind = field.get("type", "object" if "$ref" in field else "string")
        kind = kind if isinstance(kind, str) else " or ".join(kind)
        when = "always" if name in item["required"] else else_when
        meaning = field.get("description", "The event, see below.")
        yield f"| `{name}` | {kind} | {when} | {meaning} |"


def test_the_page_has_every_field() -> None:
    text = PAGE.read_text()
    missing = [row for row in described() if row not in text]
    assert missing == [], "\n".join(missing)
