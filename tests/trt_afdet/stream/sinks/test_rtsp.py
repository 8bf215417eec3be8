"""Pushing to a real RTSP server (GStreamer's)."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import pytest

from tests.trt_afdet.stream.sinks.sink_makers import result, status, wait_until
from tests.trt_afdet.stream.sinks.sink_peers import Process
from trt_afdet.errors import InvalidValueError
from trt_afdet.stream.frame import StreamResult
from trt_afdet.stream.retry import Retry
from trt_afdet.stream.sinks.rtsp import RtspSink

FAST = Retry(first=0.05, longest=0.2)
_NEEDS = "import gi; gi.require_version('GstRtspServer', '1.0')"


def python_with_gstreamer() -> str:
    for python in (sys.executable, "/usr/bin/python3"):
        if (
            Path(python).exists()
            and not subprocess.run(
                [python, "-c", _NEEDS], capture_output=True, check=False
            ).returncode
        ):
            return python
    pytest.skip("no Python has GStreamer's RTSP server: make peers")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    script = str(Path(__file__).parent / "rtsp_recorder.py")
    process = Process(python_with_gstreamer(), lambda port: [script, str(port), str(tmp_path)])
    process.start()
    yield process
    process.kill()


def now(sequence: int, source: str = "cam", size: tuple[int, int] = (160, 120)) -> StreamResult:
    """A frame that was captured now."""
    one = result(sequence, source, size=size)
    return replace(one, frame=replace(one.frame, captured=time.monotonic()))


def frames(path: Path) -> int:
    if not path.exists() or path.stat().st_size < 200:
        return 0
    try:
        with av.open(str(path), format="h264") as container:
            return sum(1 for _ in container.decode(video=0))
    except av.FFmpegError:
        return 0


def all_of(sent: int, path: Path) -> bool:
    """Whether all frames are in a recording.

    GStreamer's parser may write the first frame, which has several slices, as two.
    """
    return frames(path) in (sent, sent + 1)


def push(
    sink: RtspSink, frames: int, source: str = "cam", size: tuple[int, int] = (160, 120)
) -> int:
    """Sends frames; how many."""
    for sequence in range(frames):
        sink.write(now(sequence, source, size))
        time.sleep(0.04)  # timing: the pace of a camera
    return frames


def test_every_frame_arrives(server: Process, tmp_path: Path) -> None:
    sink = RtspSink(f"rtsp://127.0.0.1:{server.port}/live", retry=FAST)
    sink.open()
    sent = push(sink, 40)
    sink.close()
    assert sink.dropped == 0
    wait_until(lambda: all_of(sent, tmp_path / "live.h264"))


def test_sources_have_addresses_of_their_own(server: Process, tmp_path: Path) -> None:
    sink = RtspSink(f"rtsp://127.0.0.1:{server.port}/{{source}}", retry=FAST)
    sink.open()
    for sequence in range(30):
        for source in ("cam-1", "cam-2"):
            sink.write(now(sequence, source))
        time.sleep(0.04)  # timing: the pace of a camera
    sink.status(status("ended", "cam-1"))
    wait_until(lambda: all_of(30, tmp_path / "cam-1.h264"))
    sink.close()
    wait_until(lambda: all_of(30, tmp_path / "cam-2.h264"))


def test_it_goes_on_when_the_server_comes_back(
    server: Process, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trt_afdet.stream")
    sink = RtspSink(f"rtsp://user:s3cr3t@127.0.0.1:{server.port}/live", retry=FAST)
    sink.open()
    push(sink, 15)
    server.kill()
    push(sink, 15)
    assert sink.dropped > 0
    before = frames(tmp_path / "live.h264")
    server.start()
    sent = push(sink, 40)
    sink.close()
    wait_until(lambda: frames(tmp_path / "live.h264") > before + sent / 4)
    assert "trying again" in caplog.text
    assert "works again" in caplog.text
    assert "s3cr3t" not in caplog.text + sink.name


def test_another_resolution_is_announced_anew(server: Process, tmp_path: Path) -> None:
    sink = RtspSink(f"rtsp://127.0.0.1:{server.port}/live", retry=FAST)
    sink.open()
    push(sink, 15)
    push(sink, 40, size=(128, 96))
    sink.close()

    def sizes() -> set[tuple[int, int]]:
        with av.open(str(tmp_path / "live.h264"), format="h264") as container:
            return {(f.width, f.height) for f in container.decode(video=0)}

    wait_until(lambda: sizes() == {(160, 120), (128, 96)})


def test_bad_options_are_refused() -> None:
    sink = RtspSink("rtsp://127.0.0.1:1/live")
    sink.open()
    sink.write(now(0))
    with pytest.raises(InvalidValueError, match="share one address"):
        sink.write(now(0, "other"))
    sink.close()
    with pytest.raises(InvalidValueError, match="no such encoder"):
        RtspSink("rtsp://127.0.0.1:1/live", codec="nonsense").open()
    with pytest.raises(InvalidValueError, match="bitrate"):
        RtspSink("rtsp://127.0.0.1:1/live", bitrate=0)
