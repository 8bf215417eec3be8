"""Cameras on this machine: the kernel's structures, and a camera that answers as a driver does."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.paths import ROOT
from tests.skips import skip_test
from tests.trt_afdet.stream.sources.source_rig import jpeg, number_image
from trt_afdet.stream.sources import v4l2_abi as abi
from trt_afdet.stream.sources.base import SourceError
from trt_afdet.stream.sources.v4l2 import DECODERS, V4l2Source
from trt_afdet.stream.sources.v4l2_cameras import list_cameras

HERE = Path(__file__).parent
CALLS = (
    "QUERYCAP", "ENUM_FMT", "G_FMT", "S_FMT", "REQBUFS", "QUERYBUF", "QBUF", "DQBUF", "STREAMON",
    "STREAMOFF", "G_PARM", "S_PARM", "ENUM_FRAMESIZES", "ENUM_FRAMEINTERVALS",
)  # fmt: skip
#: Structures of ours and the kernel's; fields of ours and the kernel's.
LAYOUT = {
    "v4l2_capability": (abi.Capability, {"card": "card", "device_caps": "device_caps"}),
    "v4l2_fmtdesc": (abi.FormatDescription, {"pixelformat": "pixelformat"}),
    "v4l2_frmsizeenum": (abi.FrameSize, {"type": "type", "values": "stepwise"}),
    "v4l2_frmivalenum": (abi.FrameInterval, {"height": "height", "values": "stepwise"}),
    "v4l2_format": (abi.Format, {"fmt": "fmt"}),
    "v4l2_pix_format": (abi.PixFormat, {"pixelformat": "pixelformat", "xfer_func": "xfer_func"}),
    "v4l2_streamparm": (abi.StreamParameters, {"parm": "parm"}),
    "v4l2_requestbuffers": (abi.RequestBuffers, {"memory": "memory"}),
    "v4l2_buffer": (
        abi.Buffer,
        {"seconds": "timestamp", "sequence": "sequence", "m": "m", "length": "length"},
    ),
}


def compiled(source: Path, out: Path, *flags: str) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        skip_test("a C compiler (cc)", "apt-get install gcc")
    if not Path("/usr/include/linux/videodev2.h").exists():
        skip_test("linux/videodev2.h", "apt-get install linux-libc-dev")
    subprocess.run([compiler, "-O1", *flags, str(source), "-o", str(out), "-ldl"], check=True)
    return out


def test_structures_and_numbers_are_the_kernels(tmp_path: Path) -> None:
    lines = [f'printf("VIDIOC_{name} %lu\\n", (unsigned long)VIDIOC_{name});' for name in CALLS]
    wanted = {f"VIDIOC_{name}": getattr(abi, name) for name in CALLS}
    for kernel, (ours, fields) in LAYOUT.items():
        lines.append(f'printf("{kernel} %zu\\n", sizeof(struct {kernel}));')
        wanted[kernel] = ctypes.sizeof(ours)
        for our, theirs in fields.items():
            lines.append(f'printf("{kernel}.{our} %zu\\n", offsetof(struct {kernel}, {theirs}));')
            wanted[f"{kernel}.{our}"] = getattr(ours, our).offset
    headers = "#include <linux/videodev2.h>\n#include <stddef.h>\n#include <stdio.h>\n"
    source = tmp_path / "abi.c"
    source.write_text(headers + "int main(void) {" + "".join(lines) + "}")
    program = compiled(source, tmp_path / "abi")
    said = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert {k: int(v) for k, v in (line.split() for line in said.splitlines())} == wanted
    assert abi.fourcc("MJPG") == 0x47504A4D
    assert abi.fourcc_text(0x47504A4D) == "MJPG"


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fake") / "fake_camera.so"
    return compiled(HERE / "fake_camera.c", out, "-shared", "-fPIC")


def with_camera(shim: Path, tmp_path: Path, body: str, mode: str = "") -> Any:
    """Runs a body of code, with ``source(**options)`` at hand, beside the camera; its ``out``."""
    camera, picture = tmp_path / "video7", tmp_path / "picture.jpg"
    camera.touch()
    picture.write_bytes(jpeg(number_image(5, 640, 480)))
    head = textwrap.dedent(
        f"""
        import json, threading, time
        from tests.trt_afdet.stream.sources.source_rig import Supervised
        from trt_afdet.stream.sources.v4l2 import V4l2Options, V4l2Source
        from trt_afdet.stream.sources.v4l2_cameras import list_cameras
        def source(**options):
            return Supervised(lambda: V4l2Source({str(camera)!r}, "cam", V4l2Options(**options)))
        folder = {str(tmp_path)!r}
        """
    )
    code = head + textwrap.dedent(body) + "\nprint(json.dumps(out))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "LD_PRELOAD": str(shim),
            "FAKE_CAMERA": str(camera),
            "FAKE_JPEG": str(picture),
            "FAKE_MODE": mode,
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_what_a_camera_offers(shim: Path, tmp_path: Path) -> None:
    out = with_camera(
        shim,
        tmp_path,
        "c, = list_cameras(folder); out = [c.name, c.bus, [str(m) for m in c.modes]]",
    )
    assert out[:2] == ["Fake Camera", "usb-0000:00:14.0-1"]
    assert out[2] == [
        "YUYV 640x480 at 30 fps",
        "YUYV 1280x720 at 10 fps",
        "MJPG 640x480 at 30 fps",
        "MJPG 1280x720 at 30 fps",
        # One that offers any size: the usual ones within its limits, and its largest.
        "H264 640x480 at 30 fps",
        "H264 1280x720 at 30 fps",
        "H264 2048x1536 at 30 fps",
    ]
    assert with_camera(shim, tmp_path, "out = list_cameras(folder)", "metadata") == []


def test_uncompressed_pictures(shim: Path, tmp_path: Path) -> None:
    out = with_camera(
        shim,
        tmp_path,
        """
        made = source()
        info = made.open()
        pictures = [made.read() for _ in range(20)]
        made.close()
        out = [info.width, info.height, info.fps, info.codec, [p.image.shape for p in pictures],
               [float(p.image.mean()) for p in pictures], [p.image.std() for p in pictures],
               min(time.monotonic() - p.captured for p in pictures)]
        """,
    )
    assert out[:4] == [640, 480, 30.0, "YUYV"]
    assert out[4] == [[480, 640, 3]] * 20
    assert out[5] == sorted(set(out[5]))  # Each frame is lighter than the one before it.
    assert max(out[6]) == 0  # What lies behind the rows is not in the picture.
    assert out[7] >= 0


def test_format_and_rate_are_chosen_for_the_size(shim: Path, tmp_path: Path) -> None:
    # At 1280x720 only MJPG has 30 frames a second; the camera's JPEG here is 640x480 all the same.
    out = with_camera(
        shim,
        tmp_path,
        """
        out = []
        for options in ({"width": 1280, "height": 720}, {"width": 640, "height": 480, "fps": 15},
                        {"format": "mjpg"}, {"width": 1280, "height": 720, "fps": 10}):
            made = source(**options)
            info = made.open()
            image = made.read().image
            made.close()
            out.append([info.codec, info.width, info.fps, list(image.shape)])
        """,
    )
    assert out == [
        ["MJPG", 1280, 30.0, [480, 640, 3]],
        ["YUYV", 640, 15.0, [480, 640, 3]],
        ["MJPG", 640, 15.0, [480, 640, 3]],
        ["YUYV", 1280, 10.0, [720, 1280, 3]],
    ]


def test_what_it_lacks_is_refused_with_what_it_has(shim: Path, tmp_path: Path) -> None:
    body = """
    made = source(width=1000, height=1000)
    try:
        made.open()
    except Exception as error:
        out = [type(error).__name__, str(error)]
    made.close()
    """
    kind, said = with_camera(shim, tmp_path, body)
    assert kind == "SourceRefusedError"
    assert "no YUYV at 1000x1000" in said
    assert "MJPG 1280x720 at 30 fps" in said
    kind, said = with_camera(shim, tmp_path, body, "busy")
    assert (kind, "in use by another program" in said) == ("SourceError", True)
    kind, said = with_camera(shim, tmp_path, body, "metadata")
    assert (kind, "gives no pictures" in said) == ("SourceRefusedError", True)


@pytest.mark.parametrize(
    ("mode", "kind", "said"),
    [("freeze", "SilentError", "no frame for 0.5 s"), ("unplug", "SourceError", "no ")],
)
def test_a_camera_that_freezes_or_is_pulled_out(
    shim: Path, tmp_path: Path, mode: str, kind: str, said: str
) -> None:
    out = with_camera(
        shim,
        tmp_path,
        """
        made = source(timeout=0.5)
        made.open()
        out = [0]
        try:
            while made.read():
                out[0] += 1
        except Exception as error:
            out += [type(error).__name__, str(error)]
        made.close()
        made.open()
        """,
        mode,
    )
    assert 5 <= out[0] <= 11
    assert out[1] == kind
    assert said in out[2]


def test_a_slow_reader_sees_the_present(shim: Path, tmp_path: Path) -> None:
    times = with_camera(
        shim,
        tmp_path,
        """
        made = source(timeout=300)
        made.open()
        out = []
        for _ in range(4):
            time.sleep(0.3)  # timing: lets frames pass; only what was filmed later may be shown
            out.append(made.read().captured)
        made.close()
        """,
    )
    assert min(b - a for a, b in pairwise(times)) > 0.15


def test_interrupting(shim: Path, tmp_path: Path) -> None:
    took, said = with_camera(
        shim,
        tmp_path,
        """
        made = source(timeout=300)
        made.open()
        threading.Timer(0.3, made.interrupt).start()
        started = time.monotonic()
        try:
            while True:
                made.read()
        except Exception as error:
            out = [time.monotonic() - started, str(error)]
        made.close()
        made.interrupt()
        """,
        "freeze",
    )
    assert took < 60
    assert "interrupted" in said


def test_no_camera_is_not_the_end(tmp_path: Path) -> None:
    made = V4l2Source(str(tmp_path / "video9"))
    # It may be plugged in again.
    with pytest.raises(SourceError, match=r"there is no .*video9") as caught:
        made.open()
    assert type(caught.value) is SourceError
    made.close()
    (tmp_path / "video3").write_text("no device")
    with pytest.raises(SourceError, match="gives no pictures"):
        V4l2Source(str(tmp_path / "video3")).open()
    assert list_cameras(str(tmp_path)) == []


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize(("kind", "channels"), [("BGR3", 3), ("RGB3", 3), ("GREY", 1)])
def test_rows_with_padding_become_pictures_of_their_own(
    kind: str, channels: int, padding: int
) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (4, 6 * channels + padding), np.uint8)
    pix = abi.PixFormat(width=6, height=4, bytesperline=rows.shape[1])
    wanted = rows[:, : 6 * channels].reshape(4, 6, channels)
    if kind == "RGB3":
        wanted = wanted[..., ::-1]
    data = rows.ravel()
    image = DECODERS[kind](data, pix)
    assert image is not None
    np.testing.assert_array_equal(image, np.broadcast_to(wanted, (4, 6, 3)))
    assert image.flags.writeable
    assert not np.shares_memory(image, data)
    assert DECODERS[kind](data[: -padding - 1], pix) is None
