"""When a pipeline is well, when it is not, and what a token is worth."""

from __future__ import annotations

import pytest

from trt_afdet.errors import InvalidValueError, RunError
from trt_afdet.stream.monitoring.health import HealthCheck
from trt_afdet.stream.monitoring.public_names import PublicNames
from trt_afdet.stream.monitoring.snapshot import PipelineSnapshot, SourceSnapshot
from trt_afdet.stream.monitoring.status import State, StatusEvent
from trt_afdet.support.listening import bind, is_loopback, parse_address
from trt_afdet.web.access import ATTEMPTS, SESSION, WINDOW, Access, new_token

TOKEN = "correct horse battery"


def snapshot(states: dict[str, State], processed: int = 0) -> PipelineSnapshot:
    return PipelineSnapshot(
        {"a": SourceSnapshot(processed, processed, {}, 0.0, 0.0, 0.0, 0.0)},
        {},
        {name: StatusEvent(name, state, "why", 0.0) for name, state in states.items()},
        {},
        {},
        1.0,
    )


def test_a_detector_that_stands_still_is_noticed() -> None:
    now = [0.0]
    check = HealthCheck(PublicNames(), stall=10, clock=lambda: now[0])
    assert check.judge(snapshot({"a": "live"}, 5)).status == "ok"
    now[0] = 9.0
    assert check.judge(snapshot({"a": "live"}, 5)).status == "ok"
    now[0] = 11.0
    health = check.judge(snapshot({"a": "live", "b": "lost"}, 5))
    assert health.status == "unhealthy"
    assert health.reasons[0] == "no frame was processed for 11 s"
    assert check.judge(snapshot({"a": "live"}, 6)).status == "ok"


def test_without_a_live_source_nothing_can_stand_still() -> None:
    now = [0.0]
    check = HealthCheck(PublicNames(), stall=10, clock=lambda: now[0])
    for moment in range(0, 100, 5):
        now[0] = moment
        assert check.judge(snapshot({"a": "lost"}, 5)).status == "degraded"
    # It has just come back: the detector has had no time yet.
    now[0] = 101.0
    assert check.judge(snapshot({"a": "live"}, 5)).status == "ok"


def test_all_failed_is_unhealthy_one_failed_is_not() -> None:
    check = HealthCheck(PublicNames())
    assert check.judge(snapshot({"a": "failed", "b": "failed"})).status == "unhealthy"
    health = check.judge(snapshot({"a": "failed", "b": "live"}))
    assert (health.status, health.reasons) == ("degraded", ("a: failed (why)",))
    assert check.judge(snapshot({"a": "ended", "b": "ended"})).status == "ok"
    assert check.judge(snapshot({})).status == "ok"


def test_cookies_hold_no_token_expire_and_end_with_it() -> None:
    now = [1000.0]
    access = Access(TOKEN, clock=lambda: now[0])
    cookie = access.new_cookie()
    assert TOKEN not in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    pair = cookie.partition(";")[0]
    assert access.cookie_is_right(f"other=1; {pair}")
    assert Access(TOKEN, clock=lambda: now[0]).cookie_is_right(pair)  # After a restart.
    assert not Access(TOKEN + "!", clock=lambda: now[0]).cookie_is_right(pair)
    name, _, value = pair.partition("=")
    expires, _, signature = value.partition(".")
    later = f"{int(expires, 16) + 999:x}"
    for forged in (f"{later}.{signature}", expires, f"{expires}.", "zz.zz", "", "é.é"):
        assert not access.cookie_is_right(f"{name}={forged}")
    now[0] += SESSION + 1
    assert not access.cookie_is_right(pair)


def test_guessing_is_slowed_down_per_address() -> None:
    now = [0.0]
    access = Access(TOKEN, clock=lambda: now[0])
    for _ in range(ATTEMPTS):
        assert not access.blocked("1.2.3.4")
        access.note_wrong("1.2.3.4")
    assert access.blocked("1.2.3.4")
    assert not access.blocked("1.2.3.5")
    now[0] += WINDOW + 1
    assert not access.blocked("1.2.3.4")
    for number in range(5000):
        access.note_wrong(f"10.0.{number // 250}.{number % 250}")
    assert len(access._wrong) <= 1024


def test_tokens() -> None:
    assert Access(TOKEN).token_is_right(TOKEN)
    assert not Access(TOKEN).token_is_right(TOKEN[:-1])
    assert not Access(TOKEN).token_is_right("tökén")
    assert len({new_token() for _ in range(100)}) == 100
    assert Access(new_token()).required
    assert not Access(None).required
    for bad in ("", "short", "x" * 20 + "\n", "ö" * 20):
        with pytest.raises(InvalidValueError, match="at least 12 ASCII"):
            Access(bad)


def test_addresses() -> None:
    assert parse_address("8080") == ("127.0.0.1", 8080)
    assert parse_address("0.0.0.0:0") == ("0.0.0.0", 0)
    assert parse_address("[::1]:80") == ("::1", 80)
    assert parse_address("cam-box.local:8080") == ("cam-box.local", 8080)
    for bad in ("", ":8080", "host", "host:99999", "a:b:1", "http://host:80", "::1:80", "1 2:80"):
        with pytest.raises(InvalidValueError, match="HOST:PORT"):
            parse_address(bad)


def test_a_taken_port_is_one_clear_error() -> None:
    with bind("127.0.0.1", 0) as first:
        assert is_loopback(first)
        port = first.getsockname()[1]
        with pytest.raises(RunError, match=f"cannot listen .*{port}.*another program uses"):
            bind("127.0.0.1", port)
    with pytest.raises(InvalidValueError, match="host is unknown"):
        bind("no-such-host.invalid", 0)
    with bind("0.0.0.0", 0) as everywhere:
        assert not is_loopback(everywhere)
