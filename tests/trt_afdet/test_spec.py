"""ModelSpec: derived values, JSON and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_afdet.errors import InvalidValueError
from trt_afdet.spec import SCHEMA_VERSION, ModelSpec

SPEC = ModelSpec(name="t", class_names=("a", "b"), height=256, width=384)


def test_derived_values() -> None:
    assert SPEC.num_classes == 2
    assert SPEC.levels == (3, 4, 5, 6, 7)
    assert SPEC.grid_sizes == ((32, 48), (16, 24), (8, 12), (4, 6), (2, 3))
    assert SPEC.output_names[0] == "cls_p3"
    assert SPEC.output_names[5:7] == ("reg_p3", "reg_p4")


@given(
    names=st.lists(st.text(min_size=1), min_size=1, unique=True),
    threshold=st.floats(0, 1),
    mean=st.tuples(*[st.floats(-1, 1)] * 3),
)
def test_json_round_trip(
    names: list[str], threshold: float, mean: tuple[float, float, float]
) -> None:
    spec = SPEC.replace(class_names=tuple(names), score_threshold=threshold, mean=mean)
    assert ModelSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ()}, "at least one"),
        ({"class_names": ("a", "a")}, "repeat"),
        ({"height": 500}, "multiple of 128"),
        ({"width": 0}, "multiple of 128"),
        ({"color_order": "GBR"}, "RGB or BGR"),
        ({"std": (1, 1, 0)}, "std above 0"),
        ({"pad_value": 256}, "0..255"),
        ({"strides": (8, 8)}, "increase"),
        ({"strides": ()}, "increase"),
        ({"strides": (0, 8)}, "powers of two"),
        ({"strides": (8, 24)}, "powers of two"),
        ({"class_names": "ab"}, "at least one"),
        ({"class_names": ("a", "")}, "at least one"),
        ({"height": 256.0}, "height must be a whole number"),
        ({"height": "256"}, "height must be a whole number"),
        ({"candidates_per_level": 10.5}, "whole number"),
        ({"mean": (0, 0)}, "three numbers"),
        ({"mean": (0, 0, float("nan"))}, "three numbers"),
        ({"regression_scale": float("inf")}, "above 0"),
        ({"regression_scale": 0}, "above 0"),
        ({"score_threshold": 1.5}, "score_threshold must be within"),
        ({"nms_iou": float("nan")}, "nms_iou must be within"),
        ({"max_detections": 0}, "at least 1"),
        ({"candidates_per_level": 0}, "at least 1"),
    ],
)
def test_values_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        SPEC.replace(**changes)


def edited(**changes: Any) -> str:
    return json.dumps({**json.loads(SPEC.to_json()), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "lacks schema_version"),
        ('{"name": "x"}', "lacks schema_version"),
        (edited(schema_version=SCHEMA_VERSION + 1), "upgrade trt-afdet"),
        (edited(colour="red"), "unknown keys.*colour"),
        (json.dumps({"schema_version": SCHEMA_VERSION}), "incomplete"),
        (edited(height=100), "multiple of 128"),
        (edited(height="256"), "whole number"),
        (edited(strides=[]), "increase"),
        (edited(mean=["a", "b", "c"]), "wrong type"),
        (edited(score_threshold=None), "wrong type"),
    ],
)
def test_json_that_is_no_spec(text: str, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        ModelSpec.from_json(text)
