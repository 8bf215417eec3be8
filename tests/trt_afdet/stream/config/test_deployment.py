"""A running pipeline takes on another configuration; what did not change notices nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.trt_afdet.stream.detectors import SyncDetector
from tests.waiting import LIMIT, wait_until
from trt_afdet.detections import Detections
from trt_afdet.errors import AfdetError
from trt_afdet.stream.config.deployment import Changes, Deployment, resolve
from trt_afdet.stream.config.schema import ConfigError, Loaded, config_from

NAMES = ("a", "b")
CAMERA = "test://?width=64&height=64&fps=40&objects=1"
HALF = {"zones": [{"name": "z", "polygon": [[0, 0], [1, 0], [1, 1], [0, 1]]}]}


class OneBox(SyncDetector):
    """Finds one object of class "a" in the middle of every frame."""

    def __call__(self, frames: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        box = np.array([[20, 20, 40, 40]], np.float32)
        one = Detections(box, np.full(1, 0.9), np.zeros(1), NAMES)
        return [one for _ in frames]


def loaded(*cameras: dict[str, Any], **more: Any) -> Loaded:
    """A configuration in which no frame is dropped for want of time."""
    sources = [{"uri": CAMERA, "policy": "wait", **camera} for camera in cameras]
    return config_from({"sources": sources, **more})


@contextmanager
def running(config: Loaded) -> Iterator[Deployment]:
    deployment = Deployment(resolve(config, NAMES), OneBox(), NAMES)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            deployment.pipeline.run()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield deployment
    finally:
        deployment.pipeline.stop()
        thread.join(LIMIT)
    assert not thread.is_alive()
    assert not failures


def processed(deployment: Deployment, name: str) -> int:
    figures = deployment.pipeline.snapshot().sources.get(name)
    return figures.processed if figures is not None else 0


def more_frames(deployment: Deployment, *names: str, count: int = 10) -> None:
    """Waits until each camera has got on."""
    start = {name: processed(deployment, name) for name in names}
    wait_until(lambda: all(processed(deployment, n) >= start[n] + count for n in names))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def results(path: Path, source: str) -> list[dict[str, Any]]:
    return [r for r in lines(path) if r["type"] == "result" and r["source"] == source]


def sequences(path: Path, source: str) -> list[int]:
    return [r["sequence"] for r in results(path, source)]


def states(path: Path, source: str) -> list[str]:
    return [r["state"] for r in lines(path) if r["type"] == "status" and r["source"] == source]


def undisturbed(path: Path, source: str) -> None:
    """Its state has changed only at the start and, if that still reached the file, the end."""
    assert states(path, source) in (
        ["connecting", "live"],
        ["connecting", "live", "ended"],
    )


def test_unchanged_cameras_lose_no_frame_over_reloads(tmp_path: Path) -> None:
    out = tmp_path / "found.jsonl"
    sinks = {"sinks": [f"jsonl:{out}"]}
    with running(loaded({"name": "stays"}, {"name": "goes"}, **sinks)) as deployment:
        more_frames(deployment, "stays", "goes")
        changes = deployment.reload(loaded({"name": "stays"}, {"name": "comes"}, **sinks))
        assert (changes.added, changes.removed, changes.restarted) == (("comes",), ("goes",), ())
        more_frames(deployment, "stays", "comes")
        other = {"name": "comes", "uri": CAMERA + "&seed=5"}
        changes = deployment.reload(loaded(other, {"name": "stays"}, **sinks))
        assert (changes.added, changes.removed, changes.restarted) == ((), (), ("comes",))
        more_frames(deployment, "stays", "comes")
        assert str(deployment.reload(loaded(other, {"name": "stays"}, **sinks))) == (
            "nothing has changed"
        )
        assert set(deployment.pipeline.snapshot().states) == {"stays", "comes"}
    seen = sequences(out, "stays")
    assert seen == list(range(len(seen)))
    undisturbed(out, "stays")
    assert states(out, "goes") == ["connecting", "live", "ended"]
    # A camera that comes back goes on counting: no number twice.
    again = sequences(out, "comes")
    assert again == sorted(set(again))


def test_what_concerns_only_the_stage_does_not_touch_the_camera(tmp_path: Path) -> None:
    out = tmp_path / "found.jsonl"
    sinks = {"sinks": [f"jsonl:{out}"]}
    with running(loaded({"name": "cam", "track": True}, **sinks)) as deployment:
        more_frames(deployment, "cam")
        changes = deployment.reload(
            loaded({"name": "cam", "track": True, "every": 3, "classes": ["a"]}, **sinks)
        )
        assert changes == Changes(adjusted=("cam",))
        more_frames(deployment, "cam")
        changes = deployment.reload(
            loaded({"name": "cam", "track": True, "every": 3, "zones": HALF}, **sinks)
        )
        assert changes == Changes(adjusted=("cam",))
        more_frames(deployment, "cam")
        deployment.reload(loaded({"name": "cam", "track": True, "classes": ["b"]}, **sinks))
        more_frames(deployment, "cam")
    rows = results(out, "cam")
    assert [r["sequence"] for r in rows] == list(range(len(rows)))
    undisturbed(out, "cam")
    assert not all(r["detected"] for r in rows)
    assert {d["tracker_id"] for r in rows[5:] for d in r["detections"]} == {1}
    assert [e["kind"] for r in rows for e in r["events"]][:2] == ["enter", "count"]
    assert [e.get("reason") for r in rows for e in r["events"]][-1] == "zone gone"
    assert rows[-1]["detections"] == []


def test_numbers_are_not_given_twice_over_a_restart(tmp_path: Path) -> None:
    out = tmp_path / "found.jsonl"
    sinks = {"sinks": [f"jsonl:{out}"]}
    with running(loaded({"name": "cam", "track": True}, **sinks)) as deployment:
        more_frames(deployment, "cam")
        before = len(results(out, "cam"))
        deployment.reload(loaded({"name": "cam", "track": True, "queue": 2}, **sinks))
        more_frames(deployment, "cam")
    rows = results(out, "cam")
    numbers = [d["tracker_id"] for r in rows for d in r["detections"] if d["tracker_id"]]
    assert numbers == sorted(numbers)
    assert set(numbers) == {1, 2}
    assert before > 0
    assert [r["sequence"] for r in rows] == sorted({r["sequence"] for r in rows})


def test_sinks_come_and_go_and_lose_nothing(tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{name}.jsonl" for name in ("one", "two", "three"))
    cam = {"name": "cam"}
    with running(loaded(cam, sinks=[f"jsonl:{first}", f"jsonl:{second}"])) as deployment:
        more_frames(deployment, "cam")
        changes = deployment.reload(loaded(cam, sinks=[f"jsonl:{first}", f"jsonl:{third}"]))
        assert len(changes.sinks_added) == len(changes.sinks_removed) == 1
        assert len(deployment.pipeline.snapshot().sinks) == 2
        more_frames(deployment, "cam")
        # The same place in another way: the old sink has let go of it before.
        changes = deployment.reload(
            loaded(cam, sinks=[f"jsonl:{first}?fsync=always", f"jsonl:{third}"])
        )
        assert len(changes.sinks_added) == len(changes.sinks_removed) == 1
        more_frames(deployment, "cam")
    seen = sequences(first, "cam")
    assert seen == sorted(set(seen))
    assert len(seen) > 25
    for path in (second, third):
        part = sequences(path, "cam")
        assert part == list(range(part[0], part[0] + len(part)))
    assert sequences(second, "cam")[0] == 0
    assert sequences(third, "cam")[-1] == seen[-1]


def test_a_sink_that_does_not_open_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "found.jsonl"
    (tmp_path / "file").write_text("")
    bad = f"jsonl:{tmp_path}/file/x.jsonl"
    with running(loaded({"name": "cam"}, sinks=[f"jsonl:{out}"])) as deployment:
        more_frames(deployment, "cam")
        # Both: one that takes the place of an old one, and one that cannot be opened.
        for new in ([bad], [f"jsonl:{out}?fsync=always", bad]):
            with pytest.raises(AfdetError):
                deployment.reload(loaded({"name": "other"}, sinks=new))
            assert set(deployment.pipeline.snapshot().states) == {"cam"}
            assert len(deployment.pipeline.snapshot().sinks) == 1
            count = len(results(out, "cam"))
            more_frames(deployment, "cam")
            wait_until(lambda count=count: len(results(out, "cam")) > count)  # type: ignore[misc]
        deployment.reload(loaded({"name": "cam"}, sinks=[f"jsonl:{out}?fsync=always"]))
        more_frames(deployment, "cam")
    seen = sequences(out, "cam")
    assert seen == sorted(set(seen))


def test_what_cannot_be_used_changes_nothing_and_is_named() -> None:
    with running(loaded({"name": "cam", "zones": HALF})) as deployment:
        more_frames(deployment, "cam")
        for camera, message in (
            ({"name": "new", "classes": ["aa"]}, r"sources\[0\].classes.*no such class"),
            ({"name": "new", "uri": "rstp://host/x"}, r"sources\[0\].uri.*rtsp"),
            ({"name": "new", "conf": {"c": 0.2}}, r"sources\[0\].conf.*no such class"),
        ):
            with pytest.raises(ConfigError, match=message):
                deployment.reload(loaded(camera))
        with pytest.raises(ConfigError, match=r"sinks\[0\].uri"):
            deployment.reload(loaded({"name": "new"}, sinks=["jsnol:x"]))
        assert set(deployment.pipeline.snapshot().states) == {"cam"}
        assert deployment.resolved.config.sources[0].name == "cam"
        more_frames(deployment, "cam")


def test_what_needs_a_restart_is_said(tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.touch()
    with running(loaded({"name": "cam"}, conf=0.5)) as deployment:
        changes = deployment.reload(loaded({"name": "cam"}, conf=0.4, threads=3, model=str(other)))
        assert changes.fixed == ("model", "threads", "confidences below 0.5")
        assert "at the next start: model, threads" in str(changes)
        more_frames(deployment, "cam")


def test_a_run_does_not_end_while_its_only_camera_is_replaced() -> None:
    files = {"name": "file", "uri": CAMERA.replace("fps=40", "fps=0&frames=5")}
    with running(loaded(files, {"name": "cam"})) as deployment:
        more_frames(deployment, "cam")
        for seed in range(5):
            camera = {"name": "cam", "uri": f"{CAMERA}&seed={seed}"}
            deployment.reload(loaded(files, camera))
            more_frames(deployment, "cam", count=2)


def test_a_file_of_zones_is_read_again_and_the_page_may_change_them(tmp_path: Path) -> None:
    out, zones = tmp_path / "found.jsonl", tmp_path / "zones.json"
    zones.write_text(json.dumps({"cam": {"zones": []}}))
    more = {"sinks": [f"jsonl:{out}"], "zones": str(zones)}
    with running(loaded({"name": "cam"}, **more)) as deployment:
        more_frames(deployment, "cam")
        zones.write_text(json.dumps({"cam": HALF}))
        assert deployment.reload(loaded({"name": "cam"}, **more)).adjusted == ("cam",)
        wait_until(lambda: any(r["events"] for r in results(out, "cam")))
        deployment.set_zones("cam", {"zones": []})
        wait_until(
            lambda: any(
                e.get("reason") == "zone gone" for r in results(out, "cam") for e in r["events"]
            )
        )
        zones.write_text("{")
        with pytest.raises(ConfigError, match="zones"):
            deployment.reload(loaded({"name": "cam"}, **more))
        zones.unlink()
        with pytest.raises(ConfigError, match="zones"):
            deployment.reload(loaded({"name": "cam"}, **more))
        with pytest.raises(AfdetError):
            deployment.set_zones("cam", {"zonse": []})
    undisturbed(out, "cam")


def test_what_was_drawn_on_the_page_outlives_a_reload_of_a_file_without_zones() -> None:
    with running(loaded({"name": "cam"}, {"name": "other", "zones": HALF})) as deployment:
        deployment.set_zones("cam", HALF)
        deployment.set_zones("other", {"zones": []})
        changes = deployment.reload(loaded({"name": "cam"}, {"name": "other", "zones": HALF}))
        assert changes == Changes()
        assert set(deployment.shapes) == {"cam"}
        # The file's own word counts when it changes; a restart changes nothing.
        changes = deployment.reload(loaded({"name": "cam", "queue": 2}, {"name": "other"}))
        assert changes == Changes(restarted=("cam",))
        assert set(deployment.shapes) == {"cam"}


def test_zones_of_no_source_are_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    zones = tmp_path / "zones.json"
    zones.write_text(json.dumps({"dor": HALF}))
    resolve(loaded({"name": "door"}, zones=str(zones)), NAMES)
    assert "unknown source dor - did you mean 'door'?" in caplog.text


def test_names_are_made_where_none_are_given() -> None:
    plan = resolve(config_from({"sources": [CAMERA, CAMERA, {"uri": CAMERA, "name": "x"}]}), None)
    names = [source.name for source in plan.sources]
    assert len(set(names)) == 3
    assert names[2] == "x"
    with pytest.raises(ConfigError, match="same place"):
        resolve(
            config_from({"sources": [CAMERA], "sinks": ["jsonl:x", "jsonl:x?fsync=never"]}), None
        )


def test_one_camera_of_eight_is_dead_from_the_start(tmp_path: Path) -> None:
    out = tmp_path / "found.jsonl"
    cameras = [{"name": f"c{i}"} for i in range(7)]
    # Nothing listens there: the system refuses at once.
    dead = {"name": "dead", "uri": "rtsp://127.0.0.1:1/none", "retry": {"first": 0.05}}
    with running(loaded(dead, *cameras, sinks=[f"jsonl:{out}"], batch=8)) as deployment:
        more_frames(deployment, *(f"c{i}" for i in range(7)), count=40)
        figures = deployment.pipeline.snapshot()
        assert figures.states["dead"].state in ("connecting", "lost")
        wait_until(lambda: deployment.pipeline.snapshot().reconnects["dead"] >= 2)
    for index in range(7):
        seen = sequences(out, f"c{index}")
        assert seen == list(range(len(seen)))
        assert figures.sources[f"c{index}"].latency_p50 < 0.5
    assert "live" not in states(out, "dead")


def test_a_sink_that_comes_later_is_told_every_state(tmp_path: Path) -> None:
    """Also one in the place of another, whose end says that nobody looks at the camera."""
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    cam = {"name": "cam"}
    with running(loaded(cam, sinks=[f"jsonl:{first}"])) as deployment:
        more_frames(deployment, "cam")
        deployment.reload(loaded(cam, sinks=[f"jsonl:{first}?fsync=always", f"jsonl:{second}"]))
        more_frames(deployment, "cam")
        wait_until(lambda: states(second, "cam") == ["live"])
        wait_until(lambda: states(first, "cam") == ["connecting", "live", "live"])
    rows = results(first, "cam")
    assert [r["sequence"] for r in rows] == list(range(len(rows)))
    assert len({r["run"] for r in rows}) == 2
