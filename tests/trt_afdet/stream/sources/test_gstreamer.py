"""``gst://`` in the system's GStreamer, through PyGObject; what is said where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT
from tests.skips import skip_test
from tests.trt_afdet.stream.peers_rtsp import Mount, RtspServer
from tests.trt_afdet.stream.sources.source_rig import make_clip, source
from trt_afdet.errors import MissingDependencyError
from trt_afdet.stream.sources.gstreamer import full_pipeline, opencv_has_gstreamer, quoted

#: Where Debian's PyGObject lies; its binary fits the same minor version of Python only.
SYSTEM = "/usr/lib/python3/dist-packages"
_PROBE = f"""
import sys
sys.path.append({SYSTEM!r})
import gi
gi.require_version("GstApp", "1.0")
from gi.repository import Gst, GstApp
Gst.init(None)
assert Gst.ElementFactory.find("videotestsrc")
"""


def with_gst(body: str) -> Any:
    """Runs a body of code with GStreamer at hand, in a process of its own; its ``out``."""
    probe = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, check=False)
    if probe.returncode:
        skip_test(
            f"no PyGObject with GStreamer for Python {sys.version_info[0]}.{sys.version_info[1]}",
            "make peers, with Debian's Python",
        )
    head = f"""
import json, sys, threading, time
sys.path.append({SYSTEM!r})
from tests.trt_afdet.stream.sources.source_rig import source
def fails(made):
    try:
        made.open()
        while made.read():
            pass
    except Exception as error:
        return [type(error).__name__, str(error)]
    finally:
        made.close()
"""
    code = head + textwrap.dedent(body) + "\nprint(json.dumps(out))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_live_pipeline() -> None:
    # Rows of 322 pixels are not a multiple of four bytes long.
    out = with_gst(
        """
        made = source("gst://videotestsrc is-live=true pattern=red"
                      " ! video/x-raw,width=322,height=240,framerate=30/1")
        info = made.open()
        pictures = [made.read() for _ in range(10)]
        time.sleep(0.5)  # timing: lets frames pass; only what was filmed later may be shown
        late = made.read()
        out = [info.width, info.height, info.fps, pictures[3].image.shape,
               pictures[3].image.mean(axis=(0, 1)).tolist(), pictures[3].position,
               late.captured - pictures[-1].captured]
        made.close()
        """
    )
    assert out[:4] == [322, 240, 30.0, [240, 322, 3]]
    assert out[4] == pytest.approx([0, 0, 255], abs=3)
    assert out[5] is None
    assert out[6] > 0.3


def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "my clip.mp4", 40, fps=25)
    out = with_gst(
        f"""
        pipeline = 'filesrc location={quoted(str(clip))} ! decodebin ! appsink'
        made = source(f"gst://{{pipeline}}", live=False)
        made.open()
        positions = []
        while (picture := made.read()) is not None:
            positions.append(picture.position)
            time.sleep(0.01)  # timing: a slow reader of a file loses nothing
        made.close()
        out = [positions, picture]
        """
    )
    assert out[0] == pytest.approx([i / 25 for i in range(40)], abs=1e-3)


def test_what_goes_wrong_is_said() -> None:
    out = with_gst(
        """
        out = [
            fails(source("gst://nosuchelement ! appsink")),
            fails(source("gst://filesrc location=/none.mp4 ! decodebin")),
            fails(source("gst://videotestsrc num-buffers=3")),
            fails(source("gst://appsrc is-live=true ! video/x-raw", connect_timeout=0.5)),
        ]
        made = source("gst://appsrc is-live=true ! video/x-raw", connect_timeout=300)
        threading.Timer(0.5, made.interrupt).start()
        started = time.monotonic()
        out += [fails(made), time.monotonic() - started]
        """
    )
    assert out[0][0] == "UnusableSourceError"
    assert "nosuchelement" in out[0][1]
    assert out[1][0] == "SourceError"
    assert "/none.mp4" in out[1][1]
    assert out[2] == ["SourceError", "gst://videotestsrc num-buffers=3: the pipeline ended"]
    assert out[3][0] == "SilentError"
    assert "for 0.5 s" in out[3][1]
    assert "interrupted" in out[4][1]
    assert out[5] < 60


def test_rtsp_through_gstreamer_keeps_its_secrets() -> None:
    with RtspServer({"cam": Mount(user="admin", password="geheim")}) as server:
        right, wrong = (server.url("cam", "admin", password) for password in ("geheim", "geheimer"))
        out = with_gst(
            f"""
            end = "latency=0 protocols=tcp ! decodebin"
            made = source("gst://rtspsrc location={right} " + end)
            made.open()
            shape = made.read().image.shape
            made.close()
            out = [shape, made.name, fails(source("gst://rtspsrc location={wrong} " + end))]
            """
        )
    assert out[0] == [240, 320, 3]
    assert "geheim" not in json.dumps(out)
    assert out[2][0] == "LoginRefusedError", out[2]


def test_pipelines_get_an_end_of_ours() -> None:
    end = "! videoconvert ! video/x-raw,format=BGR ! appsink name=afdet sync=false max-buffers="
    for text in ("a ! b", "a ! b !", "a ! b ! appsink", " a ! b ! appsink drop=1 name=x "):
        assert full_pipeline(text, live=True) == f"a ! b {end}1 drop=true"
    assert full_pipeline("a", live=False) == f"a {end}2 drop=false"


def test_without_gstreamer_it_says_what_to_install() -> None:
    try:
        import gi  # noqa: F401

        skip_test("PyGObject is installed", "a run without it")
    except ImportError:
        pass
    if opencv_has_gstreamer():
        skip_test("OpenCV has GStreamer", "a run with OpenCV from PyPI")
    with pytest.raises(MissingDependencyError, match="apt install python3-gi"):
        source("gst://videotestsrc").open()
    with pytest.raises(MissingDependencyError, match="bindings cannot be imported"):
        source("gst://videotestsrc", backend="gi").open()
    with pytest.raises(MissingDependencyError, match="apt install"):
        source("csi://0").open()
