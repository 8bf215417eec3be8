"""The one reader of pictures: what is read, what is refused, and that nothing is printed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.trt_afdet.media import odd_pictures as odd
from tests.trt_afdet.media.fuzz_readers import fuzz_apart
from trt_afdet.cli import main
from trt_afdet.errors import CorruptFileError, MissingFileError
from trt_afdet.media import (
    PICTURE_SUFFIXES,
    decode_picture,
    open_inputs,
    probe_picture,
    read_picture,
)


@pytest.mark.parametrize("name", odd.whole())
def test_what_is_read(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    path.write_bytes(odd.whole()[name])
    image, info = read_picture(path), probe_picture(path)
    assert (image.shape, image.dtype) == ((odd.HEIGHT, odd.WIDTH, 3), np.uint8)
    assert (info.width, info.height, info.orientation) == (odd.WIDTH, odd.HEIGHT, 1)
    assert np.abs(image.astype(int) - odd.base()).mean() < 6
    with open_inputs(path) as source:
        assert source.is_video == (name == "animated.gif")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", odd.grey())
def test_grey(name: str) -> None:
    image = decode_picture(odd.grey()[name])
    wanted = cv2.cvtColor(odd.base(), cv2.COLOR_BGR2GRAY)[..., None]
    assert np.abs(image.astype(int) - wanted).mean() < 5


@pytest.mark.parametrize("name", odd.bits())
def test_black_and_white(name: str) -> None:
    wanted = np.repeat((odd.black_and_white() * np.uint8(255))[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode_picture(odd.bits()[name]), wanted)


@pytest.mark.parametrize("size", [(1, 1), (1, 30_000), (30_000, 1)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "GIF", "JPEG2000"])
def test_narrow_pictures(tmp_path: Path, size: tuple[int, int], kind: str) -> None:
    if kind == "WEBP":  # It has no more.
        size = (min(size[0], 16_383), min(size[1], 16_383))
    picture = Image.new("RGB", size, (200, 100, 50))
    path = tmp_path / "a"
    path.write_bytes(odd.encoded(kind, picture))
    info, image = probe_picture(path), read_picture(path)
    assert (info.width, info.height) == size
    assert image.shape == (size[1], size[0], 3)
    assert np.abs(image.astype(int) - (50, 100, 200)).max() < 4


@pytest.mark.parametrize(
    "data",
    [
        odd.exif_as(3, 1, b"\x06"),
        odd.exif_as(4, 1, b"\x06"),
        odd.exif_as(1, 1, b"\x06"),
        odd.exif_as(8, 1, b"\x06"),
        odd.exif_as(9, 1, b"\x06"),
    ],
    ids=["short", "long", "byte", "signed short", "signed long"],
)
def test_exif_of_any_whole_number(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    assert probe_picture(tmp_path / "a").orientation == 6
    assert read_picture(tmp_path / "a").shape == (odd.WIDTH, odd.HEIGHT, 3)


@pytest.mark.parametrize("name", odd.broken())
def test_what_is_refused(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data, said = odd.broken()[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match=said) as caught:
        read_picture(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_folder_goes_on_after_what_is_refused(tmp_path: Path) -> None:
    for name, (data, _) in odd.broken().items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "whole.png").write_bytes(odd.encoded("PNG"))
    with open_inputs(tmp_path) as source:
        assert [frame.path.name for frame in source] == ["whole.png"]
        named = [name for name in odd.broken() if Path(name).suffix in PICTURE_SUFFIXES]
        assert len(source.failed) == len(named)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif(tmp_path: Path, kind: str, orientation: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(odd.encoded(kind, exif=odd.exif(orientation), quality=95))
    image, info = read_picture(path), probe_picture(path)
    turned = orientation > 4
    size = (odd.HEIGHT, odd.WIDTH) if turned else (odd.WIDTH, odd.HEIGHT)
    assert image.shape == (size[1], size[0], 3)
    assert (info.width, info.height, info.format) == (*size, kind)
    assert info.orientation == orientation
    wanted = odd.base()
    turns = {
        2: lambda i: i[:, ::-1], 3: lambda i: i[::-1, ::-1], 4: lambda i: i[::-1],
        5: lambda i: i.transpose(1, 0, 2), 6: lambda i: np.rot90(i, -1),
        7: lambda i: i[::-1, ::-1].transpose(1, 0, 2), 8: lambda i: np.rot90(i),
    }  # fmt: skip
    wanted = turns.get(orientation, lambda i: i)(wanted)
    assert np.abs(image.astype(int) - wanted).mean() < 6


def test_exif_behind_the_pixels_of_a_png(tmp_path: Path) -> None:
    data, block = odd.encoded("PNG"), odd.exif(6).tobytes()
    path = tmp_path / "late.png"
    path.write_bytes(data[:-12] + odd.chunk(b"eXIf", block.removeprefix(b"Exif\0\0")) + data[-12:])
    assert probe_picture(path).orientation == 6
    assert read_picture(path).shape == (odd.WIDTH, odd.HEIGHT, 3)


def test_jpegs_are_those_that_opencv_reads() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (61, 83, 3), np.uint8)
    smooth = np.asarray(cv2.resize(noise, (301, 203), interpolation=cv2.INTER_CUBIC), np.uint8)
    for quality in (30, 75, 95):
        data = odd.opencv(".jpg", smooth, cv2.IMWRITE_JPEG_QUALITY, quality)
        wanted = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(decode_picture(data), wanted)


def test_every_cut_of_a_jpeg_is_seen() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    for progressive in (0, 1):
        data = odd.opencv(".jpg", noise, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
        # The last block of pixels may lack its end.
        for end in range(data.index(b"\xff\xda") + 20, len(data) - 400, 97):
            for marker in (b"", b"\xff\xd9"):
                with pytest.raises(CorruptFileError):
                    decode_picture(data[:end] + marker)


def test_missing_and_folders(tmp_path: Path) -> None:
    for read in (read_picture, probe_picture):
        with pytest.raises(MissingFileError, match="no such picture"):
            read(tmp_path / "none.png")
        with pytest.raises(MissingFileError, match="is a folder"):
            read(tmp_path)


def test_suffixes_are_lower_case_and_apart() -> None:
    from trt_afdet.media import VIDEO_SUFFIXES

    both = PICTURE_SUFFIXES + VIDEO_SUFFIXES
    assert len(set(both)) == len(both)
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in both)


def test_mutated_pictures(tmp_path: Path) -> None:
    fuzz_apart("pictures", tmp_path)


def test_a_picture_called_a_video_and_the_reverse(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(odd.encoded("JPEG"))
    assert main(["detect", str(tmp_path / "a.mp4"), "--jsonl", str(tmp_path / "a.jsonl")]) == 0
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1
