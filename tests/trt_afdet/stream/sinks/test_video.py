"""Annotated video: readable whatever happens, at the right times, and never the end of a disk."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.skips import skip_test
from tests.trt_afdet.stream.sinks.sink_makers import result, status
from trt_afdet.detections import Detections
from trt_afdet.errors import InvalidValueError, RunError, WriteError
from trt_afdet.stream.frame import StreamFrame, StreamResult
from trt_afdet.stream.sinks import video
from trt_afdet.stream.sinks.video import VideoSink


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.mp4"))


def decoded(path: Path) -> list[tuple[float, np.ndarray[Any, Any]]]:
    """Seconds and picture of every frame."""
    with av.open(str(path)) as container:
        return [
            (frame.time, frame.to_ndarray(format="bgr24")) for frame in container.decode(video=0)
        ]


def record(sink: VideoSink, results: list[StreamResult]) -> None:
    sink.open()
    for one in results:
        sink.write(one)
    sink.close()


def plain(
    sequence: int, seconds: float, value: int, size: tuple[int, int] = (64, 48)
) -> StreamResult:
    """A grey frame without detections."""
    image = np.full((size[1], size[0], 3), value, np.uint8)
    frame = StreamFrame("cam", sequence, image, 1000 + seconds, 1769903999.25 + seconds)
    return StreamResult(frame, Detections.empty(("a",)), True, 1000 + seconds)


def test_every_frame_is_there_at_its_own_time(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.05, 0.4, 3.0, 3.033, 30.0, 30.001]
    record(VideoSink(tmp_path), [plain(i, t, 20 + 25 * i) for i, t in enumerate(times)])
    (path,) = files(tmp_path)
    assert path.name == "cam_20260131T235959.250Z.afdet.mp4"
    frames = decoded(path)
    assert [round(t, 3) for t, _ in frames] == times
    for index, (_, image) in enumerate(frames):
        assert abs(float(image.mean()) - (20 + 25 * index)) < 4
    with av.open(str(path)) as container:
        assert container.metadata["title"] == "cam"
        assert container.streams.video[0].codec_context.name == "h264"


def test_a_file_s_own_times_are_kept(tmp_path: Path) -> None:
    record(VideoSink(tmp_path), [result(i, position=i / 25 + 7) for i in range(10)])
    (path,) = files(tmp_path)
    assert [round(t, 3) for t, _ in decoded(path)] == [round(i / 25, 3) for i in range(10)]


def test_the_detections_are_drawn(tmp_path: Path) -> None:
    record(VideoSink(tmp_path, quality=5), [result(i, size=(320, 240)) for i in range(3)])
    (path,) = files(tmp_path)
    expected = result(2).detections.draw(result(2, size=(320, 240)).frame.image)
    assert np.abs(decoded(path)[2][1].astype(int) - expected).mean() < 6


def test_segments_follow_each_other_without_a_gap(tmp_path: Path) -> None:
    record(VideoSink(tmp_path, segment=1.0), [result(i, fps=10) for i in range(35)])
    assert [len(decoded(path)) for path in files(tmp_path)] == [10, 10, 10, 5]
    assert [path.name[4:23] for path in files(tmp_path)] == [
        "20260131T235959.250",
        "20260201T000000.250",
        "20260201T000001.250",
        "20260201T000002.250",
    ]


@pytest.mark.parametrize("size", [(65, 49), (128, 96)])
def test_another_resolution_is_another_file(size: tuple[int, int], tmp_path: Path) -> None:
    before = [plain(i, i / 30, 50) for i in range(5)]
    after = [plain(i, i / 30, 200, size) for i in range(5, 9)]
    record(VideoSink(tmp_path), before + after)
    first, second = files(tmp_path)
    assert (len(decoded(first)), len(decoded(second))) == (5, 4)
    frames = decoded(second)
    # An odd side is made even by one more row or column.
    assert frames[0][1].shape == (size[1] + size[1] % 2, size[0] + size[0] % 2, 3)
    assert abs(float(frames[-1][1].mean()) - 200) < 4


def test_sources_have_files_of_their_own_that_end_with_them(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path)
    sink.open()
    for sequence in range(4):
        sink.write(result(sequence, "a"))
        sink.write(result(sequence, "../b c"))
    sink.status(status("ended", "a"))
    sink.status(status("lost", "../b c"))
    sink.status(status("ended", "never seen"))
    (ended,) = tmp_path.glob("a_*.mp4")
    assert len(decoded(ended)) == 4
    sink.write(result(4, "../b c"))
    sink.write(result(9, "a"))
    sink.close()
    assert len(list(tmp_path.glob("a_*.mp4"))) == 2
    (other,) = tmp_path.glob("b-c-*_*.mp4")
    assert len(decoded(other)) == 5


def test_a_clock_that_jumps_back_overwrites_nothing(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path)
    record(sink, [result(0)])
    record(VideoSink(tmp_path), [result(0), result(1)])
    assert sorted(len(decoded(path)) for path in files(tmp_path)) == [1, 2]


def test_a_source_that_starts_again_has_a_new_file(tmp_path: Path) -> None:
    results = [result(i, position=i / 10) for i in range(5)] * 2
    record(VideoSink(tmp_path), [*results, plain(9, 1000.0, 0)])
    assert sorted(len(decoded(path)) for path in files(tmp_path)) == [1, 5, 5]


WRITER = """
import sys
from collections.abc import Iterator
from pathlib import Path
from tests.trt_afdet.stream.sinks.sink_makers import result
from trt_afdet.stream.sinks.video import VideoSink

