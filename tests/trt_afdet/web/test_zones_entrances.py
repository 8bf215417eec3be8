"""Zones from the YAML, from the file of zones, and from the page: one check for all."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trt_afdet.web.web_rig import camera, serving
from trt_afdet.errors import AfdetError, InvalidValueError
from trt_afdet.stream.analysis.shapes import parse_shapes, read_zones
from trt_afdet.stream.config.schema import load_config
from trt_afdet.web.server import WebServer
from trt_afdet.web.zones_store import ZonesStore

SQUARE = [[0.1, 0.1], [0.5, 0.1], [0.5, 0.5], [0.1, 0.5]]
GATE = {"name": "gate", "points": [[0, 0.5], [1, 0.5]]}
BIG = [[100, 100], [500, 100], [500, 400]]
SHORT = [[0, 5], [7, 5]]
BOW = [[0.1, 0.1], [0.9, 0.9], [0.9, 0.1], [0.1, 0.8]]


def zone(*points: Any, name: Any = "z", **more: Any) -> dict[str, Any]:
    return {"zones": [{"name": name, "polygon": list(points), **more}]}


def line(*points: Any, **more: Any) -> dict[str, Any]:
    return {"lines": [{"name": "l", "points": list(points), **more}]}


#: What every entrance takes, and as what; the same as given where None.
GOOD: list[tuple[str, dict[str, Any], dict[str, Any] | None]] = [
    ("shares", zone(*SQUARE), None),
    ("line", {"lines": [GATE]}, None),
    ("nothing", {}, {}),
    ("concave", zone([0, 0], [1, 0.5], [0, 1], [0.3, 0.5]), None),
    ("closed ring", zone(*SQUARE, SQUARE[0]), zone(*SQUARE)),
    ("corner twice", zone(SQUARE[0], *SQUARE), zone(*SQUARE)),
    ("one corner 1.01", zone([0, 0], [1.01, 0], [1, 1]), zone([0, 0], [1, 0], [1, 1])),
    ("a hair above 1", zone([0, 0], [1.0000001, 0], [0, 1]), zone([0, 0], [1, 0], [0, 1])),
    ("a hair below 0", zone([0, -1e-9], [1, 0], [0, 1]), zone([0, 0], [1, 0], [0, 1])),
    ("line to 1.02", line([0, 0.5], [1.02, 0.5]), line([0, 0.5], [1, 0.5])),
    ("pixels", zone(*BIG), zone(*BIG, units="pixels")),
    ("pixels, said", zone([0, 0], [4, 0], [4, 4], units="pixels"), None),
    ("shares, said", zone(*SQUARE, units="shares"), zone(*SQUARE)),
    ("said for all", {"units": "pixels", **line(*SHORT)}, line(*SHORT, units="pixels")),
    ("outside", zone([2000, 1500], [3000, 1500], [3000, 2000], units="pixels"), None),
    ("long name", zone(*SQUARE, name="x" * 80), None),
    ("unicode", zone(*SQUARE, name="Tür 🚪"), None),
    ("blanks", zone(*SQUARE, name=" a "), zone(*SQUARE, name="a")),
    ("many digits", zone([0.1234567890123, 0], [1, 0], [0, 1]), None),
]  # fmt: skip

#: What no entrance takes, and why.
BAD: list[tuple[str, Any, str]] = [
    ("no object", [], "must be an object"),
    ("unknown key", {"zone": []}, "unknown key"),
    ("no list", {"zones": {}}, "zones must be a list"),
    ("too many", {"lines": [{**GATE, "name": f"l{i}"} for i in range(65)]}, "at most 64"),
    ("number", {"zones": [5]}, "must be an object"),
    ("unknown key of a zone", zone(*SQUARE, color=1), "unknown key"),
    ("empty name", zone(*SQUARE, name=""), "needs a name"),
    ("blank name", zone(*SQUARE, name="  "), "needs a name"),
    ("number as name", zone(*SQUARE, name=7), "needs a name"),
    ("no name", {"zones": [{"polygon": SQUARE}]}, "needs a name"),
    ("very long name", zone(*SQUARE, name="x" * 101), "at most 100 characters"),
    ("line break in a name", zone(*SQUARE, name="a\nb"), "printable"),
    ("same name", {**zone(*SQUARE, name="gate "), "lines": [GATE]}, "same name"),
    ("no corners", {"zones": [{"name": "z"}]}, "must be a list"),
    ("two corners", zone([0, 0], [1, 0]), "at least 3 corners"),
    ("two corners, closed", zone([0, 0], [1, 0], [0, 0]), "at least 3 corners"),
    ("many corners", zone(*[[i / 200, (i / 200) ** 2] for i in range(129)]), "more than 128"),
    ("flat list", zone(0.1, 0.1, 0.9, 0.1, 0.9, 0.9), "a point is"),
    ("text", {"zones": [{"name": "z", "polygon": "0.1,0.1,0.9,0.1"}]}, "must be a list"),
    ("text as number", zone([0, 0], [1, 0], [0, "1"]), "a point is"),
    ("truth as number", zone([0, 0], [1, 0], [0, True]), "a point is"),
    ("one number", zone([0, 0], [1, 0], [0]), "a point is"),
    ("three numbers", zone([0, 0, 0], [1, 0, 0], [0, 1, 0]), "a point is"),
    ("null", zone([0, 0], [1, 0], [0, None]), "a point is"),
    ("nan", zone([0, 0], [1, 0], [0, float("nan")]), "must be numbers"),
    ("infinite", zone([0, 0], [1, 0], [0, float("inf")]), "must be numbers"),
    ("enormous", zone([0, 0], [1, 0], [0, 10**400]), "enormous"),
    ("no area", zone([0, 0], [0.5, 0.5], [1, 1]), "no area"),
    ("no area once clamped", zone([1, 0], [1.04, 0.5], [1.02, 1]), "no area|at least 3"),
    ("bow tie", zone(*BOW), "cross each other"),
    ("bow tie of no area", zone([0, 0], [1, 1], [1, 0], [0, 1]), "cross each other"),
    ("bow tie in pixels", zone([100, 100], [900, 900], [900, 100], [100, 800]), "cross"),
    ("neither", zone([0, 0], [1.5, 0], [1, 1]), "shares of the picture .* or pixels"),
    ("shares above 1", zone([0, 0], [1.5, 0], [1, 1], units="shares"), "0 to 1"),
    ("shares below 0", zone([-0.1, 0], [1, 0], [1, 1]), "0 to 1"),
    ("pixels below 0", zone([-5, 0], [640, 0], [0, 480]), "pixels must be"),
    ("pixels of no picture", zone([0, 0], [1e9, 0], [0, 1e9]), "pixels must be"),
    ("percent, said", zone(*SQUARE, units="percent"), "unknown units"),
    ("units of another kind", {"units": 5, **zone(*SQUARE)}, "unknown units"),
    ("point as line", line([0, 0]), "two different points"),
    ("line of no length", line([0.1, 0.1], [0.1, 0.1]), "two different points"),
    ("short line", line([0.5, 0.5], [0.503, 0.5]), "too short"),
    ("short line in pixels", line([100, 100], [101, 100]), "too short"),
    ("line of three", line([0, 0], [0.5, 0.5], [1, 0.5]), "two different points"),
]

Entrance = Callable[[Any], dict[str, Any]]


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    with serving([camera("cam")]) as server:
        yield server


@pytest.fixture(params=["yaml", "yaml with the page", "file", "store", "http"])
def entrance(request: pytest.FixtureRequest, tmp_path: Path, server: WebServer) -> Entrance:
    """Takes zones as one kind of user gives them, and returns what is stored."""
    path = tmp_path / "file"

    def by_yaml(value: Any) -> dict[str, Any]:
        web = {"web": "127.0.0.1:0"} if "page" in request.param else {}
        source = {"name": "cam", "uri": "test://", "zones": value}
        path.write_text(yaml.safe_dump({"sources": [source], **web}, allow_unicode=True))
        return load_config(path).config.sources[0].shapes.to_dict()

    def by_file(value: Any) -> dict[str, Any]:
        # A byte-order mark is what some editors begin every file with.
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"cam": value}).encode())
        return read_zones(path)["cam"].to_dict()

    def by_store(value: Any) -> dict[str, Any]:
        ZonesStore(path).put("cam", value)
        again: dict[str, Any] = ZonesStore(path).get("cam")
        return again

    def by_http(value: Any) -> dict[str, Any]:
        url = f"{server.url}api/zones/cam"
        asked = urllib.request.Request(url, json.dumps(value).encode(), method="PUT")
        asked.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(asked, timeout=30) as answer:
                stored = json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code != 422:
                raise
            raise InvalidValueError(json.load(error)["error"]) from error
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert json.load(answer) == stored
        return dict(stored)

    entrances: dict[str, Entrance] = {
        "yaml": by_yaml, "yaml with the page": by_yaml,
        "file": by_file, "store": by_store, "http": by_http,
    }  # fmt: skip
    return entrances[request.param]


@pytest.mark.parametrize(("value", "stored"), [g[1:] for g in GOOD], ids=[g[0] for g in GOOD])
def test_every_entrance_takes(
    entrance: Entrance, value: dict[str, Any], stored: dict[str, Any] | None
) -> None:
    expected = {"zones": [], "lines": [], **(value if stored is None else stored)}
    assert entrance(value) == expected
    # What was given out is taken again, and is the same.
    assert entrance(expected) == expected


@pytest.mark.parametrize(("value", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_every_entrance_refuses(
    entrance: Entrance, value: Any, message: str, request: pytest.FixtureRequest
) -> None:
    if value == [] and "yaml" in request.node.name:
        message = "mapping|dictionary"
    with pytest.raises(AfdetError, match=message) as refusal:
        entrance(value)
    assert "\n" not in str(refusal.value)


def test_a_source_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "zones.json"
    path.write_text('{"a": {}, "b": {}, "a": {"zones": []}}')
    with pytest.raises(AfdetError, match=r"zones\.json.*given twice \(got a\)"):
        read_zones(path)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.sampled_from(["zones", "lines", "name", "polygon", "points", "units"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)
near = st.one_of(st.floats(-0.1, 1.1), st.integers(-1, 700), st.sampled_from([0, 1, 1.01, 1e-9]))
shapes = st.fixed_dictionaries(
    {
        "zones": st.lists(
            st.fixed_dictionaries(
                {
                    "name": st.text(min_size=1, max_size=3),
                    "polygon": st.lists(st.tuples(near, near).map(list), max_size=6),
                }
            ),
            max_size=3,
        )
    }
)


@settings(max_examples=2000, deadline=None)
@given(values | shapes)
def test_anything_is_taken_or_refused_in_one_line(value: Any) -> None:
    refusal = ""
    try:
        taken = parse_shapes(value)
    except InvalidValueError as error:
        refusal = str(error)
    assert "\n" not in refusal
    if refusal:
        return
    stored = taken.to_dict()
    assert parse_shapes(json.loads(json.dumps(stored))) == taken
    small = taken.in_shares(640, 480)
    assert all(0 <= v <= 1 for z in small.zones for point in z.points for v in point)


def test_concurrent_puts_keep_whole_zones(server: WebServer) -> None:
    values = [zone([0, 0], [1, 0], [0, share / 10]) for share in range(1, 9)]
    threads = [threading.Thread(target=server.zones.put, args=("cam", v)) for v in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert server.zones.get("cam")["zones"] in [v["zones"] for v in values]
