"""A suggestion is made only where it is meant."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_afdet.support.suggest import nearest

COMMANDS = (
    "bench", "build-engine", "detect", "demo", "doctor", "eval", "inspect", "run", "data", "train",
    "export",
)  # fmt: skip
OPTIONS = (
    "--conf", "--iou", "--classes", "--max-det", "--threads", "--batch", "--out", "--jsonl",
    "--max-age", "--fail-fast", "--help", "--debug", "--duration", "--realtime", "--zones", "-o",
)  # fmt: skip


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("detec", "detect"),
        ("detct", "detect"),
        ("dtect", "detect"),
        ("detects", "detect"),
        ("Detect", "detect"),
        ("detcet", "detect"),
        ("detection", "detect"),
        ("trian", "train"),
        ("tarin", "train"),
        ("trains", "train"),
        ("training", "train"),
        ("evaluate", "eval"),
        ("evla", "eval"),
        ("exprot", "export"),
        ("benchmark", "bench"),
        ("build_engine", "build-engine"),
        ("buildengine", "build-engine"),
        ("engine-build", "build-engine"),
        ("build", "build-engine"),
        ("buildd-engin", "build-engine"),
        ("insepct", "inspect"),
        ("dotcor", "doctor"),
        ("rnu", "run"),
        ("dmeo", "demo"),
        ("datas", "data"),
    ],
)
def test_good_pairs_of_commands(given: str, meant: str) -> None:
    assert nearest(given, COMMANDS) == f"did you mean {meant!r}?"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--cnf", "--conf"),
        ("--confidence", "--conf"),
        ("--class", "--classes"),
        ("--clases", "--classes"),
        ("--max_det", "--max-det"),
        ("--maxdet", "--max-det"),
        ("--det-max", "--max-det"),
        ("--thread", "--threads"),
        ("--batchs", "--batch"),
        ("--fail_fast", "--fail-fast"),
        ("--real-time", "--realtime"),
        ("--oiu", "--iou"),
        ("--zone", "--zones"),
        ("--HELP", "--help"),
    ],
)
def test_good_pairs_of_options(given: str, meant: str) -> None:
    found = nearest(given, OPTIONS)
    assert found == f"did you mean {meant!r}?"


@pytest.mark.parametrize(
    "given",
    [
        "version", "predict", "infer", "help", "test", "serve", "start", "x", "-", "--",
        "install", "street.mp4", "rtsp://10.0.0.5/stream", "val", "stop", "list", "convert",
        "quantize", "0", "--colour", "--gpu", "--fps", "--verbose", "--save", "--device",
        "--source", "--imgsz", "-x", "--weights", "",
    ],
)  # fmt: skip
def test_nothing_is_suggested_for_another_word(given: str) -> None:
    assert nearest(given, COMMANDS if not given.startswith("-") else OPTIONS) in (
        None,
        # One letter from "eval".
        "did you mean 'eval'?" if given == "val" else None,
    )


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(COMMANDS), st.data())
def test_one_mistake_is_always_seen(command: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(command) - 1))
    kind = data.draw(st.sampled_from(("drop", "double", "swap")))
    a, b = command[:place], command[place + 1 :]
    if kind == "drop":
        typed = a + b
    elif kind == "double":
        typed = command[: place + 1] + command[place] + b
    else:
        typed = a + b[:1] + command[place] + b[1:]
    assert nearest(typed, COMMANDS) is not None


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=30), st.lists(st.text(max_size=12), max_size=6))
def test_any_text_is_taken(name: str, choices: list[str]) -> None:
    found = nearest(name, choices)
    assert found is None or any(repr(choice) in found for choice in choices)
    if name and name in choices and name.strip("-_ "):
        assert found is not None
