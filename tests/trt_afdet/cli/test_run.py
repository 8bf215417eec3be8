"""``trt-afdet run`` as its users and systemd meet it: a process, signals, files, sockets."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import LIMIT, wait_until
from trt_afdet.cli import main
from trt_afdet.cli.live import rows, summary
from trt_afdet.errors import WriteError
from trt_afdet.media import VideoWriter
from trt_afdet.stream.monitoring.snapshot import PipelineSnapshot, QueueCount, SourceSnapshot
from trt_afdet.stream.monitoring.status import StatusEvent
from trt_afdet.stream.monitoring.systemd import Notifier, Watchdog

COMMAND = [sys.executable, "-m", "trt_afdet", "run"]
CAMERA = "test://?width=64&height=64&fps=5"


class Run:
    """A running command; its stderr is in a file."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.log = folder / "stderr"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*COMMAND, *arguments],
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **environment},
                text=True,
            )

    def said(self, text: str) -> bool:
        """Whether a text is in its messages.

        Raises:
            AssertionError: If it is not, and the command has ended.
        """
        status = self.process.poll()
        log = self.log.read_text()
        if status is not None and (text not in log or not text):
            raise AssertionError(f"ended with {status}: {log}")
        return text in log

    def waits_for(self, text: str) -> None:
        wait_until(lambda: self.said(text))

    def until(self, condition: Callable[[], Any]) -> None:
        """Waits for a condition as long as the command runs."""
        wait_until(lambda: condition() or (self.said("") and False))

    def ends(self, number: int | None = None, seconds: float = 60) -> int:
        """Sends a signal, if any, and waits; the exit status."""
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(seconds)


@contextmanager
def started(folder: Path, *arguments: str, **environment: str) -> Iterator[Run]:
    run = Run(folder, *arguments, **environment)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.process.kill()
        run.process.communicate()


def records(path: Path, source: str | None = None) -> list[dict[str, Any]]:
    """The results in a file; the last line may still be under way."""
    found = []
    for line in path.read_text().split("\n")[:-1] if path.exists() else []:
        record = json.loads(line)
        if record["type"] == "result" and source in (None, record["source"]):
            found.append(record)
    return found


def sequences(path: Path, source: str) -> list[int]:
    return [record["sequence"] for record in records(path, source)]


