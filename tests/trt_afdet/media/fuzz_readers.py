"""Reads mutated files; a process of its own, because a fault in a C library would end the tests.

``python fuzz_readers.py pictures|videos FOLDER CASES``: the case in work is ``FOLDER/case``. Prints
how many cases were read and refused. Anything on stderr, a traceback and a signal are faults.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.trt_afdet.media import odd_pictures, odd_videos
from trt_afdet.errors import AfdetError
from trt_afdet.media import Video, open_inputs, probe_picture, read_picture

#: Pixels of a picture whose decoding takes long, and says the same.
LARGE = 1 << 24

#: Name of a clip, codec and format of its pixels.
CLIPS = {
    "a.mp4": ("libx264", "yuv420p"),
    "fragments.mp4": ("libx264", "yuv420p"),
    "a.mkv": ("libx264", "yuv420p"),
    "a.ts": ("libx264", "yuv420p"),
    "a.flv": ("libx264", "yuv420p"),
    "a.avi": ("libx264", "yuv420p"),
    "a.h264": ("libx264", "yuv420p"),
    "mjpeg.avi": ("mjpeg", "yuvj420p"),
    "mjpeg.mkv": ("mjpeg", "yuvj420p"),
    "a.mpg": ("mpeg2video", "yuv420p"),
    "a.webm": ("libvpx", "yuv420p"),
    "a.nut": ("ffv1", "yuv420p"),
    "a.y4m": ("wrapped_avframe", "yuv420p"),
    "a.gif": ("gif", "rgb8"),
}


def clips(folder: Path) -> list[bytes]:
    """Clips of four small frames in many containers."""
    options = {"fragments.mp4": {"movflags": "empty_moov+frag_keyframe"}}
    kinds = {"a.h264": "h264", "a.y4m": "yuv4mpegpipe"}
    found = []
    for name, (codec, pixels) in CLIPS.items():
        path = folder / name
        odd_videos.make(path, range(4), codec, pixels, (32, 32), options.get(name), kinds.get(name))
        found.append(path.read_bytes())
    return found


@st.composite
def mutated(draw: st.DrawFn, files: list[bytes]) -> bytes:
    """A file with bytes changed, a piece left out or doubled, or its end missing."""
    data = bytearray(draw(st.sampled_from(files)))
    last = len(data) - 1
    # Headers are where parsers stumble.
    places = st.one_of(st.integers(0, min(400, last)), st.integers(0, last))
    values = st.one_of(st.sampled_from((0, 1, 0x7F, 0x80, 0xFF)), st.integers(0, 255))
    for place, value in draw(st.lists(st.tuples(places, values), max_size=8)):
        data[place] = value
    how = draw(st.sampled_from(("whole", "whole", "cut", "lost", "doubled")))
    place, length = draw(places), draw(st.integers(1, 64))
    if how == "cut":
        del data[place:]
    elif how == "lost":
        del data[place : place + length]
    elif how == "doubled":
        data[place:place] = data[place : place + length]
    return bytes(data)


def look_at_picture(path: Path) -> None:
    """The header and the picture, which agree or are refused."""
    info = None
    try:
        info = probe_picture(path)
    except AfdetError as error:
        check(error)
    if info is not None and info.width * info.height > LARGE:
        return
    image = read_picture(path)
    assert str(image.dtype) == "uint8"
    assert image.ndim == 3
    assert image.shape[2] == 3
    if info is not None:
        assert image.shape[:2] == (info.height, info.width)


def look_at_video(path: Path) -> None:
    """The first frames, whose positions rise; by both ways that commands read."""
    with Video(path) as video:
        if video.info.width * video.info.height > LARGE:
            return
        last = -1.0
        for image, position in itertools.islice(video, 50):
            assert image.ndim == 3
            assert image.shape[2] == 3
            assert position > last
            last = position
    with open_inputs(path) as source:
        next(iter(source), None)


def check(error: AfdetError) -> None:
    """A refusal is one line."""
    assert str(error)
    assert len(str(error).splitlines()) == 1


def fuzz(look: Callable[[Path], None], files: list[bytes], folder: Path, cases: int) -> None:
    path = folder / "case"
    counts = {"read": 0, "refused": 0}

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutated(files))
    def run(data: bytes) -> None:
        path.write_bytes(data)
        try:
            look(path)
        except AfdetError as error:
            check(error)
            counts["refused"] += 1
        else:
            counts["read"] += 1

    run()
    print(counts["read"], counts["refused"])


def fuzz_apart(kind: str, folder: Path, cases: int = 2000) -> None:
    """Reads mutated files in a process of its own, and checks that all went well and silently."""
    command = [sys.executable, __file__, kind, str(folder), str(cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (0, ""), f"the last case is {folder / 'case'}"
    read, refused = map(int, done.stdout.split())
    assert read + refused >= cases
    assert min(read, refused) > cases / 20


if __name__ == "__main__":
    kind, place, number = sys.argv[1:]
    av.logging.set_level(None)
    if kind == "pictures":
        pictures = [*odd_pictures.whole().values(), *odd_pictures.grey().values()]
        fuzz(look_at_picture, pictures, Path(place), int(number))
    else:
        fuzz(look_at_video, clips(Path(place)), Path(place), int(number))
