"""The clocks of streams: late frames are noticed, early ones wait."""

from __future__ import annotations

import pytest

from trt_afdet.stream.sources.rtsp_http import Clockwork, Lag


def test_frames_that_pile_up_are_late() -> None:
    lag = Lag()
    # 25 frames a second that are read at 20.
    behind = [lag.behind(100 + i / 20, i / 25) for i in range(200)]
    assert behind[0] == 0
    assert behind[-1] == pytest.approx(199 * (1 / 20 - 1 / 25), abs=0.1)


def test_a_burst_at_the_start_is_not_lag() -> None:
    lag = Lag()
    # What the camera had stored comes at once; then one by one.
    for i in range(25):
        lag.behind(100 + i * 1e-3, i / 25)
    assert [lag.behind(100 + (i - 24) / 25, i / 25) for i in range(25, 50)] == pytest.approx(
        [0] * 25, abs=0.05
    )


def test_jitter_comes_and_goes() -> None:
    lag = Lag()
    late = [0.0, 0.2, 0.0, 0.0, 2.5, 0.0]
    behind = [lag.behind(10 + i + late[i], float(i)) for i in range(6)]
    assert behind == pytest.approx(late, abs=0.01)


@pytest.mark.parametrize("drift", [1e-4, -1e-4])
def test_a_clock_that_is_off_is_not_lag(drift: float) -> None:
    lag = Lag()
    # A month, a frame a second.
    worst = max(lag.behind(i * (1 + drift), float(i)) for i in range(0, 30 * 86400, 97))
    assert worst < 0.05


@pytest.mark.parametrize("step", [1e6, 60.0, -60.0, -1.0, 3.0])
def test_a_clock_that_is_set_starts_anew(step: float) -> None:
    lag = Lag()
    for i in range(50):
        lag.behind(i / 25, i / 25)
    assert [lag.behind(i / 25, i / 25 + step) for i in range(50, 100)] == pytest.approx(
        [0] * 50, abs=0.05
    )


def test_early_frames_wait_and_late_ones_do_not() -> None:
    clock = Clockwork()
    assert clock.wait(100.0, 7.0) == 0
    assert clock.wait(100.0, 7.04) == pytest.approx(0.04)
    assert clock.wait(100.5, 7.08) == 0
    assert clock.wait(100.5, 7.6) == pytest.approx(0.1)


def test_after_a_gap_the_clock_is_set_again() -> None:
    clock = Clockwork()
    clock.wait(100.0, 7.0)
    assert clock.wait(105.0, 7.04) == 0  # The stream stood still for five seconds.
    assert clock.wait(105.0, 7.08) == pytest.approx(0.04)
    assert clock.wait(105.0, 900.0) == 0  # Another part of the event begins.
    assert clock.wait(105.0, 900.04) == pytest.approx(0.04)
