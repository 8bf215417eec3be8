"""Which blocks INT8 hurts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from tests.paths import ROOT
from tests.trt_afdet.engine.networks import SPEC, build_network, write_pictures
from trt_afdet.engine.precision.blocks import blocks
from trt_afdet.engine.precision.calibration import Ranges, calibrate
from trt_afdet.engine.precision.placement import place
from trt_afdet.engine.precision.sensitivity import (
    HeldOut,
    Sensitivity,
    _keep_worst,
    measure,
    save_picture,
)
from trt_afdet.engine.sample_pictures import Pictures, open_pictures
from trt_afdet.errors import InvalidValueError

SHIPPED = ROOT / "trt_afdet" / "assets" / "model.onnx"


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return build_network()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return open_pictures(write_pictures(tmp_path_factory.mktemp("pictures"), 22))


@pytest.fixture(scope="module")
def ranges(model: onnx.ModelProto, pictures: Pictures) -> Ranges:
    rest, _ = pictures.split(4)
    return calibrate(model, SPEC, rest, place(model).tensors, method="minmax")


@pytest.fixture(scope="module")
def spoiled(ranges: Ranges) -> Ranges:
    """One block's range is a thirtieth of what it should be: it is cut off."""
    tensors = dict(ranges.tensors)
    for name in ("pw", "res1_relu"):
        tensors[name] = tuple(value / 30 for value in tensors[name])
    return Ranges(ranges.key, ranges.method, tensors, ranges.pictures, 0)


@pytest.fixture(scope="module")
def found(model: onnx.ModelProto, spoiled: Ranges, pictures: Pictures) -> Sensitivity:
    return measure(model, SPEC, spoiled, pictures.split(4)[1], max_ap_drop=20)


def test_the_spoiled_block_is_found_and_kept(found: Sensitivity) -> None:
    assert found.rows[0].block == "stage2"
    assert found.rows[0].error > 3 * found.rows[1].error
    assert found.kept[:1] == ("stage2",)
    assert found.steps[0].kept == ()
    assert found.steps[0].ap_drop > 20 >= found.steps[-1].ap_drop
    assert found.reached
    assert found.pictures == 4
    assert not found.labelled


def test_every_block_with_something_to_quantize_has_a_row(
    found: Sensitivity, model: onnx.ModelProto
) -> None:
    nodes = set(place(model).nodes)
    want = {b: len(nodes.intersection(n)) for b, n in blocks(model).items()}
    assert {r.block: r.nodes for r in found.rows} == {b: n for b, n in want.items() if n}
    errors = [row.error for row in found.rows]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] > 0


def test_table_and_picture(found: Sensitivity, tmp_path: Path) -> None:
    table = found.table()
    assert table[0][0] == "stage2"
    assert table[0][-1] == "kept"
    assert {len(row) for row in table} == {5}
    save_picture(found, tmp_path / "bars.png")
    drawn = cv2.imread(str(tmp_path / "bars.png"))
    assert drawn is not None
    assert min(drawn.shape[:2]) > 200
    # Bars of both colours: kept ones are red.
    red = (drawn[..., 2] > 150) & (drawn[..., 0] < 120)
    blue = (drawn[..., 0] > 150) & (drawn[..., 2] < 120)
    assert red.sum() > 500
    assert blue.sum() > 100


def test_progress_is_told(model: onnx.ModelProto, ranges: Ranges, pictures: Pictures) -> None:
    said: list[tuple[int, str]] = []

    def progress(items: Iterable[Any], total: int, description: str) -> Iterable[Any]:
        said.append((total, description))
        return items

    measure(
        model,
        SPEC,
        ranges,
        pictures.split(2)[1],
        max_ap_drop=100,
        keep={"n_c3"},
        progress=progress,
    )
    rows = sum(bool(set(place(model, {"n_c3"}).nodes) & set(n)) for n in blocks(model).values())
    assert said == [(2, "held-out pictures"), (rows, "sensitivity")]


def losses(table: dict[int, float]) -> Any:
    return lambda kept: (table[len(kept)], 0.1)


def test_blocks_are_kept_worst_first_until_it_is_enough() -> None:
    def steps(*drops: float) -> list[tuple[str, ...]]:
        return [s.kept for s in _keep_worst(["a", "b", "c"], losses(dict(enumerate(drops))), 0.5)]

    assert steps(0.4) == [()]
    assert steps(0.9, 0.5) == [(), ("a",)]
    assert steps(0.9, 0.8, 0.2) == [(), ("a",), ("a", "b")]
    # Never all: that would not be INT8 at all.
    assert steps(0.9, 0.8, 0.7) == [(), ("a",), ("a", "b")]
    # NaN is not small.
    assert len(steps(float("nan"), float("nan"), 0.1)) == 3


def test_pictures_without_an_object_say_nothing(model: onnx.ModelProto, tmp_path: Path) -> None:
    quiet = onnx.ModelProto()
    quiet.CopyFrom(model)
    bias = next(t for t in quiet.graph.initializer if t.name == "heads.cls_out.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(3, -50, np.float32), bias.name))
    with pytest.raises(InvalidValueError, match="nothing that INT8 could lose"):
        HeldOut(quiet, SPEC, open_pictures(write_pictures(tmp_path, 2)))


def test_the_loss_of_the_same_network_is_none(model: onnx.ModelProto, pictures: Pictures) -> None:
    held = HeldOut(model, SPEC, pictures.split(3)[1])
    assert held.best > 50
    assert held.loss(model) == (0.0, 0.0)


@pytest.mark.slow
def test_the_shipped_model(tmp_path: Path) -> None:
    from trt_afdet.engine.onnx.model_file import load_canonical

    model, spec = load_canonical(SHIPPED)
    pictures = open_pictures(SHIPPED.with_name("clip.mp4")).spread(24)
    rest, held = pictures.split(8)
    ranges = calibrate(model, spec, rest, place(model).tensors, method="minmax")
    result = measure(model, spec, ranges, held, max_ap_drop=5)
    assert len(result.rows) == 13
    assert result.reached
    assert len(result.kept) < 10
