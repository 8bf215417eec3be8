"""Cameras and videos behind real web servers, well and badly behaved."""

from __future__ import annotations

import base64
import gc
import os
import shutil
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import av
import pytest

from tests.skips import skip_test
from tests.trt_afdet.stream.sources.source_rig import (
    Supervised,
    WebCamera,
    jpeg,
    make_clip,
    number_image,
    opened,
    read_all,
    read_number,
    source,
    wait_for,
)
from trt_afdet.stream.sources.av_reader import AvReader
from trt_afdet.stream.sources.base import Picture, SourceError, SourceRefusedError
from trt_afdet.stream.sources.rtsp_http import NetworkSource


def some(made: object, count: int) -> list[Picture]:
    pictures = [made.read() for _ in range(count)]  # type: ignore[attr-defined]
    assert None not in pictures
    return pictures


def open_and_read(made: Supervised) -> None:
    made.open()
    made.read()


def web(images: object, fps: float = 25) -> WebCamera:
    answers: dict[str, object] = {}
    camera = WebCamera(answers)  # type: ignore[arg-type]
    answers["/cam"] = camera.mjpeg(images, fps)  # type: ignore[arg-type]
    return camera


def test_mjpeg_of_any_and_of_changing_size() -> None:
    def images(number: int) -> bytes:
        return jpeg(number_image(number % 256, 96 * (1 + number // 20 % 3), 64))

    with web(images, 50) as camera, opened(camera.url("/cam")) as made:
        pictures = some(made, 70)
    assert {p.image.shape for p in pictures} == {(64, w, 3) for w in (96, 192, 288)}
    numbers = [read_number(p.image) for p in pictures]
    assert numbers == sorted(numbers)
    captured = [p.captured or 0.0 for p in pictures]
    assert captured == sorted(captured)
    assert {p.position for p in pictures} == {None}


def test_who_reads_slowly_gets_fresh_pictures() -> None:
    sent = [0]

    def images(number: int) -> bytes:
        sent[0] = number
        return jpeg(number_image(number % 256))

    with web(images, 50) as camera, opened(camera.url("/cam")) as made:
        shown = read_number(some(made, 1)[0].image)
        for _ in range(5):
            before = sent[0]
            wait_for(lambda before=before: sent[0] >= before + 10, "ten newer pictures")
            number = read_number(some(made, 1)[0].image)
            # Those between the two were left out.
            assert (number - shown) % 256 >= 10
            shown = number


def test_pictures_that_are_none_are_left_out() -> None:
    good = jpeg(number_image(7))

    def images(number: int) -> bytes:
        return (good, b"no picture at all", good[: len(good) // 2], b"\xff\xd8\xff\xd9")[number % 4]

    with web(images, 100) as camera, opened(camera.url("/cam")) as made:
        assert {read_number(p.image) for p in some(made, 10)} == {7}


def test_garbage_ends_in_an_error_not_in_a_hang() -> None:
    noise = os.urandom(1 << 16)
    good = jpeg(number_image(7))
    with (
        web(lambda number: good if number < 3 else noise[number : number + 2000], 200) as camera,
        opened(camera.url("/cam"), timeout=2) as made,
        pytest.raises(SourceError, match=r"garbage|no frame for 2 s"),
    ):
        some(made, 10)

    def raw(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while not stop.is_set():
            request.wfile.write(noise)

    stop = threading.Event()
    with WebCamera({"/cam": raw}) as camera:
        made = source(camera.url("/cam"), connect_timeout=3, timeout=2)
        with pytest.raises(SourceError):
            open_and_read(made)
        made.close()
        stop.set()


def test_a_page_is_no_stream_and_a_missing_one_is_said_to_be() -> None:
    page = WebCamera.body(b"<html><body>log in</body></html>" * 100, "text/html")
    with WebCamera({"/page": page}) as camera:
        with pytest.raises(SourceError, match="not a video"):
            source(camera.url("/page")).open()
        with pytest.raises(SourceError, match="no such stream") as caught:
            source(camera.url("/none?token=geheim")).open()
        assert "geheim" not in str(caught.value)
    with pytest.raises(SourceError, match="refused") as caught:
        source(camera.url("/none", "admin:geheim@")).open()
    assert "geheim" not in str(caught.value)
    assert not isinstance(caught.value, SourceRefusedError)


def test_passwords_are_sent_and_wrong_ones_are_named() -> None:
    wanted = "Basic " + base64.b64encode(b"admin:p@ss w/rd").decode()

    def guarded(request: BaseHTTPRequestHandler) -> None:
        if request.headers.get("Authorization") == wanted:
            show(request)
            return
        request.send_response(401)
        request.send_header("WWW-Authenticate", 'Basic realm="cam"')
        request.end_headers()

    with WebCamera({"/cam": guarded}) as camera:
        show = camera.mjpeg(lambda number: jpeg(number_image(number % 256)))
        for address, options in (
            (camera.url("/cam", "admin:p%40ss%20w%2Frd@"), {}),
            (camera.url("/cam"), {"user": "admin", "password": "p@ss w/rd"}),
        ):
            with opened(address, **options) as made:
                some(made, 2)
        for who in ("", "admin:geheim@"):
            with pytest.raises(SourceRefusedError, match="refused") as caught:
                source(camera.url("/cam", who)).open()
            assert "geheim" not in str(caught.value)


def test_a_camera_that_ends_is_lost_and_a_video_is_at_its_end(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 40, options={"movflags": "faststart"})
    answers = {"/clip.mp4": WebCamera.body(clip.read_bytes(), "video/mp4")}
    with WebCamera(answers) as camera:
        answers["/cam"] = camera.mjpeg(lambda n: jpeg(number_image(n)) if n < 5 else None, 50)
        pictures = read_all(camera.url("/clip.mp4"))
        assert [read_number(p.image) for p in pictures] == list(range(40))
        assert [p.position for p in pictures] == pytest.approx([i / 30 for i in range(40)])
        with opened(camera.url("/cam")) as made, pytest.raises(SourceError, match="broke off"):
            some(made, 10)


def test_silence_and_interruption_end_reading_and_opening() -> None:
    stop = threading.Event()

    def silent(request: BaseHTTPRequestHandler) -> None:
        stop.wait(300)

    def stuck(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        request.end_headers()
        data = jpeg(number_image(1))
        for _ in range(5):
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            request.wfile.write(head.encode() + data + b"\r\n")
        stop.wait(300)

    with WebCamera({"/silent": silent, "/stuck": stuck}) as camera:
        started = time.monotonic()
        with pytest.raises(SourceError, match=r"silent for 0.5 s|no answer for 0.5 s"):
            source(camera.url("/silent"), connect_timeout=0.5).open()
        assert time.monotonic() - started > 0.4
        with (
            opened(camera.url("/stuck"), timeout=0.5) as made,
            pytest.raises(SourceError, match=r"silent for 0.5 s|no frame for 0.5 s"),
        ):
            some(made, 10)

        for path, act in (("/silent", "open"), ("/stuck", "read")):
            made = source(camera.url(path), timeout=300, connect_timeout=300)
            if act == "read":
                made.open()
            threading.Timer(0.3, made.interrupt).start()
            with pytest.raises(SourceError, match="interrupted"):
                made.open() if act == "open" else some(made, 10)
            made.close()
        stop.set()


def test_threads_and_descriptors_go_with_their_connections() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with web(lambda number: jpeg(number_image(number % 256)), 100) as camera:
        before = None
        for round_ in range(12):
            with opened(camera.url("/cam")) as made:
                some(made, 2)
            wait_for(lambda: not readers(), "the readers to end")
            if round_ == 2:
                before = descriptors()
        wait_for(lambda: descriptors() <= (before or 0) + 2, "sockets to be closed")


def test_nothing_of_a_connection_waits_for_the_garbage_collector(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 10, options={"movflags": "faststart"})
    answers = {"/clip.mp4": WebCamera.body(clip.read_bytes(), "video/mp4")}
    gc.collect()
    gc.disable()  # A connection holds megabytes, and is few objects to it.
    try:
        with WebCamera(answers) as camera:
            answers["/cam"] = camera.mjpeg(lambda n: jpeg(number_image(n % 256)), 100)
            for address in (camera.url("/cam"), camera.url("/clip.mp4"), str(clip)):
                with opened(address) as made:
                    some(made, 2)
                wait_for(lambda: not readers(), "the reader to end")
        kinds = (AvReader, NetworkSource, av.container.InputContainer)
        assert [o for o in gc.get_objects() if isinstance(o, kinds)] == []
    finally:
        gc.enable()


def readers() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("read alone")]


@pytest.fixture
def hls(tmp_path: Path) -> Path:
    if shutil.which("ffmpeg") is None:
        skip_test("ffmpeg is not installed", "make peers")
    return tmp_path


def serve_folder(folder: Path) -> WebCamera:
    """Every file below it, as it is when it is asked for."""

    class Answers(dict):  # type: ignore[type-arg]
        def get(self, path: str, default: object = None) -> object:
            file = folder / path.lstrip("/")
            if not file.is_file():
                return default
            kind = "application/vnd.apple.mpegurl" if file.suffix == ".m3u8" else "video/mp2t"
            return WebCamera.body(file.read_bytes(), kind)

    return WebCamera(Answers())


def test_hls_of_a_finished_event_plays_at_its_pace_and_ends(hls: Path) -> None:
    clip = make_clip(hls / "clip.mp4", 45, fps=30, gop=15)
    command = ["ffmpeg", "-v", "error", "-i", clip, "-c", "copy", "-f", "hls", "-hls_time", "0.5"]
    subprocess.run([*command, "-hls_playlist_type", "vod", hls / "vod.m3u8"], check=True)
    with serve_folder(hls) as camera:
        started = time.monotonic()
        pictures = read_all(camera.url("/vod.m3u8"))
        took = time.monotonic() - started
        assert [read_number(p.image) for p in pictures] == sorted(
            read_number(p.image) for p in pictures
        )
        # 45 frames at 30 a second, to the end; a busy machine leaves some out.
        assert read_number(pictures[-1].image) > 40
        assert took > 1.2
        # Read as a video it loses nothing.
        pictures = read_all(camera.url("/vod.m3u8"), live="no")
        assert [read_number(p.image) for p in pictures] == list(range(45))


def test_live_hls_goes_on_and_is_lost_with_its_server(hls: Path) -> None:
    encoder = subprocess.Popen(
        ["ffmpeg", "-v", "error", "-re", "-f", "lavfi", "-i", "testsrc=size=160x120:rate=20",
         "-c:v", "libx264", "-preset", "ultrafast", "-g", "20", "-f", "hls", "-hls_time", "1",
         "-hls_list_size", "4", "-hls_flags", "delete_segments", hls / "live.m3u8"],
    )  # fmt: skip
    try:
        wait_for(lambda: len(list(hls.glob("*.ts"))) > 3, "segments")
        with serve_folder(hls) as camera, opened(camera.url("/live.m3u8")) as made:
            started = time.monotonic()
            pictures = some(made, 60)
            took = time.monotonic() - started
            assert {p.image.shape for p in pictures} == {(120, 160, 3)}
            # At the pace at which they were filmed, not in bursts: 20 a second.
            assert took > 1.5
            assert (pictures[-1].captured or 0) - (pictures[0].captured or 0) > 1.5
            encoder.kill()
            for file in hls.glob("live*"):
                file.unlink()
            with pytest.raises(SourceError):
                some(made, 400)
    finally:
        encoder.kill()
        encoder.wait()


def test_a_playlist_from_the_network_opens_no_files(hls: Path) -> None:
    clip = make_clip(hls / "secret.ts", 30, format="mpegts")
    (hls / "trap.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{clip}\n#EXT-X-ENDLIST\n"
    )
    with serve_folder(hls) as camera, pytest.raises(SourceError):
        read_all(camera.url("/trap.m3u8"), live="no", timeout=2)
