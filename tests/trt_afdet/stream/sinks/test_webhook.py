"""Webhooks with a real HTTP server that is slow, away, or of another opinion."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trt_afdet.record_schema import check
from tests.trt_afdet.stream.sinks.sink_makers import result, status, wait_until
from tests.trt_afdet.stream.sinks.sink_peers import Hook, free_port
from trt_afdet.errors import InvalidValueError, MissingFileError
from trt_afdet.stream.retry import Retry
from trt_afdet.stream.sinks.spool import Spool
from trt_afdet.stream.sinks.webhook import WebhookOptions, WebhookSink

FAST = Retry(first=0.05, longest=0.2)


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    yield server
    server.stop()


def sink_for(port: int, folder: Path, path: str = "/in", **options: Any) -> WebhookSink:
    more = {key: options.pop(key) for key in ("batch", "linger", "send") if key in options}
    url = options.pop("url", f"http://127.0.0.1:{port}{path}")
    return WebhookSink(
        WebhookOptions(url, **options), Spool(folder / "spool.sqlite"), retry=FAST, **more
    )


def sequences(hook: Hook) -> list[int]:
    return [record["sequence"] for record in hook.taken]


def test_records_are_posted_in_batches(hook: Hook, tmp_path: Path) -> None:
    sink = sink_for(hook.port, tmp_path, "/in?key=1", batch=10, linger=20.0)
    sink.open()
    for sequence in range(25):
        sink.write(result(sequence))
    wait_until(lambda: len(hook.taken) >= 20)
    sink.close()
    assert sequences(hook) == list(range(25))
    # The first connection does not wait for a full batch.
    assert max(len(json.loads(body)["records"]) for _, _, body in hook.posts) == 10
    for _, _, body in hook.posts:
        for record in json.loads(body)["records"]:
            check(record)
    path, headers, _ = hook.posts[0]
    assert path == "/in?key=1"
    assert headers["Content-Type"] == "application/json"
    assert "Authorization" not in headers


def test_the_signature_and_the_credentials_are_right_and_never_shown(
    hook: Hook, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hook.answers = [401]
    url = f"http://me:p%40ss@127.0.0.1:{hook.port}/in?token=hidden-in-the-query"
    sink = sink_for(hook.port, tmp_path, url=url, secret="signing-key")
    sink.open()
    sink.write(result(0))
    wait_until(lambda: hook.taken)
    sink.close()
    _, headers, body = hook.posts[-1]
    expected = hmac.new(b"signing-key", body, hashlib.sha256).hexdigest()
    assert headers["X-Trt-Afdet-Signature"] == f"sha256={expected}"
    assert headers["Authorization"] == "Basic " + base64.b64encode(b"me:p@ss").decode()
    assert "401" in caplog.text
    shown = caplog.text + sink.name + repr(WebhookOptions(url, secret="signing-key"))
    for secret in ("signing-key", "p%40ss", "p@ss", "hidden-in-the-query"):
        assert secret not in shown


def test_a_token_is_a_bearer(hook: Hook, tmp_path: Path) -> None:
    sink = sink_for(hook.port, tmp_path, token="abc")
    sink.open()
    sink.write(result(0))
    wait_until(lambda: hook.taken)
    sink.close()
    assert hook.posts[0][1]["Authorization"] == "Bearer abc"


def test_failures_are_tried_again_with_the_same_key(hook: Hook, tmp_path: Path) -> None:
    hook.answers = [500, 503, 302, 404, 429]
    sink = sink_for(hook.port, tmp_path)
    sink.open()
    sink.write(result(0))
    wait_until(lambda: hook.taken)
    sink.write(result(1))
    wait_until(lambda: len(hook.taken) == 2)
    sink.close()
    keys = [headers["Idempotency-Key"] for _, headers, _ in hook.posts]
    assert len(set(keys[:6])) == 1
    assert keys[6] != keys[0]
    assert sink.dropped == 0


def test_a_server_that_asks_for_patience_gets_it(hook: Hook, tmp_path: Path) -> None:
    hook.answers = [(503, {"Retry-After": "1"})]
    sink = sink_for(hook.port, tmp_path)
    sink.open()
    began = time.monotonic()
    sink.write(result(0))
    wait_until(lambda: hook.taken)
    sink.close()
    assert time.monotonic() - began >= 1.0


def test_one_bad_record_does_not_block_the_others(
    hook: Hook, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hook.refuse = lambda body: any(r["sequence"] in (3, 11) for r in body["records"])
    sink = sink_for(hook.port, tmp_path, batch=8, linger=0.2)
    sink.open()
    for sequence in range(20):
        sink.write(result(sequence))
    wait_until(lambda: sink.waiting() == 0)
    sink.close()
    assert sequences(hook) == [n for n in range(20) if n not in (3, 11)]
    assert sink.dropped == 2
    assert sum("refused and dropped" in r.getMessage() for r in caplog.records) == 1


def test_nothing_is_lost_while_the_server_is_away(tmp_path: Path) -> None:
    port = free_port()
    first = sink_for(port, tmp_path)
    first.open()
    for sequence in range(30):
        first.write(result(sequence))
    first.close()
    second = sink_for(port, tmp_path)
    second.open()
    second.write(result(30))
    hook = Hook(port)
    wait_until(lambda: len(hook.taken) == 31)
    hook.stop()
    for sequence in range(31, 40):
        second.write(result(sequence))
    before, hook = hook, Hook(port)
    wait_until(lambda: second.waiting() == 0)
    second.close()
    hook.stop()
    assert sequences(before) + sequences(hook) == list(range(40))


def test_a_slow_server_holds_up_neither_writing_nor_the_end(hook: Hook, tmp_path: Path) -> None:
    hook.slow = True
    sink = sink_for(hook.port, tmp_path)
    sink.open()
    began = time.monotonic()
    for sequence in range(100):
        sink.write(result(sequence))
    sink.close()
    assert time.monotonic() - began < 60  # The server takes five times as long.
    hook.slow = False
    hook.delay.set()
    again = sink_for(hook.port, tmp_path)
    again.open()
    wait_until(lambda: set(sequences(hook)) == set(range(100)))
    again.close()


def test_what_is_sent_can_be_chosen(hook: Hook, tmp_path: Path) -> None:
    sink = sink_for(hook.port, tmp_path, send=("detections", "events"))
    sink.open()
    sink.status(status())
    sink.write(result(0, count=0))
    sink.write(result(1, count=1))
    sink.write(result(2, count=0, events=("gate",)))
    wait_until(lambda: len(hook.taken) == 3)
    sink.close()
    assert [(r["type"], r["sequence"]) for r in hook.taken] == [
        ("result", 1),
        ("result", 2),
        ("event", 2),
    ]


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("ftp://host/", {}, "http://HOST"),
        ("https:///path", {}, "http://HOST"),
        ("https://me:pw@host/", {"token": "x"}, "not both"),
        ("https://host/", {"timeout": 0.0}, "timeout"),
    ],
)
def test_bad_options_are_refused(url: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message) as caught:
        WebhookOptions(url, **options)
    assert "pw" not in str(caught.value)
    with pytest.raises(MissingFileError):
        WebhookOptions("https://host/", ca=Path("/no/such"))


@pytest.mark.parametrize("status", [400, 413, 415, 422, 431, 500, 503, 504, 409])
@pytest.mark.parametrize("batch", [1, 100])
def test_a_record_that_the_server_never_takes_holds_up_nothing(
    hook: Hook, tmp_path: Path, status: int, batch: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it answers: one that says so is believed at once, the others after proof."""
    hook.refuse = lambda body: any(r["sequence"] in (0, 4, 5) for r in body["records"])
    hook.refusal = status
    sink = sink_for(hook.port, tmp_path, batch=batch, linger=0.0)
    sink.open()
    for sequence in range(9):
        sink.write(result(sequence))
    wait_until(lambda: sink.waiting() == 0, 120)
    assert sink.refused == 3
    assert sorted(set(sequences(hook))) == [1, 2, 3, 6, 7, 8]
    assert sum("refused and dropped" in r.getMessage() for r in caplog.records) == 1
    sink.close()


def test_a_server_that_takes_nothing_for_a_while_costs_nothing(hook: Hook, tmp_path: Path) -> None:
    hook.answers = [500, 503, 401, 429, 404] * 6
    sink = sink_for(hook.port, tmp_path, linger=0.0)
    sink.open()
    for sequence in range(9):
        sink.write(result(sequence))
    wait_until(lambda: sink.waiting() == 0, 120)
    assert sink.dropped == 0
    assert sorted(set(sequences(hook))) == list(range(9))
    sink.close()
