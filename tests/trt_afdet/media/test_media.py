"""Reading pictures and videos, and writing them whole or not at all."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from trt_afdet.errors import CorruptFileError, InvalidValueError, MissingFileError, WriteError
from trt_afdet.media import VideoWriter, open_inputs, write_picture

SIZE = (48, 64, 3)


def picture(level: int) -> npt.NDArray[np.uint8]:
    return np.full(SIZE, level, np.uint8)


def make_video(path: Path, frames: int = 12, fps: float = 20) -> Path:
    with VideoWriter(path, fps) as writer:
        for index in range(frames):
            writer.write(picture(6 * index))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".mov", ".webm", ".ts", ".gif"])
def test_video_round_trip(tmp_path: Path, suffix: str) -> None:
    path = make_video(tmp_path / "new" / f"video{suffix}")
    with open_inputs(path) as source:
        frames = list(source)
        assert (source.is_video, source.total, source.rates) == (True, 12, {path: 20})
    assert source.failed == []
    assert [f.index for f in frames] == list(range(12))
    assert [round(f.timestamp_ms or 0) for f in frames[:3]] == [0, 50, 100]
    assert abs(int(frames[5].image.mean()) - 30) < 4
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_folder_and_glob_in_order_without_other_files(tmp_path: Path) -> None:
    for index, name in enumerate(("b.png", "a.JPG", "c.bmp")):
        write_picture(tmp_path / name, picture(index))
    (tmp_path / "notes.txt").write_text("hello")
    with open_inputs(tmp_path) as source:
        assert [f.path.name for f in source] == ["a.JPG", "b.png", "c.bmp"]
        assert source.total == 3
    with open_inputs(f"{tmp_path}/*.[pb]*") as source:
        assert [f.path.name for f in source] == ["b.png", "c.bmp"]


def test_one_unreadable_picture_of_many_is_kept_for_the_report(tmp_path: Path) -> None:
    for index in range(3):
        write_picture(tmp_path / f"{index}.jpg", picture(index))
    data = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(data[: len(data) // 2])
    with open_inputs(tmp_path) as source:
        assert [f.path.name for f in source] == ["0.jpg", "2.jpg"]
    assert [str(tmp_path / "1.jpg") in str(e) for e in source.failed] == [True]


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff\xe0 no jpeg"])
def test_a_single_picture_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(CorruptFileError), open_inputs(tmp_path / "a.jpg") as source:
        list(source)


def test_a_cut_jpeg_is_not_shown_half_grey(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    write_picture(tmp_path / "a.jpg", noise)
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[:-500])
    # OpenCV itself returns a picture, so this is ours to notice.
    assert cv2.imread(str(tmp_path / "a.jpg")) is not None
    with pytest.raises(CorruptFileError, match="cut off"), open_inputs(tmp_path / "a.jpg") as s:
        list(s)


def test_bad_sources(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    video = make_video(tmp_path / "v.mp4")
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:500])
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("hello" * 100)
    (tmp_path / "none").mkdir()
    for name, kind in (
        ("cut.mp4", CorruptFileError),
        ("empty.mp4", CorruptFileError),
        ("text.mp4", CorruptFileError),
        ("missing.mp4", MissingFileError),
        ("none", InvalidValueError),
        ("*.xyz", InvalidValueError),
    ):
        with pytest.raises(kind, match=name.replace("*", r"\*")):
            open_inputs(tmp_path / name)
    # The libraries below must not add lines of their own.
    assert capfd.readouterr().err == ""


def test_a_video_that_ends_early_is_reported(tmp_path: Path) -> None:
    whole = make_video(tmp_path / "v.avi", frames=40)
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) // 2])
    with open_inputs(whole) as source:
        count = len(list(source))
    assert 0 < count < 40
    assert "is cut off" in str(source.failed[0])
    assert f"{count} frames could be read" in str(source.failed[0])


def test_nothing_half_written_when_the_block_fails(tmp_path: Path) -> None:
    target = tmp_path / "v.mp4"
    target.write_text("the old one")

    def fail() -> None:
        with VideoWriter(target, 10) as writer:
            writer.write(picture(0))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert target.read_text() == "the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]


def test_unknown_formats(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="unknown video format"):
        VideoWriter(tmp_path / "v.xyz", 10)
    with pytest.raises(InvalidValueError, match="unknown picture format"):
        write_picture(tmp_path / "a.xyz", picture(0))
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for write in (
        lambda: write_picture(tmp_path / "file" / "a.png", picture(0)),
        lambda: make_video(tmp_path / "file" / "v.mp4"),
    ):
        with pytest.raises(WriteError, match="cannot write"):
            write()
