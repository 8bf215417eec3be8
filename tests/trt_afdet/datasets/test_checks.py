"""Properties of the boxes that come out of the check."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_afdet.datasets.checks import Report, check_unique, clean_boxes
from trt_afdet.errors import CorruptFileError

BOX = st.tuples(*[st.floats(width=64) | st.floats(-50, 250) for _ in range(4)])


@settings(deadline=None)  # the machine may be busy
@given(st.lists(BOX, max_size=8), st.integers(1, 200), st.integers(1, 200))
def test_what_is_kept_is_inside_and_not_empty(
    boxes: list[tuple[float, ...]], width: int, height: int
) -> None:
    report = Report()
    kept, index = clean_boxes(boxes, width, height, report, "file")
    assert kept.dtype == np.float32
    assert np.isfinite(kept).all()
    assert (kept[:, 2:] > kept[:, :2]).all()
    assert (kept >= 0).all()
    assert (kept[:, 2:] <= [width, height]).all()
    dropped = sum(n for kind, n in report.counts.items() if kind.endswith("dropped"))
    assert len(kept) + dropped == len(boxes)
    assert len(index) == len(kept)


@settings(deadline=None)  # the machine may be busy
@given(st.integers(0, 99), st.integers(0, 99), st.integers(1, 100), st.integers(1, 100))
def test_a_box_inside_is_left_as_it_is(x: int, y: int, w: int, h: int) -> None:
    box = [x, y, min(100, x + w), min(100, y + h)]
    report = Report()
    kept, _ = clean_boxes([box], 100, 100, report, "file")
    np.testing.assert_array_equal(kept, [box])
    assert not report.counts


def test_a_sliver_that_float32_cannot_hold_is_dropped() -> None:
    report = Report()
    kept, _ = clean_boxes([[500, 1, 500.000001, 9]], 1000, 1000, report, "file")
    assert len(kept) == 0
    assert sum(report.counts.values()) == 1


def test_reports_merge_and_keep_the_first_names() -> None:
    one, two = Report(), Report()
    one.add("bad", "a", 2)
    two.add("bad", "b", 3)
    two.add("worse", "c", 0)
    one.merge(two)
    assert one.lines() == ["5 bad (first: a, b)"]


def test_check_unique_names_the_value() -> None:
    check_unique([1, 2, "1"], "id", "f.json")
    with pytest.raises(CorruptFileError, match=r"f\.json: duplicate id \(got 7\)"):
        check_unique([7, 8, 7], "id", "f.json")
