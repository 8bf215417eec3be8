"""Files: every frame, once, in order, upright; and a plain word about damaged ones."""

from __future__ import annotations

import logging
import shutil
import struct
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.skips import skip_test
from tests.trt_afdet.stream.sources.source_rig import (
    make_clip,
    number_image,
    opened,
    read_all,
    read_number,
    source,
)
from trt_afdet.stream.sources.base import SourceError, SourceRefusedError


def test_every_frame_of_a_video_with_its_position(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 60, fps=25)
    pictures = read_all(str(clip))
    assert [read_number(p.image) for p in pictures] == list(range(60))
    assert [p.position for p in pictures] == pytest.approx([i / 25 for i in range(60)])
    assert {(p.image.shape, p.image.dtype.name, p.captured) for p in pictures} == {
        ((64, 96, 3), "uint8", None)
    }
    with opened(str(clip)) as made:
        info = made.open()
    assert (info.width, info.height, info.fps, info.codec) == (96, 64, 25.0, "h264")


def test_pictures_are_those_that_opencv_reads(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 12)
    capture = cv2.VideoCapture(str(clip))
    for picture in read_all(str(clip)):
        ok, image = capture.read()
        assert ok
        assert np.abs(picture.image.astype(int) - image).mean() < 1.0


def test_positions_follow_the_timestamps(tmp_path: Path) -> None:
    times = [0, 1, 2, 10, 11, 40]
    clip = make_clip(tmp_path / "slow.mkv", 6, fps=10, times=times)
    positions = [p.position for p in read_all(str(clip))]
    assert positions == pytest.approx([t / 10 for t in times], abs=0.002)


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg", "libx264"])
def test_codecs(tmp_path: Path, codec: str) -> None:
    clip = make_clip(tmp_path / "clip.avi", 20, codec=codec)
    assert [read_number(p.image) for p in read_all(f"file://{clip}")] == list(range(20))


@pytest.mark.parametrize("turn", [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
def test_pictures_are_upright(tmp_path: Path, turn: tuple[int, int, int, int]) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 3)
    data = bytearray(clip.read_bytes())
    # As phones do: the matrix in the track's header says how the picture is to be turned.
    place = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in turn)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    clip.write_bytes(data)
    pictures = read_all(str(clip))
    # OpenCV turns them too, and `detect` reads through it.
    ok, wanted = cv2.VideoCapture(str(clip)).read()
    assert ok
    assert pictures[0].image.shape == wanted.shape
    assert pictures[0].image.shape[:2] == ((96, 64) if turn[1] else (64, 96))
    # The second frame: the first is black all over.
    upright = np.rot90(pictures[1].image, {1: 1, 0: 2, -1: 3}[turn[1]])
    assert read_number(upright) == 1
    assert len(pictures) == 3


def test_odd_names(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 3)
    for name in ("a:b.mp4", "what?.mp4", "100%41.mp4", "-i.mp4", "ä ß.mp4", "x#y.mp4", "[1]*.mp4"):
        odd = tmp_path / name
        shutil.copy(clip, odd)
        assert len(read_all(str(odd))) == 3


def test_what_is_missing_or_no_video_is_refused(tmp_path: Path) -> None:
    empty, text, cut = (tmp_path / name for name in ("empty.mp4", "text.mp4", "cut.mp4"))
    empty.write_bytes(b"")
    text.write_text("no video\n" * 1000)
    clip = make_clip(tmp_path / "clip.mp4").read_bytes()
    cut.write_bytes(clip[: len(clip) // 2])  # Its index is at the end.
    sound = tmp_path / "sound.wav"
    sound.write_bytes(b"RIFF\x24\x08\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0")
    for path, said in (
        (tmp_path / "missing.mp4", "no such video"),
        (empty, "is empty"),
        (text, "looks like a text file"),
        (cut, "is cut off"),
        (sound, "an audio file"),
    ):
        with pytest.raises(SourceRefusedError, match=said), opened(str(path)) as made:
            made.read()


def test_a_video_that_is_cut_off_gives_what_it_has(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", 60)
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) * 2 // 3])
    numbers = [read_number(p.image) for p in read_all(str(clip))]
    assert 20 < len(numbers) < 60
    assert numbers == list(range(len(numbers)))


def test_damage_in_the_middle_costs_only_what_it_hits(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.ts", 100, format="mpegts")
    data = bytearray(clip.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    clip.write_bytes(data)
    numbers = [read_number(p.image) for p in read_all(str(clip))]
    assert numbers[:30] == list(range(30))
    assert numbers[-20:] == list(range(80, 100))


def test_a_playlist_in_a_file_opens_no_address(tmp_path: Path) -> None:
    asked = threading.Event()
    import http.server

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            self.send_error(404)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        listed = (
            f"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:{server.server_port}/a.ts\n#EXT-X-ENDLIST\n"
        )
        trap = tmp_path / "trap.mp4"
        trap.write_text(listed)
        with pytest.raises(SourceError):
            read_all(str(trap))
        server.shutdown()
    assert not asked.is_set()


def test_a_size_that_changes_gives_pictures_of_both(tmp_path: Path) -> None:
    both = tmp_path / "both.h264"
    parts = [
        make_clip(tmp_path / f"{i}.h264", 10, size=size, format="h264").read_bytes()
        for i, size in enumerate([(96, 64), (192, 128)])
    ]
    both.write_bytes(b"".join(parts))
    pictures = read_all(str(both))
    assert [p.image.shape[:2] for p in pictures] == [(64, 96)] * 10 + [(128, 192)] * 10
    assert [read_number(p.image) for p in pictures] == [*range(10), *range(10)]


def test_reading_again_begins_anew_and_interrupting_ends_it(tmp_path: Path) -> None:
    made = source(str(make_clip(tmp_path / "clip.mp4", 10)))
    for _ in range(2):
        made.open()
        picture = made.read()
        assert picture is not None
        assert read_number(picture.image) == 0
    made.interrupt()
    with pytest.raises(SourceError, match="interrupted"):
        made.read()
    made.close()
    made.close()


def test_nvdec_without_a_gpu_says_so(tmp_path: Path) -> None:
    if Path("/dev/nvidia0").exists() or Path("/etc/nv_tegra_release").exists():
        skip_test("this machine has an NVIDIA GPU", "a run without one")
    clip = make_clip(tmp_path / "clip.mp4", 3)
    with pytest.raises(SourceRefusedError, match=r"GPU 0 cannot decode it|without NVDEC"):
        read_all(str(clip), decoder="nvdec")


def test_pictures_of_a_folder_and_of_a_pattern(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (3, 1, 2):
        size = (96 * number, 64)
        cv2.imwrite(str(tmp_path / f"{number}.png"), number_image(number, *size))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "4.jpg").write_bytes(b"broken")
    with caplog.at_level(logging.WARNING):
        pictures = read_all(str(tmp_path))
    assert [read_number(p.image) for p in pictures] == [1, 2, 3]
    assert [p.image.shape[1] for p in pictures] == [96, 192, 288]
    assert {p.position for p in pictures} == {None}
    assert "4.jpg" in caplog.text
    assert len(read_all(str(tmp_path / "[12].png"))) == 2
    assert len(read_all(str(tmp_path / "3.png"))) == 1


def test_no_pictures_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    for text, said in (
        (str(tmp_path / "none*.png"), "holds no picture"),
        (str(tmp_path / "missing.png"), "no such picture"),
        (str(broken), "none of its pictures"),
    ):
        with pytest.raises(SourceRefusedError, match=said):
            read_all(text)