sink = VideoSink(Path(sys.argv[1]), segment=0.5)
sink.open()
sequence = int(sys.argv[2])
while True:
    sink.write(result(sequence, size=(320, 240)))
    print(sequence, flush=True)
    sequence += 1
"""


def test_kills_leave_readable_files(tmp_path: Path) -> None:
    random.seed(3)
    for turn in range(6):
        folder = tmp_path / str(turn)
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(turn * 10_000)],
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        seen = [process.stdout.readline()]
        time.sleep(random.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        seen += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        written = len([line for line in seen if line.endswith("\n")])
        # The next run repairs the last file, and goes on in the same folder.
        record(VideoSink(folder), [])
        frames = [decoded(path) for path in files(folder)]
        assert written - 1 <= sum(map(len, frames)) <= written + 1
        assert all(len(part) == 15 for part in frames[:-1])


def test_a_file_that_is_cut_anywhere_is_repaired(tmp_path: Path) -> None:
    record(VideoSink(tmp_path / "whole"), [result(i) for i in range(12)])
    (path,) = files(tmp_path / "whole")
    whole = path.read_bytes()
    first = whole.index(b"mdat")
    cut = tmp_path / path.name
    before = 0
    for length in [*range(0, len(whole), 101), len(whole)]:
        cut.write_bytes(whole[:length])
        record(VideoSink(tmp_path), [])
        if length < first:
            assert not cut.exists()
            continue
        frames = len(decoded(cut)) if cut.exists() else 0
        assert before <= frames <= 12
        before = frames
        if cut.exists():
            assert whole.startswith(cut.read_bytes())
    assert before == 12
    record(VideoSink(tmp_path / "whole"), [])
    assert path.read_bytes() == whole


class Disk:
    """Free space as a folder's files leave it, on a disk of a size."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size

    def free(self, path: Path) -> Any:
        used = sum(p.stat().st_size for p in self.folder.iterdir())
        return shutil._ntuple_diskusage(self.size, used, self.size - used)  # type: ignore[attr-defined]


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "LOOK", 0.0)


def test_the_oldest_recordings_make_room_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pause: None
) -> None:
    record(VideoSink(tmp_path, segment=0.5, keep_free=0), [result(i) for i in range(150)])
    own = files(tmp_path)
    each = own[0].stat().st_size
    foreign = [
        tmp_path / "cam_20200101T000000.000Z.mp4",
        tmp_path / "holiday.afdet.mp4",
        tmp_path / "cam_20200101T000000.000Z.afdet.mp4.bak",
    ]
    for path in foreign:
        path.write_bytes(b"precious")
    link = tmp_path / "cam_20200101T000000.001Z.afdet.mp4"
    link.symlink_to(foreign[0])
    size = sum(p.stat().st_size for p in tmp_path.iterdir()) + each
    monkeypatch.setattr(shutil, "disk_usage", Disk(tmp_path, size).free)
    record(
        VideoSink(tmp_path, segment=0.5, keep_free=3 * each),
        [result(i) for i in range(300, 400)],
    )
    left = files(tmp_path)
    assert not own[0].exists()
    assert not own[1].exists()
    assert own[-1].exists()
    gone = [path for path in own if not path.exists()]
    assert gone == own[: len(gone)]
    assert all(path.read_bytes() == b"precious" for path in foreign)
    assert link.is_symlink()
    assert all(decoded(path) for path in left if path not in [*foreign, link])
    assert Disk(tmp_path, size).free(tmp_path).free >= 2 * each


