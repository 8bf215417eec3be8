"""``watch``: live cameras from Python, in three lines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import trt_afdet
from tests.paths import ASSETS, ROOT
from tests.waiting import LIMIT
from trt_afdet.errors import InvalidValueError, RunError
from trt_afdet.live.watch import Watch, watch
from trt_afdet.runtime.detector import Detector
from trt_afdet.stream.config.schema import ConfigError
from trt_afdet.stream.frame import StreamResult

CLIP = ASSETS / "clip.mp4"
LIVE = "test://?width=64&height=64&fps=40"
FIVE = "test://?width=64&height=64&fps=0&frames=5"


@pytest.fixture(scope="module")
def detector() -> Iterator[Detector]:
    with Detector(conf=0.3) as opened:
        yield opened


def test_every_frame_of_a_clip_reaches_on_result() -> None:
    assert trt_afdet.watch is watch
    results: list[StreamResult] = []
    assert watch(CLIP, results.append) is None
    assert [r.frame.sequence for r in results] == list(range(len(results)))
    assert len(results) > 20
    assert sum(len(r.detections) for r in results) > 0
    first = results[0]
    assert first.source == str(CLIP)
    assert first.image.shape[2] == 3
    assert first.time == first.frame.wall_time


def test_on_result_is_called_in_the_callers_thread_unless_it_runs_beside(
    detector: Detector,
) -> None:
    threads: list[threading.Thread] = []
    watch(FIVE, lambda result: threads.append(threading.current_thread()), model=detector)
    assert threads == [threading.current_thread()] * 5
    threads.clear()
    beside = watch(
        FIVE,
        lambda result: threads.append(threading.current_thread()),
        model=detector,
        block=False,
    )
    assert beside is not None
    assert beside.wait(LIMIT)
    assert len(threads) == 5
    assert threading.current_thread() not in threads


def test_several_sources_and_options(detector: Detector) -> None:
    seen: dict[str, list[bool]] = {}
    watch(
        [FIVE, FIVE],
        lambda result: seen.setdefault(result.source, []).append(result.detected),
        model=detector,
        every=2,
    )
    assert seen == {name: [True, False, True, False, True] for name in (FIVE, f"{FIVE} (2)")}


def test_a_cameras_yaml_brings_its_own_model_and_sinks(tmp_path: Path) -> None:
    path = tmp_path / "cameras.yaml"
    path.write_text(
        f"sources:\n- {{name: one, uri: '{FIVE}'}}\nsinks: ['jsonl:{tmp_path}/out.jsonl']\n"
    )
    names: list[str] = []
    watch(path, lambda result: names.append(result.source))
    assert names == ["one"] * 5
    assert (tmp_path / "out.jsonl").read_text().count('"type": "result"') == 5
    with pytest.raises(InvalidValueError, match="brings its own model"):
        watch(path, print, conf=0.5)
    path.write_text("sources: []\n")
    with pytest.raises(ConfigError, match="at least one source"):
        watch(path, print)


def test_a_loop_over_results_ends_the_run_when_it_is_left(detector: Detector) -> None:
    running = watch(LIVE, model=detector)
    assert isinstance(running, Watch)
    with running:
        for count, result in enumerate(running):
            assert result.source == LIVE
            if count == 3:
                break
    assert running.wait(LIMIT)
    beside = watch(LIVE, lambda result: None, model=detector, block=False)
    assert beside is not None
    with beside, pytest.raises(InvalidValueError, match="not to both"):
        next(iter(beside))


def test_a_handle_stops_it(detector: Detector) -> None:
    arrived = threading.Event()
    running = watch(LIVE, lambda result: arrived.set(), model=detector, block=False)
    assert running is not None
    assert arrived.wait(LIMIT)
    assert not running.wait(0)  # timing: it asks, and does not wait
    running.stop()
    assert running.wait(LIMIT)


@pytest.mark.parametrize("block", [True, False])
def test_what_on_result_raises_reaches_the_caller(detector: Detector, block: bool) -> None:
    def on_result(result: StreamResult) -> None:
        raise KeyError("mine")

    def run() -> None:
        running = watch(LIVE, on_result, model=detector, block=block)
        assert running is not None
        running.wait(LIMIT)

    with pytest.raises(KeyError, match="mine"):
        run()


def test_ctrl_c_ends_it(detector: Detector) -> None:
    calls: list[StreamResult] = []

    def on_result(result: StreamResult) -> None:
        calls.append(result)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    assert watch(LIVE, on_result, model=detector) is None
    assert len(calls) >= 3


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ([], {}, "needs a source"),
        (True, {}, "an address, a file or the number"),
        (3.5, {}, "float"),
        ("rstp://cam/1", {}, "did you mean 'rtsp'"),
        (FIVE, {"classes": ["nobody"]}, "no such class"),
        (FIVE, {"conf": 2}, "conf must be at most 1"),
        (FIVE, {"every": 0}, "every must be at least 1"),
        (FIVE, {"zones": {"zones": [{"name": "z", "polygon": []}]}}, "3 corners"),
    ],
)
def test_mistakes_are_named(
    source: object, options: dict[str, object], message: str, detector: Detector
) -> None:
    given = [source] if isinstance(source, float) else source
    with pytest.raises(InvalidValueError, match=message):
        watch(given, print, model=detector, **options)  # type: ignore[arg-type]


def test_a_source_that_fails_is_a_failed_run(detector: Detector) -> None:
    with pytest.raises(RunError, match="failed"):
        watch("missing.mp4", print, model=detector)


@pytest.mark.parametrize("source", [None, 1.5, True, [None], b"clip.mp4"])
def test_what_cannot_be_a_source_is_one_line(source: object) -> None:
    with pytest.raises(InvalidValueError, match="a source is an address, a file or the number"):
        watch(source, print)  # type: ignore[arg-type]


WITH_THE_RUNTIME_ALONE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"fastapi", "starlette", "uvicorn", "pydantic",
                                      "prometheus_client", "trackers", "websockets"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from trt_afdet import Detector
for frame, found in Detector().stream(sys.argv[1]):
    print(frame.shape, len(found) > 0)
    break
"""


def test_streams_need_no_package_of_the_page_or_the_yaml() -> None:
    result = subprocess.run(
        [sys.executable, "-c", WITH_THE_RUNTIME_ALONE, str(CLIP)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "(480, 640, 3) True\n"
