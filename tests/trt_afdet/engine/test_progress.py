"""How far a build is."""

from __future__ import annotations

from trt_afdet.engine.progress import BuildState


def test_nested_phases_add_up_and_never_fall() -> None:
    state = BuildState()
    assert state.fraction is None
    assert state.doing == "building"
    state.start("all", None, 2)
    state.start("parts", "all", 4)
    seen = [state.fraction]
    for index in range(4):
        assert state.step("parts", index)
        seen.append(state.fraction)
    assert state.doing == "parts"
    state.finish("parts")
    state.step("all", 0)
    seen.append(state.fraction)
    # TensorRT starts phases again and again.
    state.start("parts", "all", 1)
    state.start("inner", "parts", 10)
    state.step("inner", 4)
    seen.append(state.fraction)
    assert state.doing == "parts > inner"
    state.finish("inner")
    state.finish("parts")
    seen.append(state.fraction)
    state.finish("all")
    seen.append(state.fraction)
    assert seen == [0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.75, 0.75, 1.0]


def test_unknown_phases_and_too_many_steps_do_no_harm() -> None:
    state = BuildState()
    state.start("all", None, 0)
    assert state.step("none", 3)
    assert state.step("all", 99)
    state.finish("none")
    assert state.fraction == 1.0


def test_a_cancelled_build_is_told_to_stop() -> None:
    state = BuildState()
    state.start("all", None, 3)
    assert state.step("all", 0)
    state.cancelled = True
    assert not state.step("all", 1)


def test_device_memory_is_the_most_that_was_taken() -> None:
    free = iter([1000, 900, 300, 700])
    state = BuildState(lambda: next(free))
    for _ in range(3):
        state.look()
    assert state.device_memory == 700
    without = BuildState()
    without.look()
    assert without.device_memory is None


def test_time_stops_at_the_end() -> None:
    state = BuildState()
    state.end()
    assert state.ended
    assert state.seconds == state.seconds < 5
