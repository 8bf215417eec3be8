"""Zones and lines with tracks worked out by hand."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trt_afdet.detections import Detections
from trt_afdet.errors import CorruptFileError, InvalidValueError, MissingFileError
from trt_afdet.stream.analysis.shapes import Shapes, parse_shapes, read_zones
from trt_afdet.stream.analysis.zones import ANCHORS, ZoneOptions, Zones

# The middle fifth of a picture of 1000 x 1000, and a line down its middle, drawn upwards.
ZONE = {"name": "strip", "polygon": [[0.4, 0], [0.6, 0], [0.6, 1], [0.4, 1]]}
LINE = {"name": "gate", "points": [[0.5, 0.9], [0.5, 0.1]]}
SHARP = ZoneOptions(confirm=1, margin=0, grace=1.0, dwell=None)


def at(*places: tuple[int, float, float], name: str = "car") -> Detections:
    """Objects whose bottom centres are at (x, y): number, x, y."""
    boxes = [[x - 10, y - 40, x + 10, y] for _, x, y in places]
    count = len(places)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.ones(count, np.float32),
        np.full(count, 0 if name == "car" else 1),
        ("car", "bike"),
        np.array([number for number, _, _ in places], np.int64),
    )


class Walk:
    """A monitor, and the events of what walks past it, ten frames a second."""

    def __init__(self, *shapes: dict[str, Any], options: ZoneOptions = SHARP) -> None:
        value = {
            "zones": [s for s in shapes if "polygon" in s],
            "lines": [s for s in shapes if "points" in s],
        }
        self.monitor = Zones(parse_shapes(value), options=options, source="cam")
        self.step = 0
        self.events: list[dict[str, Any]] = []

    def frame(self, *places: tuple[int, float, float], name: str = "car") -> list[dict[str, Any]]:
        moment = self.step / 10
        new = self.monitor.update(
            at(*places, name=name), moment, wall_time=5000 + moment, size=(1000, 1000)
        )
        self.step += 1
        self.events += [event.to_json() for event in new]
        return [event.to_json() for event in new]

    def path(self, *xs: float, y: float = 500, number: int = 7) -> None:
        for x in xs:
            self.frame((number, x, y))

    def brief(self) -> list[tuple[Any, ...]]:
        """Kind, zone or line, number or count or direction, time since the start."""
        return [
            (
                e["kind"],
                e.get("zone", e.get("line")),
                e.get("direction", e.get("count", e.get("track_id"))),
                round(e["wall_time"] - 5000, 3),
            )
            for e in self.events
        ]


def test_enter_count_and_leave() -> None:
    walk = Walk(ZONE)
    walk.path(350, 450, 550, 650)
    assert walk.brief() == [
        ("enter", "strip", 7, 0.1),
        ("count", "strip", 1, 0.1),
        ("leave", "strip", 7, 0.3),
        ("count", "strip", 0, 0.3),
    ]
    leave = walk.events[2]
    assert leave["seconds"] == 0.2
    assert leave["reason"] == "moved"
    assert leave["class"] == "car"
    assert leave["source"] == "cam"
    assert walk.events[1]["classes"] == {"car": 1}
    assert walk.events[3]["entered"] == 1
    json.dumps(walk.events)


def test_who_appears_inside_has_entered_and_several_are_counted_by_class() -> None:
    walk = Walk(ZONE)
    walk.frame((1, 500, 500), (2, 520, 500), (3, 900, 500))
    assert [e["kind"] for e in walk.events] == ["enter", "enter", "count"]
    assert walk.events[-1]["count"] == 2
    assert walk.events[-1]["entered"] == 2
    walk.frame((1, 100, 500), name="bike")
    assert walk.events[-1]["classes"] == {"car": 1}


def test_one_frame_is_no_event_if_two_must_agree_and_times_are_those_of_the_first() -> None:
    walk = Walk(ZONE, options=ZoneOptions(confirm=2, margin=0, dwell=None))
    walk.path(350, 450, 350, 350)
    assert walk.events == []
    walk.path(450, 450, 300, 450, 300, 300)
    assert [(kind, when) for kind, _, _, when in walk.brief() if kind != "count"] == [
        ("enter", 0.4),
        ("leave", 0.8),
    ]


def test_who_stands_on_the_edge_neither_enters_nor_leaves_all_the_time() -> None:
    walk = Walk(ZONE, options=ZoneOptions(confirm=1, margin=0.01, dwell=None))
    walk.path(*[400 + (5 if step % 2 else -5) for step in range(50)])
    assert [e["kind"] for e in walk.events] == ["enter", "count"]
    walk.path(385)
    assert walk.events[-2]["kind"] == "leave"


def test_dwell_once_per_stay() -> None:
    walk = Walk(ZONE, options=ZoneOptions(confirm=1, margin=0, grace=1, dwell=0.5))
    walk.path(*[500] * 12, 700, *[500] * 7)
    dwells = [e for e in walk.events if e["kind"] == "dwell"]
    assert [(round(e["wall_time"] - 5000, 3), e["seconds"]) for e in dwells] == [
        (0.5, 0.5),
        (1.8, 0.5),
    ]


def test_who_is_lost_inside_leaves_after_the_grace_at_the_time_of_the_last_sight() -> None:
    walk = Walk(ZONE)
    walk.path(500, 510, 520)
    for _ in range(10):
        assert walk.frame() == []  # 1.0 s after the last sight is still within the grace.
    leave, count = walk.frame()
    assert (leave["kind"], leave["reason"], leave["seconds"]) == ("leave", "lost", 0.2)
    assert leave["wall_time"] == 5000.2
    assert count["count"] == 0
    assert walk.frame() == []


def test_who_is_hidden_for_a_moment_stays() -> None:
    walk = Walk(ZONE)
    walk.path(500)
    for _ in range(8):
        walk.frame()
    walk.path(500)
    assert [e["kind"] for e in walk.events] == ["enter", "count"]


@pytest.mark.parametrize(
    ("xs", "directions"),
    [
        ((450, 550), ["in"]),  # From left to right of a line drawn upwards: eastwards.
        ((550, 450), ["out"]),
        ((450, 550, 450, 550), ["in", "out", "in"]),
        ((450, 500, 550), ["in"]),
        ((450, 500, 450), []),
        ((100, 900), ["in"]),
    ],
)
def test_directions(xs: tuple[float, ...], directions: list[str]) -> None:
    walk = Walk(LINE)
    walk.path(*xs)
    assert [e["direction"] for e in walk.events] == directions
    if directions == ["in", "out", "in"]:
        assert (walk.events[-1]["total_in"], walk.events[-1]["total_out"]) == (2, 1)


def test_a_line_has_ends() -> None:
    walk = Walk(LINE)
    walk.path(450, 550, y=50)
    assert walk.events == []
    # Around its upper end and back through it: one crossing, outwards.
    for x, y in ((450, 500), (450, 50), (550, 50), (550, 500), (450, 500)):
        walk.frame((9, x, y))
    assert [e["direction"] for e in walk.events] == ["out"]


def test_who_dances_on_a_line_crosses_it_once() -> None:
    walk = Walk(LINE, options=ZoneOptions(margin=0.02, dwell=None))
    walk.path(450, *[500 + (9 if step % 2 else -9) for step in range(20)], 560)
    assert [e["direction"] for e in walk.events] == ["in"]
    walk.path(*[500 + (9 if step % 2 else -9) for step in range(21)], 560)
    assert len(walk.events) == 1


@pytest.mark.parametrize("anchor", ANCHORS)
def test_the_anchor_decides(anchor: str) -> None:
    share = ANCHORS[anchor]
    monitor = Zones(
        {"z": [(90, 90), (110, 90), (110, 110), (90, 110)]},
        options=ZoneOptions(anchor=anchor, confirm=1),
    )
    x1, y1 = 100 - 200 * share[0], 100 - 300 * share[1]
    boxes = np.array([[x1, y1, x1 + 200, y1 + 300]], np.float32)
    found = Detections(boxes, [0.9], [0], ("car",), [1])  # type: ignore[arg-type]
    assert monitor.update(found, 0, wall_time=0, size=(1000, 1000))
    away = Detections(boxes + 40, [0.9], [0], ("car",), [2])  # type: ignore[arg-type]
    assert not monitor.update(away, 0.1, wall_time=0, size=(1000, 1000))


def test_shares_hold_for_every_size_and_pixels_for_theirs() -> None:
    found = at((1, 500, 500))
    for polygon, sizes in (
        (ZONE["polygon"], {(1000, 1000): True, (1200, 700): True, (2000, 1000): False}),
        ([[450, 450], [550, 450], [550, 550]], {(1000, 1000): True, (2000, 1000): True}),
    ):
        for (width, height), inside in sizes.items():
            monitor = Zones({"z": polygon}, options=SHARP)
            assert bool(monitor.update(found, 0, size=(width, height))) is inside


def test_objects_without_a_number_make_no_events() -> None:
    monitor = Zones(parse_shapes({"zones": [ZONE], "lines": [LINE]}), options=SHARP, source="cam")
    for x in (300, 500, 700):
        assert monitor.update(at((-1, x, 500)), x / 100, wall_time=0, size=(1000, 1000)) == ()


def test_zones_are_replaced_while_it_runs() -> None:
    other = {"name": "other", "polygon": [[0, 0], [0.3, 0], [0.3, 1], [0, 1]]}
    walk = Walk(ZONE, other)
    walk.frame((1, 500, 500), (2, 100, 500))
    walk.monitor.replace(parse_shapes({"zones": [ZONE], "lines": [LINE]}))
    events = walk.frame((1, 480, 500), (2, 100, 500))
    assert [(e["kind"], e["zone"], e["track_id"], e["reason"]) for e in events] == [
        ("leave", "other", 2, "zone gone")
    ]
    events = walk.frame((1, 700, 500), (2, 100, 500))
    assert [e["kind"] for e in events] == ["cross", "leave", "count"] or [
        e["kind"] for e in events
    ] == ["leave", "cross", "count"]
    walk.monitor.replace(Shapes())
    assert walk.frame((1, 500, 500)) == []
    assert walk.monitor.shapes == Shapes()


def test_zones_are_replaced_from_another_thread_all_the_time() -> None:
    monitor = Zones(parse_shapes({"zones": [ZONE]}), options=SHARP, source="cam")
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            monitor.replace(parse_shapes({"zones": [ZONE], "lines": [LINE]}))
            monitor.replace(parse_shapes({"lines": [LINE]}))

    thread = threading.Thread(target=replace)
    thread.start()
    inside = 0
    try:
        for step in range(500):
            for event in monitor.update(
                at((1, 500, 500)), step / 10, wall_time=0, size=(1000, 1000)
            ):
                inside += {"enter": 1, "leave": -1}.get(event.kind, 0)
                assert 0 <= inside <= 1
    finally:
        stop.set()
        thread.join()


def test_a_file_that_starts_again_ends_all_stays() -> None:
    monitor = Zones(parse_shapes({"zones": [ZONE]}), options=SHARP, source="cam")
    monitor.update(at((1, 500, 500)), 60.0, wall_time=0, size=(1000, 1000))
    events = monitor.update(at((2, 100, 500)), 0.0, wall_time=0, size=(1000, 1000))
    assert [event.kind for event in events] == ["leave", "count"]


def test_tracks_are_forgotten() -> None:
    monitor = Zones(parse_shapes({"zones": [ZONE], "lines": [LINE]}), options=SHARP, source="cam")
    for step in range(500):
        monitor.update(at((step, 500, 500)), step / 10, wall_time=0, size=(1000, 1000))
    assert len(monitor._tracks) <= 12


def test_a_file_of_zones(tmp_path: Path) -> None:
    path = tmp_path / "zones.json"
    value = {"cam": {"zones": [ZONE], "lines": [LINE]}, "yard": {"zones": []}}
    path.write_text(json.dumps(value))
    shapes = read_zones(path)
    assert shapes["cam"].to_dict() == {"zones": [ZONE], "lines": [LINE]}
    assert not shapes["yard"]
    with pytest.raises(MissingFileError):
        read_zones(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "one object with an entry per source"),
        ("{", "is not a file of zones"),
        ('{"c": {"zonse": []}}', "did you mean 'zones'"),
        ('{"c": {"zones": {}}}', "must be a list"),
        ('{"c": {"zones": [{"polygon": []}]}}', "needs a name"),
        ('{"c": {"zones": [{"name": "a", "polygon": [[0, 0], [1, 1]]}]}}', "at least 3 corners"),
        ('{"c": {"zones": [{"name": "a", "polygon": [[0, 0], [1, 1], [0]]}]}}', r"\[x, y\]"),
        ('{"c": {"zones": [{"name": "a", "polygon": [[0, 0], [0.2, 0.2], [1, 1]]}]}}', "no area"),
        ('{"c": {"lines": [{"name": "a", "points": [[0, 0], [0, 0]]}]}}', "two different points"),
        ('{"c": {"lines": [{"name": "a", "points": [[0, 0], [0, -1]]}]}}', "must be 0 to 1"),
        (
            '{"c": {"zones": [{"name": "a", "polygon": [[0, 0], [1, 0], [1, 1]]}], '
            '"lines": [{"name": "a", "points": [[0, 0], [1, 1]]}]}}',
            "the same name",
        ),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "zones.json"
    path.write_text(text)
    with pytest.raises(CorruptFileError, match=message):
        read_zones(path)


@pytest.mark.parametrize(
    "values", [{"anchor": "botom"}, {"confirm": 0}, {"margin": -1}, {"dwell": float("nan")}]
)
def test_bad_options_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        ZoneOptions(**values)
