"""A reload that is refused changes nothing: not the sinks, the cameras, the tracks, the page."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml

from tests.trt_afdet.stream.detectors import SyncDetector
from tests.waiting import wait_until
from trt_afdet.detections import Detections
from trt_afdet.errors import AfdetError
from trt_afdet.live.service import Service
from trt_afdet.stream.config.deployment import Deployment
from trt_afdet.stream.config.schema import load_config
from trt_afdet.web.server import WebServer

NAMES = ("a", "b")
CAMERA = "test://?width=64&height=64&fps=40&objects=1"
SQUARE = [[0, 0], [1, 0], [1, 1], [0, 1]]
BOW = [[0.1, 0.1], [0.9, 0.9], [0.9, 0.1], [0.1, 0.8]]


class OneBox(SyncDetector):
    """Finds one object of class "a" in the middle of every frame."""

    names = NAMES

    def __call__(self, frames: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        box = np.array([[20, 20, 40, 40]], np.float32)
        return [Detections(box, np.full(1, 0.9), np.zeros(1), NAMES) for _ in frames]


@dataclass
class Rig:
    """A running deployment of a file, with its page."""

    folder: Path
    service: Service

    @property
    def deployment(self) -> Deployment:
        return self.service.deployment

    @property
    def server(self) -> WebServer:
        assert self.service.web is not None
        return self.service.web

    def reload(self) -> str:
        return str(self.service.reload(load_config(self.folder / "c.yaml")))

    def processed(self) -> int:
        return self.deployment.pipeline.snapshot().sources["cam"].processed

    def facts(self) -> dict[str, Any]:
        """Everything that a refused reload must leave alone."""
        pipeline, analyses = self.deployment.pipeline, self.deployment._analyses
        snapshot = pipeline.snapshot()
        return {
            "files": sorted(str(p) for p in self.folder.rglob("*")),
            "descriptors": open_files(),
            "sinks": [id(runner.sink) for runner in pipeline._sinks],
            "sink threads": [runner._thread.is_alive() for runner in pipeline._sinks],
            "states": {n: (e.state, e.wall_time) for n, e in snapshot.states.items()},
            "reconnects": snapshot.reconnects,
            "captures": {n: id(c) for n, c in pipeline._captures.items()},
            "analyses": {n: id(s) for n, s in analyses.items()},
            "trackers": {n: (id(s._tracker), s.next_id) for n, s in analyses.items()},
            "options": {n: s._options for n, s in analyses.items()},
            "zones": self.deployment.shapes,
            "page": (self.server.zones.revision, self.server.zones.all(), self.server.zones.path),
            "resolved": id(self.deployment.resolved),
        }


def open_files() -> list[str]:
    """What this process holds open."""
    found = []
    for number in Path("/proc/self/fd").iterdir():
        try:
            target = str(number.readlink())
        except OSError:
            continue  # The one of this listing.
        if not target.endswith("/fd"):
            found.append(target)
    return sorted(found)


def configuration(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "sources": [
            {
                "name": "cam",
                "uri": CAMERA,
                "policy": "wait",
                "track": True,
                "zones": {"zones": [{"name": "z", "polygon": SQUARE}]},
            }
        ],
        "sinks": [
            f"jsonl:{folder}/r.jsonl",
            f"csv:{folder}/r.csv",
            f"mqtt://127.0.0.1:9/x?spool={folder}/spool.sqlite",
        ],
        "web": "127.0.0.1:0",
        **more,
    }


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(configuration(tmp_path)))
    service = Service(load_config(path), OneBox())  # type: ignore[arg-type]
    deployment = service.deployment
    thread = threading.Thread(target=deployment.pipeline.run)
    thread.start()
    made = Rig(tmp_path, service)
    try:
        wait_until(lambda: "cam" in deployment.pipeline.snapshot().sources and made.processed() > 5)
        yield made
    finally:
        deployment.pipeline.stop()
        thread.join(30)
    assert not thread.is_alive()


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


Change = Callable[[dict[str, Any], Path, int], None]


def sinks(*uris: str) -> Change:
    """Sinks instead of those that are there; the first is a new file, the old ones are gone."""

    def change(data: dict[str, Any], folder: Path, port: int) -> None:
        texts = [uri.format(folder=folder, port=port) for uri in uris]
        data["sinks"] = [f"jsonl:{folder}/new/deep/second.jsonl", *texts]

    return change


def source(**keys: Any) -> Change:
    def change(data: dict[str, Any], folder: Path, port: int) -> None:
        # A file that would be made if the reload went on.
        data["sinks"].append(f"jsonl:{folder}/second.jsonl")
        data["sources"][0].update(keys)

    return change


def top(**keys: Any) -> Change:
    def change(data: dict[str, Any], folder: Path, port: int) -> None:
        data["sinks"].append(f"csv:{folder}/second.csv")
        data.update(
            {k: v.format(folder=folder) if isinstance(v, str) else v for k, v in keys.items()}
        )

    return change


def zones(text: bytes) -> Change:
    def change(data: dict[str, Any], folder: Path, port: int) -> None:
        (folder / "zones.json").write_bytes(text)
        del data["sources"][0]["zones"]
        data["sinks"].append(f"jsonl:{folder}/second.jsonl")
        data["zones"] = str(folder / "zones.json")

    return change


def zone(polygon: Any, **more: Any) -> dict[str, Any]:
    return {"zones": [{"name": "z", "polygon": polygon, **more}]}


def twice(data: dict[str, Any], folder: Path, port: int) -> None:
    data["sources"].append({"name": "cam", "uri": CAMERA})


BAD: dict[str, Change] = {
    "unknown sink": sinks("jsnol:x"),
    "unknown option of a sink": sinks("jsonl:{folder}/x?fsnyc=always"),
    "wrong option of a sink": sinks("csv:{folder}/x?fsync=bogus"),
    "port in use": sinks("mjpeg://127.0.0.1:{port}"),
    "unknown host": sinks("mjpeg://no.such.host.invalid:8081"),
    "others could watch": sinks("mjpeg://0.0.0.0:{port}"),
    "port in use, others before it": sinks(
        "video:{folder}/video", "csv:{folder}/x.csv",
        "redis://127.0.0.1:9/x?spool={folder}/more/spool.sqlite", "mjpeg://127.0.0.1:{port}",
    ),
    "file of something else": sinks("csv:{folder}/c.yaml"),
    "file in a file": sinks("jsonl:{folder}/c.yaml/x"),
    "folder as file": sinks("jsonl:{folder}"),
    "spool of something else": sinks("redis://127.0.0.1:9/x?spool={folder}/c.yaml"),
    "one place for two sinks": sinks("jsonl:{folder}/x", "csv:{folder}/./x"),
    "one spool for two sinks": sinks(
        "redis://h/x?spool={folder}/s", "redis://h/y?spool={folder}/s"
    ),
    "options of a sink that stays, and a port in use": sinks(
        "jsonl:{folder}/r.jsonl?fsync=always", "mjpeg://127.0.0.1:{port}"
    ),
    "missing model": top(model="{folder}/none.onnx"),
    "unknown key": top(sink="jsonl:x"),
    "missing zones": top(zones="{folder}/no/zones.json", web=None),
    "bad address of the page": top(web="nowhere"),
    "bad proxy": top(web={"trusted_proxies": ["nginx"]}),
    "short token": top(web={"token": "short"}),
    "missing token": top(web={"token_file": "{folder}/none"}),
    "bad address of the metrics": top(metrics="nowhere"),
    "no sources": top(sources=[]),
    "names twice": twice,
    "unknown scheme": source(uri="rstp://host/x"),
    "unknown class": source(classes=["zebra"]),
    "bow tie": source(zones=zone(BOW), classes=["b"]),
    "zone of no area": source(zones=zone([[0, 0], [0.5, 0.5], [1, 1]]), every=3),
    "zone of two corners": source(zones=zone([[0, 0], [1, 1]])),
    "zone of nan": source(zones=zone([[0, 0], [1, 0], [0, float("nan")]])),
    "zone in neither": source(zones=zone([[0, 0], [1.5, 0], [1, 1]])),
    "same names of zones": source(zones={"zones": zone(SQUARE)["zones"] * 2}),
    "bad region": source(region=BOW),
    "tracking refused that zones need": source(track=False),
    "file of zones: no JSON": zones(b"{"),
    "file of zones: no text": zones(b"\xff\xfe\xfd"),
    "file of zones: a bow tie": zones(json.dumps({"cam": zone(BOW)}).encode()),
    "file of zones: a camera twice": zones(b'{"cam": {}, "cam": {}}'),
}  # fmt: skip


def refused(rig: Rig) -> None:
    before, start = rig.facts(), rig.processed()
    with pytest.raises(AfdetError) as refusal:
        rig.reload()
    assert "\n" not in str(refusal.value)
    assert rig.facts() == before
    # And the camera goes on, into the same sinks.
    wait_until(lambda: rig.processed() > start + 5)
    assert rig.facts()["states"] == before["states"]


@pytest.mark.parametrize("name", BAD)
def test_a_refused_reload_changes_nothing(rig: Rig, name: str, taken: int) -> None:
    data = configuration(rig.folder)
    BAD[name](data, rig.folder, taken)
    (rig.folder / "c.yaml").write_text(yaml.safe_dump(data))
    refused(rig)


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"sources: [", b"\x00\xff", b"sources: !!python/object:x {}", b"a: &a [*a]"],
)
def test_a_file_that_is_no_configuration_changes_nothing(rig: Rig, text: bytes) -> None:
    (rig.folder / "c.yaml").write_bytes(text)
    refused(rig)


def test_a_file_that_is_gone_changes_nothing(rig: Rig) -> None:
    (rig.folder / "c.yaml").unlink()
    refused(rig)
    (rig.folder / "c.yaml").mkdir()
    refused(rig)


def test_a_good_reload_after_bad_ones(rig: Rig, taken: int) -> None:
    """What was refused leaves nothing behind that stands in the way."""
    for name in (
        "port in use, others before it",
        "options of a sink that stays, and a port in use",
    ):
        data = configuration(rig.folder)
        BAD[name](data, rig.folder, taken)
        (rig.folder / "c.yaml").write_text(yaml.safe_dump(data))
        refused(rig)
    data = configuration(rig.folder)
    data["sinks"][0] += "?fsync=always"
    data["sinks"].append(f"jsonl:{rig.folder}/new/deep/second.jsonl")
    pixels = zone([[10, 10], [60, 10], [60, 60]], units="pixels")
    data["sources"][0]["zones"] = pixels
    # A byte-order mark is what some editors begin every file with.
    (rig.folder / "c.yaml").write_bytes(b"\xef\xbb\xbf" + yaml.safe_dump(data).encode())
    said = rig.reload()
    assert "adjusted: cam" in said
    assert rig.server.zones.get("cam") == {**pixels, "lines": []}
    second = rig.folder / "new" / "deep" / "second.jsonl"
    wait_until(lambda: second.stat().st_size > 0)
    lines = [json.loads(line) for line in (rig.folder / "r.jsonl").read_text().splitlines()]
    seen = [line["sequence"] for line in lines if line["type"] == "result"]
    assert seen == list(range(len(seen)))
