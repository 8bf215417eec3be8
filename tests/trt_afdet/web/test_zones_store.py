"""Zones on disk: what is refused, what survives, and who is told."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from trt_afdet.errors import CorruptFileError, InvalidValueError, WriteError
from trt_afdet.stream.analysis.shapes import parse_shapes
from trt_afdet.web.zones_store import ZonesStore

SQUARE = {"name": "door", "polygon": [[0.1, 0.1], [0.5, 0.1], [0.5, 0.5], [0.1, 0.5]]}
GATE = {"name": "gate", "points": [[0, 0.5], [1, 0.5]]}


def test_zones_are_kept_over_a_restart(tmp_path: Path) -> None:
    told: list[tuple[str, Any]] = []
    path = tmp_path / "deep" / "zones.json"
    store = ZonesStore(path, on_zones=lambda source, zones: told.append((source, zones)))
    stored = store.put("cam", {"zones": [SQUARE], "lines": [GATE]})
    store.put("other", {"lines": [GATE]})
    assert told[0] == ("cam", stored)
    assert stored["zones"] == [SQUARE]
    again = ZonesStore(path)
    assert again.get("cam") == stored
    assert again.get("nobody") == {"zones": [], "lines": []}
    again.put("cam", {})
    assert set(json.loads(path.read_text())) == {"other"}
    assert [p.name for p in path.parent.iterdir()] == ["zones.json"]


def test_names_are_stripped_and_coordinates_kept() -> None:
    line = {"name": " gate ", "points": [[0.123456789012345, 0], [1, 1]]}
    stored = parse_shapes({"lines": [line]}).to_dict()
    assert stored["lines"] == [{"name": "gate", "points": [[0.123456789012345, 0.0], [1.0, 1.0]]}]
    assert parse_shapes(stored).to_dict() == stored


def polygon(*points: Any, name: Any = "z") -> dict[str, Any]:
    return {"zones": [{"name": name, "polygon": list(points)}]}


@pytest.mark.parametrize("value", [{"zones": 5}, polygon([0, 0], [1, 0.7], [1, 0], [0, 1])])
def test_bad_zones_are_refused_and_change_nothing(value: Any, tmp_path: Path) -> None:
    store = ZonesStore(tmp_path / "zones.json")
    before = store.put("cam", {"zones": [SQUARE]})
    with pytest.raises(InvalidValueError):
        store.put("cam", value)
    assert store.get("cam") == before
    assert ZonesStore(tmp_path / "zones.json").get("cam") == before


def test_a_concave_zone_is_fine() -> None:
    arrow = polygon([0, 0], [1, 0.5], [0, 1], [0.3, 0.5])
    assert len(parse_shapes(arrow).zones[0].points) == 4


@pytest.mark.parametrize(
    "text", ["", "[]", '{"cam": 5}', '{"cam": {"zones": [{}]}}', "\udcff", "[" * 100_000]
)
def test_a_broken_file_is_named_and_left_alone(text: str, tmp_path: Path) -> None:
    path = tmp_path / "zones.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    before = path.read_bytes()
    with pytest.raises(CorruptFileError, match=r"zones\.json"):
        ZonesStore(path)
    assert path.read_bytes() == before


def test_what_cannot_be_written_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = ZonesStore(tmp_path / "zones.json")
    store.path = tmp_path / "file" / "zones.json"
    with pytest.raises(WriteError):
        store.put("cam", {"zones": [SQUARE]})
    assert store.all() == {}


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    store = ZonesStore(tmp_path / "zones.json")
    threads = [
        threading.Thread(target=store.put, args=(f"cam{i}", {"zones": [SQUARE]})) for i in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(ZonesStore(tmp_path / "zones.json").all()) == 12
