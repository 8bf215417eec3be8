"""Redis streams with a real server that goes and comes back."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.trt_afdet.record_schema import check
from tests.trt_afdet.stream.sinks.sink_makers import result, status, wait_until
from tests.trt_afdet.stream.sinks.sink_peers import Process, redis_server
from trt_afdet.errors import InvalidValueError
from trt_afdet.stream.retry import Retry
from trt_afdet.stream.sinks.redis import RedisOptions, RedisSink
from trt_afdet.stream.sinks.spool import Spool

FAST = Retry(first=0.05, longest=0.3)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    process = redis_server(tmp_path)
    process.start()
    yield process
    process.kill()


def sink_for(server: Process, folder: Path, **options: Any) -> RedisSink:
    options = {"host": "127.0.0.1", "stream": "found", "port": server.port, **options}
    return RedisSink(RedisOptions(**options), Spool(folder / "spool.sqlite"), retry=FAST)


def entries(server: Process, **options: Any) -> list[dict[str, str]]:
    with redis.Redis(port=server.port, decode_responses=True, **options) as client:
        return [fields for _, fields in client.xrange("found")]


def test_records_are_entries(server: Process, tmp_path: Path) -> None:
    sink = sink_for(server, tmp_path)
    sink.open()
    sink.status(status())
    sink.write(result(3))
    wait_until(lambda: sink.waiting() == 0)
    sink.close()
    first, second, last = entries(server)
    for entry in (first, second, last):
        check(json.loads(entry["record"]))
    assert json.loads(last["record"])["state"] == "ended"
    assert (first["type"], second["type"], second["source"]) == ("status", "result", "cam")
    record = json.loads(second["record"])
    assert record["detections"] == result(3).detections.to_dicts()
    assert (second["run"], second["number"]) == (record["run"], "1")


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_nothing_is_lost_while_the_server_is_away(
    how: str, server: Process, tmp_path: Path
) -> None:
    sink = sink_for(server, tmp_path, timeout=0.5)
    sink.open()
    for sequence in range(600):
        if sequence == 200:
            getattr(server, how)()
        if sequence == 400:
            server.start() if how == "kill" else server.thaw()
        sink.write(result(sequence))
        time.sleep(0.005)  # timing: the pace of a camera
    wait_until(lambda: sink.waiting() == 0)
    sink.close()
    found = [json.loads(entry["record"])["sequence"] for entry in entries(server)]
    assert list(dict.fromkeys(found)) == list(range(600))
    assert len(found) - 600 <= 300
    assert sink.dropped == 0


def test_a_restart_delivers_what_the_last_run_could_not(server: Process, tmp_path: Path) -> None:
    server.kill()
    sink = sink_for(server, tmp_path)
    sink.open()
    for sequence in range(30):
        sink.write(result(sequence))
    sink.close()
    server.start()
    again = sink_for(server, tmp_path)
    again.open()
    wait_until(lambda: again.waiting() == 0)
    again.close()
    assert len(entries(server)) == 30


def test_the_stream_keeps_about_so_many(server: Process, tmp_path: Path) -> None:
    sink = sink_for(server, tmp_path, maxlen=100)
    sink.open()
    for sequence in range(1000):
        sink.write(result(sequence))
    wait_until(lambda: sink.waiting() == 0)
    sink.close()
    found = [json.loads(entry["record"])["sequence"] for entry in entries(server)]
    assert 100 <= len(found) < 400
    assert found == list(range(1000 - len(found), 1000))


def test_credentials_are_used_and_never_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = redis_server(tmp_path, "--requirepass", "s3cr3t-word")
    server.start()
    for password in ("not-the-word", None, "s3cr3t-word"):
        sink = sink_for(server, tmp_path, password=password)
        assert "word" not in sink.name + repr(vars(sink_for(server, tmp_path)))
        caplog.clear()
        sink.open()
        sink.write(result(0))
        if password == "s3cr3t-word":
            wait_until(lambda sink=sink: sink.waiting() == 0)  # type: ignore[misc]
        else:
            wait_until(lambda: "refuses" in caplog.text)
        sink.close()
        assert "-word" not in caplog.text
    assert len(entries(server, password="s3cr3t-word")) == 3
    server.kill()


def test_a_key_of_another_kind_is_named_and_waited_for(
    server: Process, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis(port=server.port) as client:
        client.set("found", "something else")
        sink = sink_for(server, tmp_path)
        sink.open()
        sink.write(result(0))
        wait_until(lambda: "WRONGTYPE" in caplog.text)
        assert "detections" not in caplog.text
        client.delete("found")
        wait_until(lambda: sink.waiting() == 0)
        sink.close()
    assert len(entries(server)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stream": ""}, "lacks the name"),
        ({"stream": "x", "maxlen": 0}, "maxlen"),
        ({"stream": "x", "ca": Path("x")}, "rediss://"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        RedisOptions("host", **options)


def test_a_record_above_the_servers_limit_holds_up_nothing(tmp_path: Path) -> None:
    server = redis_server(tmp_path, "--proto-max-bulk-len", "1mb")
    server.start()
    sink = sink_for(server, tmp_path)
    sink.open()
    for sequence in range(8):
        # Not the last one: the server's refusal may be lost with the connection that it closes, and
        # then only a record behind it can show that the connection is not at fault.
        found = 12_000 if sequence in (2, 3, 6) else 1
        sink.write(result(sequence, count=found))
    wait_until(lambda: sink.waiting() == 0, 120)
    assert sink.refused == sink.dropped == 3
    sink.close()
    seen = [json.loads(e["record"])["sequence"] for e in entries(server) if e["type"] == "result"]
    assert sorted(set(seen)) == [0, 1, 4, 5, 7]
    server.kill()


def test_a_server_without_memory_costs_nothing(server: Process, tmp_path: Path) -> None:
    """OOM is for all records, and passes."""
    with redis.Redis(port=server.port) as client:
        client.config_set("maxmemory", "100kb")
        sink = sink_for(server, tmp_path)
        sink.open()
        for sequence in range(20):
            sink.write(result(sequence))
        # It has failed alone, and so have others in its place.
        wait_until(lambda: client.info("stats")["total_error_replies"] > 60, 120)
        assert (sink.waiting(), sink.dropped) == (20, 0)
        client.config_set("maxmemory", "0")
    wait_until(lambda: sink.waiting() == 0, 60)
    assert sink.dropped == 0
    sink.close()
    seen = [json.loads(e["record"])["sequence"] for e in entries(server)]
    assert sorted(set(seen)) == list(range(20))
