"""What is asked for: values, and words to ask for it again. Versions: see test_versions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT
from trt_afdet.cli import build_parser
from trt_afdet.engine.options import LIMIT_NAMES, BuildOptions, Option
from trt_afdet.engine.options import options as options_table
from trt_afdet.engine.verify import Limits
from trt_afdet.errors import InvalidValueError


def options(**changes: Any) -> BuildOptions:
    return BuildOptions(onnx=Path("m.onnx"), output=Path("m.engine"), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp8"}, "precision must be one of fp32, fp16, int8, best (got fp8)"),
        ({"io": "int8"}, "io must be one of"),
        ({"io": "float16", "precision": "fp32"}, "FP16 input and outputs go with fp16 and int8"),
        ({"nms": "yes"}, "nms must be one of plugin, onnx, none"),
        ({"batch": (0, 1, 1)}, "must ascend from 1 on: MIN,OPT,MAX (got 0,1,1)"),
        ({"batch": (4, 2, 8)}, "(got 4,2,8)"),
        ({"batch": (1, 1, 10**9)}, "a batch is at most 32768 (got 1000000000)"),
        ({"precision": "int8"}, "INT8 needs calibration pictures - --calib FOLDER"),
        ({"int8_mode": "both"}, "int8-mode must be one of explicit, implicit"),
        ({"workspace": 0}, "the workspace must be above 0"),
        ({"workspace": 2**63}, "the workspace must be above 0 and at most"),
        ({"calib": "x"}, "calibration pictures go with --precision int8 or best (got fp16)"),
        ({"calib": "x", "precision": "fp32"}, "go with --precision int8 or best (got fp32)"),
        (
            {"precision": "int8", "calib": "x", "int8_mode": "implicit", "calib_method": "minmax"},
            "TensorRT's own calibrator has the method entropy only (got minmax)",
        ),
        ({"picture": Path("p.png")}, "the picture of what INT8 hurts goes with explicit INT8"),
        ({"verify_images": 4}, "there is nothing to verify on - --verify COCO.json"),
        ({"verify_limits": (("matched", 0.9),)}, "there is nothing to verify on"),
        ({"verify": "x", "verify_images": 0}, "the gate needs at least 1 picture (got 0)"),
        (
            {"verify": "x", "verify_limits": (("ap", 1.0),)},
            "verify-limits must be one of output_error, matched, ap_drop (got ap)",
        ),
        (
            {"verify": "x", "verify_limits": (("matched", float("nan")),)},
            "the limit matched must be 0 or more (got nan)",
        ),
        ({"gpu_fallback": True}, "--gpu-fallback goes with --dla-core"),
        ({"optimization_level": 6}, "the optimization level is 0 to 5 (got 6)"),
        ({"hardware_compatible": "all"}, "hardware-compatible must be one of none"),
        ({"plugin": Path("p.so")}, "a plugin goes with --nms plugin (got --nms none)"),
        ({"dla_core": 0, "precision": "fp32"}, "the DLA computes in fp16 or int8 (got fp32)"),
        ({"dla_core": 0, "batch": (1, 1, 8)}, "the DLA takes one batch size (got 1,1,8)"),
    ],
)
def test_bad_values_take_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        options(**changes)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_the_words_that_repeat_a_build_are_the_commands_own() -> None:
    from trt_afdet.cli.build_engine import options_of

    asked = options(
        precision="int8",
        io="float16",
        batch=(1, 2, 4),
        nms="onnx",
        keep=("stem", "head/reg"),
        calib="pictures",
        calib_images=100,
        calib_method="entropy",
        held_out=20,
        max_ap_drop=1.5,
        workspace=2**29,
        optimization_level=4,
        version_compatible=True,
        hardware_compatible="ampere_plus",
        strip_weights=True,
        allow_fallback=True,
        without_tactics=("CUDNN",),
        tf32=False,
    )
    words = ["--precision", "int8", "--nms", "onnx", "--batch", "1,2,4", *asked.words()]
    command = ["build-engine", "m.onnx", "-o", "m.engine", *words]
    again = options_of(build_parser("build-engine").parse_args(command))
    assert again.words() == asked.words()
    assert again.workspace == 2**29
    assert again.keep == asked.keep
    assert again.calib == str(Path("pictures").resolve())
    assert "--no-tf32" in words
    assert options().words() == ()


PAGE = (ROOT / "docs" / "build-engine.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("option", options_table(), ids=lambda option: option.name)
def test_the_page_tells_of_every_option_and_its_default(option: Option) -> None:
    """What the table of the code says and what the page says cannot drift apart."""
    rows = [line for line in PAGE.splitlines() if f"`{option.flags[0]}" in line]
    assert rows, f"docs/build-engine.md does not name {option.flags[0]}"
    for choice in option.choices:
        assert any(f"`{choice}`" in row or f" {choice}`" in row for row in rows) or choice in PAGE
    if isinstance(option.default, (int, float)) and not option.is_switch:
        assert any(f"({option.default:g})" in row for row in rows), option.flags[0]
    for alias in option.aliases:
        assert alias in PAGE, alias


def test_every_field_but_the_files_is_an_option() -> None:
    fields = {field.name for field in dataclasses.fields(BuildOptions)}
    assert fields - {option.name for option in options_table()} == {"onnx", "output", "image"}


def test_the_limits_have_the_names_of_the_gates_own() -> None:
    names = tuple(field.name for field in dataclasses.fields(Limits))
    assert names == LIMIT_NAMES
