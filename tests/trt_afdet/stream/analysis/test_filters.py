"""Classes, confidences, sizes and the region, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from trt_afdet.detections import Detections
from trt_afdet.errors import InvalidValueError
from trt_afdet.stream.analysis.filters import DetectionFilter, FilterOptions
from trt_afdet.stream.analysis.shapes import check_polygon, to_pixels

NAMES = ("person", "car", "dog")
FOUND = Detections(
    np.array([[0, 0, 10, 10], [50, 50, 90, 70], [80, 0, 100, 100]], np.float32),
    np.array([0.9, 0.5, 0.35], np.float32),
    np.array([0, 1, 2]),
    NAMES,
)


def kept(options: FilterOptions) -> list[str]:
    ready = DetectionFilter(options, NAMES)
    return FOUND[ready.fitting(FOUND, 100, 100) & ready.confident(FOUND)].names


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (FilterOptions(), ["person", "car", "dog"]),
        (FilterOptions(conf=0.5), ["person", "car"]),
        (FilterOptions(conf=0.95), []),
        (FilterOptions(classes=("dog", "car")), ["car", "dog"]),
        (FilterOptions(class_conf={"car": 0.6}), ["person", "dog"]),
        (FilterOptions(conf=0.95, class_conf={"dog": 0.3}), ["dog"]),
        (FilterOptions(min_size=(20, 20)), ["car", "dog"]),
        (FilterOptions(min_size=(0.2, 0.5)), ["dog"]),
        (FilterOptions(max_size=(40, 20)), ["person", "car"]),
        (FilterOptions(min_size=(15, 0), max_size=(1.0, 0.5)), ["car"]),
        (FilterOptions(region=((0, 0), (0.5, 0), (0.5, 0.5), (0, 0.5))), ["person"]),
        (FilterOptions(region=((60, 40), (100, 40), (100, 80), (60, 80))), ["car", "dog"]),
    ],
)
def test_what_is_kept(options: FilterOptions, names: list[str]) -> None:
    assert kept(options) == names


def test_nothing_in_nothing_out() -> None:
    ready = DetectionFilter(FilterOptions(region=((0, 0), (1, 0), (1, 1))), NAMES)
    nothing = Detections.empty(NAMES)
    assert ready.fitting(nothing, 10, 10).shape == (0,)
    assert ready.confident(nothing).shape == (0,)


def test_an_unknown_class_is_refused_with_the_nearest() -> None:
    for options in (FilterOptions(classes=("persn",)), FilterOptions(class_conf={"persn": 0.2})):
        with pytest.raises(InvalidValueError, match=r"persn.*did you mean 'person'"):
            DetectionFilter(options, NAMES)
    with pytest.raises(InvalidValueError, match="it has person, car, dog"):
        DetectionFilter(FilterOptions(classes=("xyz",)), NAMES)


@pytest.mark.parametrize(
    "values",
    [
        {"conf": 1.5},
        {"class_conf": {"car": -0.1}},
        {"min_size": (-1, 3)},
        {"region": ((0, 0), (1, 1))},
        {"region": ((0, 0), (1, 1), (0.5, 0.5))},
        {"region": ((0, 0), (1, 0), (float("nan"), 1))},
        {"region": ((0, 0), (1, 0), (-1, 1))},
    ],
)
def test_bad_options_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(InvalidValueError):
        FilterOptions(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("point", "pixels"),
    [
        ((0.5, 1), (320, 480)),
        # Drawing tools overshoot: that makes no pixels of shares.
        ((0.5, 1.0000001), (320, 480)),
        ((1.01, 0.5), (640, 240)),
        ((1.05, -0.01), (640, 0)),
        ((320, 1), (320, 1)),
        ((0.5, 200), (0.5, 200)),
    ],
)
def test_shares_and_pixels(point: tuple[float, float], pixels: tuple[float, float]) -> None:
    assert to_pixels([point], 640, 480).tolist() == [list(pixels)]


def test_units_can_be_said() -> None:
    assert to_pixels([(1, 1)], 640, 480, "pixels").tolist() == [[1, 1]]
    assert to_pixels([(1, 1)], 640, 480, "shares").tolist() == [[640, 480]]
    check_polygon([(0, 0), (4000, 0), (4000, 3000)], "it", "pixels")
    check_polygon([(0.1, 0.1), (0.11, 0.1), (0.11, 0.12)], "it", "shares")


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ([(0.1, 0.1), (0.9, 0.9), (0.9, 0.1), (0.1, 0.8)], "cross"),
        ([(0, 0), (1.5, 0), (1, 1)], "shares of the picture"),
        ([(0, 0), (0.5, 0.5), (1, 1)], "no area"),
        ([(0, 0), (1, 0)], "at least 3"),
        ([(0, 0), (1, 0), (0, float("nan"))], "numbers"),
        ([(0, 0), (1, 0), (0, -0.2)], "0 to 1"),
        ([(0, 0), (640, 0), (0, -2)], "0 to 65535"),
    ],
)
def test_bad_regions_are_refused(region: list[tuple[float, float]], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        FilterOptions(region=tuple(region))
