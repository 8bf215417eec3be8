"""The one reader of videos, as `detect` and as `run` use it, and the one writer."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from tests.trt_afdet.media import odd_videos as odd
from tests.trt_afdet.media.fuzz_readers import fuzz_apart
from trt_afdet.engine.sample_pictures import open_pictures
from trt_afdet.errors import CorruptFileError
from trt_afdet.media import Video, VideoWriter, count_frames, open_inputs
from trt_afdet.media.videos import Converter
from trt_afdet.stream.config.addresses import make_source, parse_source
from trt_afdet.stream.sources.base import SourceRefusedError

Frames = list[tuple[float, float]]


def by_detect(path: Path) -> tuple[Frames, list[str]]:
    """Position and mean of each frame, and what was wrong."""
    with open_inputs(path) as source:
        frames = [(round((f.timestamp_ms or 0) / 1000, 6), float(f.image.mean())) for f in source]
    assert source.total == len(frames)
    return frames, [str(error) for error in source.failed]


def by_run(path: Path) -> Frames:
    source = make_source(parse_source(str(path)))
    source.open()
    try:
        return [
            (round(picture.position or 0.0, 6), float(picture.image.mean()))
            for picture in iter(source.read, None)
        ]
    finally:
        source.close()


@pytest.mark.parametrize("name", odd.whole())
def test_whole_files(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    maker, count, last = odd.whole()[name]
    path = maker(tmp_path)
    capfd.readouterr()
    frames, failed = by_detect(path)
    assert failed == []
    assert len(frames) == count
    assert frames == by_run(path)
    positions = [position for position, _ in frames]
    assert all(a < b for a, b in itertools.pairwise(positions))
    assert positions[0] == 0
    assert positions[-1] == pytest.approx(last, abs=0.04)
    # The first is the darkest: none was left out.
    assert frames[0][1] == pytest.approx(odd.image(0).mean(), abs=4)
    assert count_frames(path) == count
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), lambda i: i),
        ((0, 1, -1, 0), lambda i: np.rot90(i, -1)),
        ((-1, 0, 0, -1), lambda i: i[::-1, ::-1]),
        ((0, -1, 1, 0), np.rot90),
        ((-1, 0, 0, 1), lambda i: i[:, ::-1]),
        ((1, 0, 0, -1), lambda i: i[::-1]),
        ((0, 1, 1, 0), lambda i: i.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda i: i[::-1, ::-1].transpose(1, 0, 2)),
    ],
)
def test_display_matrices(
    tmp_path: Path,
    matrix: tuple[int, int, int, int],
    shown: Callable[[np.ndarray], np.ndarray],
) -> None:
    path = odd.turned(odd.make(tmp_path / "a.mp4", range(30, 33)), tmp_path / "b.mp4", matrix)
    with Video(path) as video:
        found = [image for image, _ in video]
    wanted = shown(odd.image(2))
    assert found[2].shape == wanted.shape
    assert np.abs(found[2].astype(int) - wanted).mean() < 5


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
def test_damage_is_passed_over_and_counted(tmp_path: Path, name: str) -> None:
    codec = ("mjpeg", "yuvj420p") if name == "a.avi" else ("libx264", "yuv420p")
    options = odd.FAST if name == "a.mp4" else None
    path = odd.noisy(
        odd.make(tmp_path / name, range(200), *codec, options=options), tmp_path / f"noisy_{name}"
    )
    frames, failed = by_detect(path)
    assert 100 < len(frames) < 200
    assert frames == by_run(path)
    assert ["is damaged" in text for text in failed] == [True]
    assert frames[-1][0] > 5


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
def test_cut_files_are_named_so(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = odd.FAST if name == "a.mp4" else None
    path = odd.cut(odd.make(tmp_path / name, range(90), options=options), tmp_path / f"cut_{name}")
    frames, failed = by_detect(path)
    assert 5 < len(frames) < 90
    assert ["is cut off" in text for text in failed] == [True]
    assert frames == by_run(path)
    assert "is cut off" in caplog.text


def _refused(folder: Path) -> dict[str, tuple[Path, str]]:
    texts = {
        "note.txt": ("hello\n", "a text file"),
        "table.csv": ("a,b\n1,2\n", "a text file"),
        "page.mp4": ("<html>not found</html>", "an HTML page"),
        "list.txt": ("/data/1.jpg\n/data/2.jpg\n", "a list of pictures"),
        "clips.txt": ("1.mp4\n2.mp4\n", "a list of videos"),
        "live.m3u8": ("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/1.ts\n", "a playlist"),
        "a.ffconcat": ("ffconcat version 1.0\nfile a.mp4\n", "a text file"),
        "run.sh": ("#!/bin/sh\necho\n", "a script"),
        "subtitles.srt": ("1\n00:00:01,000 --> 00:00:02,000\nhello\n", "a text file"),
        "x.json5": ("{}", "a JSON file"),
        "utf16.txt": ("hello " * 99, "a text file"),
    }
    found = {}
    for name, (text, said) in texts.items():
        encoding = "utf-16" if name == "utf16.txt" else "utf-8"
        (folder / name).write_text(text, encoding=encoding)
        found[name] = (folder / name, said)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "model.mp4").write_bytes(b"\x08\x07\x12\x07pytorch" + bytes(range(256)) * 20)
    clip = odd.make(folder / "clip.mp4")
    return {
        **found,
        "empty": (folder / "empty.mp4", "is empty"),
        "bytes": (folder / "model.mp4", "neither a picture nor a video"),
        "no index": (odd.cut(clip, folder / "cut.mp4"), "cut off"),
        "mp3": (odd.sound(folder / "a.mp3", "libmp3lame"), "an audio file|no video"),
        "m4a": (odd.sound(folder / "a.mp4", "aac"), "sound only"),
    }


def test_what_is_no_video_is_one_line_everywhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cases = _refused(tmp_path)
    capfd.readouterr()
    for path, said in cases.values():
        with pytest.raises(CorruptFileError, match=said) as caught:
            by_detect(path)
        assert "\n" not in str(caught.value)
        with pytest.raises(SourceRefusedError, match=said):
            by_run(path)
        with pytest.raises(CorruptFileError, match=said):
            open_pictures(path)
    assert capfd.readouterr().err == ""


# Writing


@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".gif"])
@pytest.mark.parametrize("name", ["variable mp4", "4:4:4 odd", "resized"])
def test_written_videos_keep_their_time(tmp_path: Path, suffix: str, name: str) -> None:
    maker, count, last = odd.whole()[name]
    out = tmp_path / f"out{suffix}"
    with (
        open_inputs(maker(tmp_path)) as source,
        VideoWriter(out, source.rates[source.paths[0]]) as writer,
    ):
        for frame in source:
            writer.write(frame.image, (frame.timestamp_ms or 0) / 1000)
    frames, failed = by_detect(out)
    assert failed == []
    assert len(frames) == count
    assert frames[-1][0] == pytest.approx(last, abs=0.04)
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        if suffix in (".mp4", ".m4v", ".mov"):
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
            assert float(stream.duration * stream.time_base) == pytest.approx(last, abs=0.1)
            data = out.read_bytes()
            assert data.index(b"moov") < data.index(b"mdat")


def test_mutated_videos(tmp_path: Path) -> None:
    fuzz_apart("videos", tmp_path)


@pytest.mark.parametrize("codec", [("mjpeg", "yuvj420p"), ("mpeg4", "yuv420p")])
@pytest.mark.parametrize("what", ["frames", "index", "both"])
def test_frames_lost_in_an_avi_move_no_others(
    tmp_path: Path, codec: tuple[str, str], what: str
) -> None:
    whole = odd.make(tmp_path / "a.avi", range(200), *codec)
    path = odd.noisy(whole, tmp_path / "b.avi") if what != "index" else whole
    if what != "frames":
        data = bytearray(path.read_bytes())
        place = data.index(b"idx1") + 8 + 16 * 50
        data[place : place + 16 * 20] = bytes(16 * 20)
        (tmp_path / "c.avi").write_bytes(data)
        path = tmp_path / "c.avi"
    frames, _ = by_detect(path)
    assert (len(frames) < 200) == (what != "index")
    wanted = dict(by_detect(whole)[0])
    # With both damaged, nothing tells how many were lost between; else each is where it was.
    last = frames[-1][0]
    assert last == pytest.approx(max(wanted), abs=1 / odd.FPS if what != "both" else 1)
    assert all(position in wanted for position, _ in frames)


@pytest.mark.parametrize("space", [3, 8, 10, 12, 14, 15])
def test_colour_spaces_that_ffmpeg_cannot_convert(space: int) -> None:
    frame = av.VideoFrame.from_ndarray(odd.image(20), format="bgr24").reformat(format="yuv420p")
    frame.colorspace = space
    assert np.abs(Converter()(frame).astype(int) - odd.image(20)).mean() < 5