def complain(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The lines of a command that must end with 2."""
    assert main(["run", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert all(line.startswith("trt-afdet: error: ") for line in lines)
    return [line.removeprefix("trt-afdet: error: ") for line in lines]


def test_a_file_of_frames_is_run_to_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = "test://?width=64&height=64&fps=0&frames=20"
    assert main(["run", uri, uri + "&seed=2", "--sink", "jsonl:found.jsonl", "--track"]) == 0
    found = records(tmp_path / "found.jsonl")
    names = {record["source"] for record in found}
    assert len(names) == 2
    for name in names:
        assert sequences(tmp_path / "found.jsonl", name) == list(range(20))
    out = capsys.readouterr().out
    assert "cameras" in out
    assert re.search(r"jsonl.*40", out)


def test_every_other_frame_is_detected(tmp_path: Path) -> None:
    uri = "test://?width=64&height=64&fps=0&frames=10"
    out = tmp_path / "found.jsonl"
    assert main(["run", uri, "--sink", f"jsonl:{out}", "--every", "2", "--quiet"]) == 0
    assert [record["detected"] for record in records(out)] == [True, False] * 5


def test_the_shipped_clip_tracked_with_a_zone(tmp_path: Path) -> None:
    import trt_afdet

    clip = Path(trt_afdet.__file__).parent / "assets" / "clip.mp4"
    zones = tmp_path / "zones.json"
    whole = {"name": "all", "polygon": [[0, 0], [1, 0], [1, 1], [0, 1]]}
    zones.write_text(json.dumps({"doom": {"zones": [whole]}}))
    out = tmp_path / "found.jsonl"
    arguments = ["--sink", f"jsonl:{out}", "--zones", str(zones), "--every", "3", "--quiet"]
    assert main(["run", f"doom={clip}", *arguments]) == 0
    found = records(out)
    assert [record["sequence"] for record in found] == list(range(len(found)))
    numbers = {d["tracker_id"] for r in found for d in r["detections"]} - {None}
    events = [event for record in found for event in record["events"]]
    entered = [event["track_id"] for event in events if event["kind"] == "enter"]
    assert len(numbers) > 3
    assert entered
    assert set(entered) <= numbers
    left = [event["track_id"] for event in events if event["kind"] == "leave"]
    assert len(left) == len(set(left)) <= len(entered)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_it_and_nothing_is_lost(tmp_path: Path, number: int) -> None:
    arguments = [CAMERA.replace("fps=5", "fps=20"), "--sink", "jsonl:found.jsonl"]
    with started(tmp_path, *arguments) as run:
        run.until(lambda: len(records(tmp_path / "found.jsonl")) > 5)
        status = run.ends(number)
    assert status == (130 if number == signal.SIGINT else 0)
    lines = (tmp_path / "found.jsonl").read_text()
    assert lines.endswith("\n")
    found = [r["sequence"] for r in records(tmp_path / "found.jsonl")]
    assert found == sorted(set(found))
    assert "Traceback" not in run.log.read_text()


#: The main thread with a pipeline that never ends.
STUCK = """
import threading
from trt_afdet.cli.live import View
from trt_afdet.cli.serve import Server
from trt_afdet.stream.monitoring.systemd import Notifier
from trt_afdet.stream.monitoring.status import StatusBoard

class Stuck:
    def __init__(self):
        self.board = StatusBoard()
    def run(self):
        print("running", flush=True)
        threading.Event().wait()
    def stop(self):
        print("stopping", flush=True)

Server(Stuck(), None, View(quiet=True), Notifier({})).run()
"""


def test_a_second_interrupt_ends_even_what_is_stuck() -> None:
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "stopping\n"
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 130
    finally:
        process.kill()
        process.communicate()


def test_reload_by_signal_drops_nothing(tmp_path: Path) -> None:
    def write(second: str, more: str = "") -> None:
        text = f"defaults: {{policy: wait}}\nsources:\n- {{name: stays, uri: '{CAMERA}'}}\n"
        text += f"- {{name: {second}, uri: '{CAMERA}'{more}}}\nsinks: ['jsonl:found.jsonl']\n"
        (tmp_path / "cameras.yaml").write_text(text)

    out = tmp_path / "found.jsonl"
    write("goes")
    with started(tmp_path, "cameras.yaml") as run:
        run.until(lambda: len(sequences(out, "stays")) > 5)
        write("comes")
        run.process.send_signal(signal.SIGHUP)
        run.waits_for("reloaded: added: comes; removed: goes")
        run.until(lambda: len(sequences(out, "comes")) > 5)
        write("bad", ", evry: 3")
        run.process.send_signal(signal.SIGHUP)
        run.waits_for("the old one stays")
        assert run.said("cameras.yaml:4: sources[1].evry: unknown key - did you mean 'every'?")
        count = len(sequences(out, "comes"))
        run.until(lambda: len(sequences(out, "comes")) > count + 5)
        (tmp_path / "cameras.yaml").unlink()
        run.process.send_signal(signal.SIGHUP)
        run.until(lambda: run.log.read_text().count("the old one stays") == 2)
        assert run.ends(signal.SIGTERM) == 0
    seen = sequences(out, "stays")
    assert seen == list(range(len(seen)))
    assert sequences(out, "goes")
    assert not sequences(out, "bad")


def test_a_duration_ends_it(tmp_path: Path) -> None:
    with started(tmp_path, CAMERA, "--duration", "1") as run:
        assert run.ends() == 0


def test_a_sink_that_cannot_be_opened_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    sink = f"jsonl:{tmp_path}/file/found.jsonl"
    assert main(["run", CAMERA, "--sink", sink, "--quiet"]) == WriteError.exit_code
    assert "found.jsonl" in capsys.readouterr().err


def test_fail_fast_ends_everything_with_the_first_source(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with started(tmp_path, CAMERA, "broken.mp4", "--fail-fast") as run:
        assert run.ends() == 1
        assert "broken.mp4" in run.log.read_text()


def _odd_sources(folder: Path) -> dict[str, tuple[str, int, str]]:
    """Sources that are not whole: the address, frames that can be read, and what is said."""
    import cv2
    import numpy as np

    avi, pictures = folder / "damaged.avi", folder / "pictures"
    with VideoWriter(avi, 25) as writer:
        for number in range(60):
            writer.write(np.full((64, 64, 3), 4 * number, np.uint8), number / 25)
    data = bytearray(avi.read_bytes())
    (folder / "cut.avi").write_bytes(data[: len(data) * 2 // 3])
    middle = data.index(b"movi") + (data.index(b"idx1") - data.index(b"movi")) // 2
    data[middle : middle + 1000] = bytes(range(250)) * 4
    avi.write_bytes(data)
    (folder / "text.mp4").write_text("hello")
    pictures.mkdir()
    for number in range(3):
        cv2.imwrite(str(pictures / f"{number}.png"), np.zeros((64, 64, 3), np.uint8))
    (pictures / "1.png").write_bytes(b"")
    return {
        "damaged": (str(avi), 10, "is damaged"),
        "cut": (str(folder / "cut.avi"), 10, "is cut off"),
        "text": (str(folder / "text.mp4"), 0, "a text file"),
        "missing": (str(folder / "none.mp4"), 0, "no such video"),
        "pictures": (str(pictures), 2, "1 of 3 pictures could not be read"),
    }


@pytest.mark.parametrize("name", ["damaged", "cut", "text", "missing", "pictures"])
def test_a_source_that_is_not_whole_is_exit_1_and_the_others_are_done(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    address, least, said = _odd_sources(tmp_path)[name]
    whole = "test://?width=64&height=64&fps=0&frames=20"
    out = tmp_path / "found.jsonl"
    status = main(["run", f"odd={address}", f"whole={whole}", "--sink", f"jsonl:{out}"])
    captured = capsys.readouterr()
    assert said in captured.err + captured.out
    assert status == 1
    assert sequences(out, "whole") == list(range(20))
    found = sequences(out, "odd")
    assert found == list(range(len(found)))
    assert len(found) >= least


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rstp://host/x"], "rtsp"),
        (["test://", "--sink", "jsnol:x"], "jsonl"),
        (["test://", "--classes", "imb"], "did you mean 'imp'"),
        (["test://", "--conf", "3"], "conf: must be at most 1"),
        (["test://", "--batch", "0"], "batch: must be at least 1"),
        (["test://", "--every", "0"], "every: must be at least 1"),
        (["test://", "--max-age", "-1"], "max_age: must be above 0"),
        (["test://", "--model", "none.onnx"], "none.onnx"),
        (["test://", "--zones", "none.json"], "none.json"),
        (["test://?widht=3"], "width"),
        (["a.yaml", "b.yaml"], "one cameras.yaml"),
        (["none.yaml"], "none.yaml"),
    ],
)
def test_bad_input_is_named_before_anything_runs(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for check in ([], ["--check"]):
        assert any(message in line for line in complain(capsys, *arguments, *check))
    assert not list(tmp_path.iterdir())


def test_options_that_belong_into_the_file_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text("sources: ['test://']")
    (line,) = complain(capsys, str(tmp_path / "c.yaml"), "--track")
    assert "--track belongs in the YAML" in line


def test_check_says_what_would_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PASSWORD", "hunter2")
    (tmp_path / "cameras.yaml").write_text(
        "sources:\n- {name: front, uri: 'rtsp://me:${PASSWORD}@10.0.0.1/x', every: 2}\n"
        f"- {{name: other, uri: '{CAMERA}', classes: [imp]}}\nsinks: ['jsonl:found.jsonl']\n"
    )
    assert main(["run", "--check", "cameras.yaml"]) == 0
    out = capsys.readouterr().out
    for word in ("front", "rtsp", "other", "imp", "jsonl", "18 classes", "ok: 2 sources, 1 sinks"):
        assert word in out
    assert "hunter2" not in out
    assert not (tmp_path / "found.jsonl").exists()


def test_check_names_every_mistake_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PASSWORD", "hunter2")
    (tmp_path / "c.yaml").write_text("sources:\n- uri: test://\n  evry: 2\nsinsk: []\n")
    assert complain(capsys, "--check", "c.yaml") == [
        "c.yaml:3: sources[0].evry: unknown key - did you mean 'every'?",
        "c.yaml:4: sinsk: unknown key - did you mean 'sinks'?",
    ]
    (tmp_path / "c.yaml").write_text(
        "model: none.onnx\nsources:\n- uri: rstp://me:${PASSWORD}@h/x\n"
        "- test://\nsinks:\n- jsnol:x\n"
    )
    lines = complain(capsys, "--check", "c.yaml")
    assert [":".join(line.split(":")[:3]) for line in lines] == [
        "c.yaml:1: model",
        "c.yaml:3: sources[0].uri",
        "c.yaml:6: sinks[0].uri",
    ]
    assert "hunter2" not in "".join(lines)
    (tmp_path / "c.yaml").write_text("sources:\n- uri: test://\n  classes: [imb]\n")
    (line,) = complain(capsys, "--check", "c.yaml")
    assert line.startswith("c.yaml:3: sources[0].classes: ")
    assert line.endswith("did you mean 'imp'?")


def listen(path: Path) -> socket.socket:
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(str(path))
    heard.settimeout(30)
    return heard


def test_systemd_is_told_how_it_is(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"sources: ['{CAMERA}']\nsinks: ['jsonl:found.jsonl']\n")
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
    with listen(tmp_path / "notify") as heard, started(tmp_path, "c.yaml", **environment) as run:

        def next_of(*kinds: str) -> str:
            while True:
                message = heard.recv(4096).decode()
                if message.startswith(kinds):
                    return message

        assert next_of("READY", "WATCHDOG") == "READY=1"
        assert [next_of("WATCHDOG") for _ in range(3)] == ["WATCHDOG=1"] * 3
        run.process.send_signal(signal.SIGHUP)
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", next_of("RELOADING", "READY"))
        assert next_of("RELOADING", "READY") == "READY=1"
        run.process.send_signal(signal.SIGTERM)
        assert next_of("STOPPING", "READY") == "STOPPING=1"
        assert run.ends() == 0


def snapshot(processed: int, waiting: int, state: str = "live") -> PipelineSnapshot:
    figures = SourceSnapshot(processed, processed, {"imp": 3}, 12.5, 0.02, 0.05, 0.06)
    return PipelineSnapshot(
        sources={"cam": figures},
        queues={"cam": QueueCount(processed + 4, 3, 1, waiting)},
        states={"cam": StatusEvent("cam", state, "", 0.0)},  # type: ignore[arg-type]
        sinks={},
        reconnects={"cam": 0},
        uptime=1.0,
    )


def test_the_watchdog_is_fed_only_while_the_pipeline_gets_on(tmp_path: Path) -> None:
    now = [100.0]
    with listen(tmp_path / "notify") as heard:
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "4000000"}
        notifier = Notifier(environment)
        watchdog = Watchdog(notifier, lambda: now[0])
        assert notifier.watchdog == 4
        assert watchdog.due
        assert watchdog.look(snapshot(1, 1))
        assert not watchdog.due
        now[0] += 2.0
        assert watchdog.due
        assert watchdog.look(snapshot(2, 1))  # It works.
        assert not watchdog.look(snapshot(2, 1))  # A frame waits and none gets done.
        assert not watchdog.look(snapshot(2, 5))
        assert watchdog.look(snapshot(2, 0, "lost"))  # The camera is away.
        assert watchdog.look(snapshot(3, 1))
        notifier.close()
        heard.settimeout(0.1)
        fed = 0
        while True:
            try:
                fed += heard.recv(100) == b"WATCHDOG=1"
            except TimeoutError:
                break
    assert fed == 4


def test_without_systemd_nothing_is_told() -> None:
    notifier = Notifier({})
    notifier.ready()
    assert notifier.watchdog is None
    assert not Watchdog(notifier).due
    assert (
        Notifier({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}).watchdog
        is None
    )
    gone = Notifier({"NOTIFY_SOCKET": "/nowhere/at/all"})
    gone.ready()
    gone.close()


def test_the_console() -> None:
    (row,) = rows(snapshot(10, 1))
    assert row == ["cam", "live", "12.5", "20.0", "50.0", "4", "10", "3 imp"]
    line = summary(snapshot(10, 1, "lost"))
    assert "0/1 live, 12.5 frames/s, p99 50.0 ms, 10 frames, 4 dropped, 3 objects; cam lost" in line


def test_a_terminal_gets_a_table(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    arguments = [*COMMAND, CAMERA, "--duration", "3"]
    environment = {**os.environ, "COLUMNS": "120", "TERM": "xterm"}
    process = subprocess.Popen(
        arguments, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=slave, env=environment
    )
    os.close(slave)
    seen = b""
    try:
        while process.poll() is None or select.select([master], [], [], 0)[0]:
            if select.select([master], [], [], 0.2)[0]:
                try:
                    seen += os.read(master, 65536)
                except OSError:  # What Linux says when the other side is closed.
                    break
    finally:
        process.kill()
        process.wait()
        os.close(master)
    text = seen.decode(errors="replace")
    for word in ("camera", "p99 ms", "live", "frames/s"):
        assert word in text


def get(url: str, method: str = "GET", data: bytes | None = None) -> tuple[int, str]:
    request = urllib.request.Request(
        url, data, {"Content-Type": "application/json"} if data else {}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_metrics_have_a_port_of_their_own(tmp_path: Path) -> None:
    port = free_port()
    with started(tmp_path, CAMERA, "--metrics", f"127.0.0.1:{port}") as run:
        run.waits_for("live")
        base = f"http://127.0.0.1:{port}"
        run.until(lambda: get(f"{base}/healthz")[0] == 200)
        status, text = get(f"{base}/metrics")
        assert status == 200
        assert "# TYPE" in text
        assert get(f"{base}/etc/passwd")[0] == 404
        assert run.ends(signal.SIGTERM) == 0


def test_zones_drawn_on_the_page_take_effect_and_are_kept(tmp_path: Path) -> None:
    port, zones = free_port(), tmp_path / "zones.json"
    (tmp_path / "c.yaml").write_text(
        f"sources:\n- {{name: cam, uri: '{CAMERA}'}}\nzones: zones.json\nweb: '127.0.0.1:{port}'\n"
    )
    whole = {"name": "all", "polygon": [[0, 0], [1, 0], [1, 1], [0, 1]]}
    with started(tmp_path, "c.yaml") as run:
        run.waits_for("web page: ")
        run.waits_for("cam: live")
        url = f"http://127.0.0.1:{port}/api/zones/cam"
        run.until(lambda: get(url)[0] == 200)
        status, answer = get(url, "PUT", json.dumps({"zones": [whole], "lines": []}).encode())
        assert status == 200, answer
        assert json.loads(zones.read_text())["cam"]["zones"] == [whole]
        run.process.send_signal(signal.SIGHUP)
        run.waits_for("reloaded: nothing has changed")
        zones.write_text("{}")
        run.process.send_signal(signal.SIGHUP)
        run.waits_for("reloaded: adjusted: cam")
        run.until(lambda: json.loads(get(url)[1])["zones"] == [])
        assert run.ends(signal.SIGTERM) == 0
