"""Sinks by address, and records as they are defined."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trt_afdet.stream.sinks.sink_makers import WALL, result
from trt_afdet.errors import InvalidValueError, MissingFileError
from trt_afdet.records import dumps, iso_time
from trt_afdet.stream.config.addresses import make_sink
from trt_afdet.stream.options import read_seconds, read_size
from trt_afdet.stream.sinks.recorder import Recorder, new_run, parse_contents
from trt_afdet.stream.sinks.text_files import JsonLinesSink

SCHEMES = {
    "video:clips": "video clips",
    "video:///data/clips?segment=10min&keep_free=2GB&codec=mpeg4&quality=30&wait=no": (
        "video /data/clips"
    ),
    "jsonl:~nobody-of-that-name/x": "jsonl ~nobody-of-that-name/x",
    "jsonl:out.jsonl?fsync=always&send=detections,events": "jsonl out.jsonl",
    "csv:out%3F.csv?fsync=never": "csv out?.csv",
    "mqtt://me:s3cr3t@broker/site/{source}?client_id=x&keepalive=30&batch=5": (
        "mqtt://broker:1883/site/{source}"
    ),
    "mqtts://broker": "mqtts://broker:8883/trt-afdet/{source}/{type}",
    "redis://:s3cr3t@[::1]:7000/found?maxlen=10&db=3": "redis://::1:7000/found",
    "rediss://host/found?timeout=2s": "rediss://host:6379/found",
    "webhook+https://me:s3cr3t@host:8443/in?their=s3cr3t&secret=s3cr3t&linger=5s": (
        "webhook+https://host:8443/in"
    ),
    "webhook+http://host/in?spool_size=10MB": "webhook+http://host/in",
    "mjpeg://127.0.0.1:0?token=s3cr3t-long-enough&quality=50&fps=12.5": "mjpeg 127.0.0.1:0",
    "rtsp://me:s3cr3t@host:8554/{source}?bitrate=1000000": "rtsp host:8554/{source}",
    "window:": "window",
}


@pytest.mark.parametrize(("uri", "name"), SCHEMES.items())
def test_every_scheme_makes_its_sink_and_nothing_else(
    uri: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    sink = make_sink(uri)
    assert sink.name == name
    assert "s3cr3t" not in sink.name + repr(sink)
    assert not list(tmp_path.iterdir())


def test_options_reach_the_sinks(tmp_path: Path) -> None:
    sink = make_sink(f"video:{tmp_path}?segment=1.5min&keep_free=1GiB&wait=no")
    assert vars(sink)["_segment"] == 90
    assert vars(sink)["_keep_free"] == 1 << 30
    assert sink.durable is False
    hook = make_sink(f"webhook+https://host/in?their=1&mine=a%26b&batch=7&spool={tmp_path}/s")
    assert vars(hook)["_options"].url == "https://host/in?their=1&mine=a%26b"
    assert (vars(hook)["_batch"], vars(hook)["_linger"]) == (7, 1.0)
    assert vars(hook)["_spool"].path == tmp_path / "s"


def test_secrets_can_be_read_from_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cr:t@/ word\n")
    mqtt = make_sink(f"mqtt://me@host?password_file={secret}")
    assert vars(mqtt)["_options"].password == "s3cr:t@/ word"
    assert vars(mqtt)["_options"].user == "me"
    hook = make_sink(f"webhook+https://host/?secret_file={secret}")
    assert vars(hook)["_options"].secret == "s3cr:t@/ word"
    with pytest.raises(MissingFileError, match="no secret"):
        make_sink(f"redis://host/x?password_file={tmp_path}/none")
    quoted = make_sink("mqtt://m%40e:p%3A%2Fw@host")
    assert vars(quoted)["_options"].password == "p:/w"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("jsnol:x", "did you mean 'jsonl'"),
        ("out.jsonl", "unknown sink type .*one of video:FOLDER"),
        ("", "unknown sink type"),
        ("jsonl:", "file or folder is missing"),
        ("jsonl:x?fsnyc=always", "unknown option .*did you mean 'fsync'"),
        ("jsonl:x?fsync=often", "never, second, always"),
        ("jsonl:x?send=everything", "cannot send that"),
        ("jsonl:x?send=event", "did you mean 'events'"),
        ("csv:x?send=results", "unknown option .*fsync"),
        ("video:x?keep_free=2PB", "keep_free must be a number like 2GB"),
        ("video:x?segment=soon", "segment must .*10min"),
        ("video:x?wait=maybe", "yes or no"),
        ("mqtt:///topic", "host is missing"),
        ("mqtt://host:port/x", "cannot be read"),
        ("mqtt://host/a/{camera}", "unknown placeholder"),
        ("redis://host", "redis://host/STREAM"),
        ("redis://host/x?maxlen=many", "maxlen must be a whole number"),
        ("webhook+https://host/?tokn=abc", "did you mean 'token'"),
        ("webhook+https:///x", "host is missing"),
        ("webhook://host/x", "did you mean 'webhook"),
        ("mjpeg://127.0.0.1:1?quality=0", "quality"),
        ("mjpeg://127.0.0.1:1?fps=fast", "number like 12.5"),
        ("rtsp:///x", "host is missing"),
        ("window:?size=3", "known: none"),
    ],
)
def test_mistakes_are_named(uri: str, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        make_sink(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "mqtt://me:hunter22@host:port/x",
        "mqtt://me:hunter22@host/{x}",
        "mqqt://me:hunter22@host/x",
        "redis://me:hunter22@host/",
        "webhook+https://me:hunter22@host/?token=hunter22",
        "webhook+https://me:hunter22@host/?batch=x",
        "mjpeg://127.0.0.1:99999999?token=hunter22",
        "mjpeg://127.0.0.1:1?token=hunter22",
        "//me:hunter22@host/x",
        "rtsp://me:hunter22@host/x?bitrate=0",
    ],
)
def test_no_error_shows_a_credential(uri: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        make_sink(uri)
    assert "hunter22" not in str(caught.value)


def test_sizes_and_times() -> None:
    assert [read_size(t) for t in ("5", "2GB", "1.5 MiB", "3kb")] == [5, 2e9, 1.5 * 2**20, 3000]
    assert [read_seconds(t) for t in ("5", "10min", "1.5h", "250ms")] == [5, 600, 5400, 0.25]
    for text in ("", "-5", "2 parsecs", "1e9", "nan"):
        with pytest.raises(InvalidValueError, match="must be a number"):
            read_size(text)
        with pytest.raises(InvalidValueError, match="must be a number"):
            read_seconds(text)


def test_times_are_utc_and_runs_differ() -> None:
    assert iso_time(WALL) == "2026-01-31T23:59:59.250Z"
    assert iso_time(WALL + 0.7496) == "2026-02-01T00:00:00.000Z"
    assert iso_time(0.0) == "1970-01-01T00:00:00.000Z"
    assert new_run() != new_run()


def test_records_are_what_was_asked_for() -> None:
    assert parse_contents("results, status") == ("results", "status")
    with pytest.raises(InvalidValueError, match="something to send"):
        parse_contents(" , ")
    recorder = Recorder(("detections",))
    assert recorder.result(result(0, count=0)) == []
    assert recorder.result(result(1))[0]["number"] == 0
    assert recorder.result(result(2, count=0, events=("x",)))[0]["number"] == 1
    line = dumps(recorder.result(result(3, "Straße\n2"))[0])
    assert line.startswith('{"type": "result"')
    assert "\n" not in line


def test_a_sink_in_a_pipeline_counts_what_it_lost(tmp_path: Path) -> None:
    from trt_afdet.stream.sinks.base import SinkRunner

    class Lossy(JsonLinesSink):
        dropped = 3

    def fail(name: str, error: BaseException) -> None:
        raise AssertionError(name) from error

    runner = SinkRunner(Lossy(tmp_path / "x"), 4, fail)
    runner.start()
    runner.put(result(0), lambda: False)
    assert runner.close(10)
    assert (runner.written, runner.dropped) == (1, 3)
