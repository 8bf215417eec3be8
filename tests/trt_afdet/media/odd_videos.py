"""Videos as people have them, made on the spot with PyAV."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT, FPS = 96, 64, 30
#: Frames per second go up to this one; the shade of a frame tells its number.
FRAMES = 40
SHADE = 6


def image(number: int, width: int = WIDTH, height: int = HEIGHT) -> npt.NDArray[np.uint8]:
    """Dark to bright by number; the left quarter is black, the upper too."""
    made = np.full((height, width, 3), 16 + SHADE * (number % 40), np.uint8)
    made[:, : width // 4] = 0
    made[: height // 4] = 0
    return made


def make(
    path: Path,
    ticks: Iterable[int] = range(FRAMES),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    size: tuple[int, int] = (WIDTH, HEIGHT),
    options: dict[str, str] | None = None,
    kind: str | None = None,
) -> Path:
    """A clip; ``ticks`` of 1/30 s are the times of its frames."""
    with av.open(str(path), "w", format=kind, options=options or {}) as container:
        stream: Any = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base = Fraction(1, FPS)
        stream.codec_context.gop_size = 10
        for number, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(image(number, *size), format="bgr24")
            frame.pts, frame.time_base = tick, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def copied(
    source: Path, path: Path, shift: float = 0.0, cover: bool = False, **options: str
) -> Path:
    """The packets of a clip in another container, later or earlier, behind a cover picture."""
    with av.open(str(source)) as old, av.open(str(path), "w", options=options) as new:
        picture: Any = None
        if cover:
            picture = new.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = 320, 240, "yuvj420p"
            picture.disposition = 0x0400
        stream = new.add_stream_from_template(old.streams.video[0])
        if picture is not None:
            frame = av.VideoFrame.from_ndarray(image(0, 320, 240), format="bgr24")
            new.mux(picture.encode(frame))
            new.mux(picture.encode(None))
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is None or packet.pts is None:
                continue
            by = round(shift / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts + by, packet.dts + by, stream
            new.mux(packet)
    return path


def turned(source: Path, path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """A clip with a display matrix, as phones write it: a, b, c, d."""
    data = bytearray(source.read_bytes())
    place = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def with_gaps(source: Path, path: Path) -> Path:
    """An AVI of MJPEG; some frames were dropped in the recording: their chunks have no size."""
    data = source.read_bytes()
    start, index = data.index(b"movi") + 4, data.index(b"idx1")
    body, entries, place = bytearray(), bytearray(), start
    for number in range(FRAMES):
        length = struct.unpack_from("<I", data, place + 4)[0]
        kept = 0 if number in (7, 20, 21) else length
        flags = data[index + 8 + 16 * number :][4:8]
        entries += data[place : place + 4] + flags + struct.pack("<II", 4 + len(body), kept)
        body += data[place : place + 4] + struct.pack("<I", kept)
        body += data[place + 8 : place + 8 + kept] + bytes(kept % 2)
        place += 8 + length + length % 2
    made = bytearray(data[:start]) + body + b"idx1" + struct.pack("<I", len(entries)) + entries
    struct.pack_into("<I", made, start - 8, 4 + len(body))
    struct.pack_into("<I", made, 4, len(made) - 8)
    path.write_bytes(made)
    return path


def noisy(source: Path, path: Path) -> Path:
    """A clip whose middle tenth is garbage."""
    data, dice = bytearray(source.read_bytes()), random.Random(1)
    for place in range(int(len(data) * 0.45), int(len(data) * 0.55)):
        data[place] = dice.randrange(256)
    path.write_bytes(data)
    return path


def cut(source: Path, path: Path, share: float = 0.6) -> Path:
    """The first part of a clip."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * share) | 1])
    return path


def sound(path: Path, codec: str) -> Path:
    """A file without pictures."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4608), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        resampler = av.AudioResampler(stream.format or "fltp", stream.layout, 44100)
        for part in resampler.resample(frame):
            part.pts = None
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


VFR = [*range(10), 40, 80, *range(100, 110)]
FAST = {"movflags": "+faststart"}


def whole() -> dict[str, tuple[Callable[[Path], Path], int, float]]:
    """How to make files that are whole: name, maker into a folder, frames, last position."""
    last = (FRAMES - 1) / FPS

    def joined(folder: Path) -> Path:
        part = make(folder / "part.ts").read_bytes()
        (folder / "joined.ts").write_bytes(part * 3)
        return folder / "joined.ts"

    def resized(folder: Path) -> Path:
        first = make(folder / "1.ts").read_bytes()
        second = make(folder / "2.ts", size=(48, 32)).read_bytes()
        (folder / "resized.ts").write_bytes(first + second)
        return folder / "resized.ts"

    def plain(folder: Path) -> Path:
        return make(folder / "source.mp4")

    return {
        "mp4": (plain, FRAMES, last),
        **{
            kind: (lambda f, kind=kind: make(f / f"a.{kind}"), FRAMES, last)
            for kind in ("mkv", "ts", "mov", "flv", "avi")
        },
        "h264": (lambda f: make(f / "a.h264", kind="h264"), FRAMES, (FRAMES - 1) / 25),
        "webm": (lambda f: make(f / "a.webm", codec="libvpx-vp9"), FRAMES, last),
        "mjpeg": (lambda f: make(f / "a.avi", codec="mjpeg", pixels="yuvj420p"), FRAMES, last),
        "avi with gaps": (
            lambda f: with_gaps(make(f / "a.avi", codec="mjpeg", pixels="yuvj420p"), f / "b.avi"),
            FRAMES - 3,
            last,
        ),
        "mpeg2": (lambda f: make(f / "a.mpg", codec="mpeg2video"), FRAMES, last),
        "10 bits": (lambda f: make(f / "a.mkv", codec="ffv1", pixels="yuv420p10le"), FRAMES, last),
        "4:4:4 odd": (
            lambda f: make(f / "a.mp4", pixels="yuv444p", size=(95, 63)),
            FRAMES,
            last,
        ),
        "grey": (lambda f: make(f / "a.mkv", codec="ffv1", pixels="gray"), FRAMES, last),
        "alpha": (lambda f: make(f / "a.mkv", codec="ffv1", pixels="yuva420p"), FRAMES, last),
        "gif": (lambda f: make(f / "a.gif", range(0, 120, 3), "gif", "rgb8"), FRAMES, 3.9),
        "variable mp4": (lambda f: make(f / "a.mp4", VFR), len(VFR), 109 / FPS),
        "variable mkv": (lambda f: make(f / "a.mkv", VFR), len(VFR), 109 / FPS),
        "variable ts": (lambda f: make(f / "a.ts", VFR), len(VFR), 109 / FPS),
        "far off": (lambda f: copied(plain(f), f / "a.ts", 50_000), FRAMES, last),
        "negative": (
            lambda f: copied(plain(f), f / "a.mkv", -1, avoid_negative_ts="disabled"),
            FRAMES,
            last,
        ),
        "cover first": (lambda f: copied(plain(f), f / "a.mp4", cover=True), FRAMES, last),
        "joined": (joined, 3 * FRAMES, (3 * FRAMES - 1) / FPS),
        "resized": (resized, 2 * FRAMES, (2 * FRAMES - 1) / FPS),
        "fragments": (
            lambda f: make(f / "a.mp4", options={"movflags": "empty_moov+frag_keyframe"}),
            FRAMES,
            last,
        ),
        "one frame": (lambda f: make(f / "a.mp4", [0]), 1, 0.0),
        "faststart": (lambda f: make(f / "a.mp4", options=FAST), FRAMES, last),
    }