def test_recording_pauses_while_others_fill_the_disk(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_pause: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = Disk(tmp_path, 10**9)
    monkeypatch.setattr(shutil, "disk_usage", disk.free)
    sink = VideoSink(tmp_path, keep_free=10**6)
    sink.open()
    for sequence in range(30):
        disk.size = 10**5 if 10 <= sequence < 20 else 10**9
        sink.write(result(sequence))
    sink.close()
    assert sink.dropped == 10
    assert [len(decoded(path)) for path in files(tmp_path)] == [10, 10]
    assert sum("recording pauses" in r.getMessage() for r in caplog.records) == 1


FULL = """
import resource, sys
from collections.abc import Iterator
from pathlib import Path
import numpy as np
from tests.trt_afdet.stream.sinks.sink_makers import result
from trt_afdet.errors import WriteError
from trt_afdet.stream.sinks.video import VideoSink

noise = np.random.default_rng(1)
sink = VideoSink(Path(sys.argv[1]), keep_free=0)
sink.open()
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
sequence = 0
try:
    while True:
        one = result(sequence, size=(64, 48))
        one.frame.image[:] = noise.integers(0, 256, one.frame.image.shape)
        sink.write(one)
        sequence += 1
except WriteError as error:
    print(sequence, error)
try:
    sink.close()
except WriteError as error:
    print("close:", error)
"""


def test_a_full_disk_is_a_clear_failure_and_the_file_is_whole(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = int(done.stdout.split()[0])
    assert "the file would exceed the largest size" in done.stdout
    (path,) = files(tmp_path)
    assert len(decoded(path)) >= written - 1 > 5


def test_one_recorder_per_folder(tmp_path: Path) -> None:
    first = VideoSink(tmp_path)
    first.open()
    with pytest.raises(RunError, match="another process"):
        VideoSink(tmp_path).open()
    first.close()
    record(VideoSink(tmp_path), [result(0)])


def test_bad_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"no such encoder .*libx26"):
        VideoSink(tmp_path, codec="libx246").open()
    with pytest.raises(InvalidValueError, match=r"0\.\.51"):
        VideoSink(tmp_path, quality=99)
    with pytest.raises(InvalidValueError, match="at least 0"):
        VideoSink(tmp_path, segment=-1)
    (tmp_path / "file").touch()
    with pytest.raises(WriteError):
        VideoSink(tmp_path / "file" / "folder").open()


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_long_recordings_hold_no_frame_back(codec: str, tmp_path: Path) -> None:
    sink = VideoSink(tmp_path, codec=codec)
    sink.open()
    for sequence in range(60):
        sink.write(result(sequence))
        # Before it is closed: the latest frame at most is missing.
        if sequence in (1, 30, 59):
            (path,) = files(tmp_path)
            assert len(decoded(path)) >= sequence
    sink.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if (
        shutil.which("mount") is None
        or subprocess.run(command, capture_output=True, check=False).returncode
    ):
        skip_test("the right to mount a small disk", "a run as root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def noise(sequence: int) -> StreamResult:
    """A frame that makes a large file."""
    one = result(sequence, size=(160, 120))
    one.frame.image[:] = np.random.default_rng(sequence).integers(0, 256, one.frame.image.shape)
    return one


def test_a_real_small_disk_is_never_filled(small_disk: Path, no_pause: None) -> None:
    foreign = small_disk / "other.bin"
    foreign.write_bytes(bytes(500_000))
    sink = VideoSink(small_disk, segment=1.0, keep_free=1_000_000, quality=10)
    sink.open()
    least = shutil.disk_usage(small_disk).free
    for sequence in range(500):
        sink.write(noise(sequence))
        least = min(least, shutil.disk_usage(small_disk).free)
    sink.close()
    assert least > 800_000
    assert sink.dropped == 0
    assert foreign.stat().st_size == 500_000
    left = files(small_disk)
    assert 2 <= len(left) < 15
    # The latest are there, whole, up to the last frame.
    assert sum(len(decoded(path)) for path in left[-2:]) >= 30
    assert left[-1].name.startswith("cam_20260201T000015")


def test_without_a_guard_a_real_full_disk_is_a_clear_failure(small_disk: Path) -> None:
    sink = VideoSink(small_disk, keep_free=0, quality=5)
    sink.open()
    with pytest.raises(WriteError, match="the disk is full"):
        write_all(sink, [noise(i) for i in range(500)])
    with contextlib.suppress(WriteError):
        sink.close()
    (path,) = files(small_disk)
    assert shutil.disk_usage(small_disk).free < 100_000
    assert len(decoded(path)) > 50
    path.unlink()
    record(VideoSink(small_disk), [noise(0)])


def write_all(sink: VideoSink, results: list[StreamResult]) -> None:
    for one in results:
        sink.write(one)
