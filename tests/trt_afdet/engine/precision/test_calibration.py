"""Calibration: which pictures, which ranges, and when a cache may be used."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from tests.paths import ROOT
from tests.trt_afdet.engine.networks import SPEC, build_network, picture, run, write_pictures
from trt_afdet.engine.options import CALIBRATION_METHODS
from trt_afdet.engine.precision.calibration import (
    calibrate,
    calibration_key,
    read_cache,
)
from trt_afdet.engine.sample_pictures import Pictures, open_pictures
from trt_afdet.errors import CorruptFileError, InvalidValueError, MissingFileError
from trt_afdet.preprocess import preprocess

ASSETS = ROOT / "trt_afdet" / "assets"
TENSORS = ["stem_relu", "residual", "c3_silu"]


def write_coco(folder: Path, count: int) -> Path:
    write_pictures(folder / "images", count)
    images = [
        {"id": i, "file_name": f"{i:03}.png", "width": 160, "height": 96} for i in range(count)
    ]
    box = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [10, 10, 40, 40]}
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(SPEC.class_names)]
    file = folder / "boxes.json"
    file.write_text(json.dumps({"images": images, "annotations": [box], "categories": categories}))
    return file


def frames(pictures: Pictures) -> list[np.ndarray]:
    return [frame for _, frame in pictures]


def test_a_folder_with_subfolders(tmp_path: Path) -> None:
    write_pictures(tmp_path / "a", 3)
    write_pictures(tmp_path / "b", 2, first=3)
    (tmp_path / "notes.txt").write_text("no picture")
    pictures = open_pictures(tmp_path)
    assert len(pictures) == 5
    for index, frame in enumerate(frames(pictures)):
        np.testing.assert_array_equal(frame, picture(index))


def test_a_coco_file_brings_its_boxes(tmp_path: Path) -> None:
    pictures = open_pictures(write_coco(tmp_path, 6))
    assert pictures.truth is not None
    chosen = pictures.choose([0, 4])
    assert chosen.truth is not None
    assert [len(record.boxes) for record in chosen.truth.records] == [1, 0]
    np.testing.assert_array_equal(frames(chosen)[1], picture(4))


def test_a_video_front_to_back_and_a_choice_of_its_frames() -> None:
    pictures = open_pictures(ASSETS / "clip.mp4")
    few = pictures.spread(5)
    assert len(few) == 5
    assert few.frames[0] == 0
    assert few.frames[-1] == len(pictures) - 1
    capture = cv2.VideoCapture(str(ASSETS / "clip.mp4"))
    wanted = []
    for index in range(len(pictures)):
        ok, frame = capture.read()
        assert ok
        if index in few.frames:
            wanted.append(frame)
    for got, want in zip(frames(few), wanted, strict=True):
        np.testing.assert_array_equal(got, want)
    backwards = few.choose([3, 1, 2])
    for got, index in zip(frames(backwards), (3, 1, 2), strict=True):
        np.testing.assert_array_equal(got, wanted[index])
    beyond = Pictures("clip", few.files[:1], (len(pictures) + 5,))
    assert frames(beyond) == []
    assert "ends before frame" in str(beyond.skipped[0])


def test_a_split_shares_nothing_and_loses_nothing(tmp_path: Path) -> None:
    pictures = open_pictures(write_coco(tmp_path, 20))
    rest, held = pictures.split(5)
    assert (len(rest), len(held)) == (15, 5)
    assert sorted(rest.files + held.files) == sorted(pictures.files)
    assert held.truth is not None
    assert [r.path for r in held.truth.records] == list(held.files)
    assert len(pictures.split(0)[1]) == 0


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"folder, a dataset or a video"):
        open_pictures(tmp_path / "none")
    with pytest.raises(InvalidValueError, match="holds no picture"):
        open_pictures(tmp_path)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(CorruptFileError, match="nor a video"):
        open_pictures(tmp_path / "text.mp4")
    (tmp_path / "boxes.json").write_text("{")
    with pytest.raises(CorruptFileError, match="not JSON"):
        open_pictures(tmp_path / "boxes.json")


def inner_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """The model with inner tensors as outputs."""
    copy = onnx.shape_inference.infer_shapes(model)
    values = {value.name: value for value in copy.graph.value_info}
    copy.graph.output.extend(values[name] for name in names)
    return copy


def test_minmax_ranges_are_what_onnxruntime_computes(tmp_path: Path) -> None:
    model = build_network()
    pictures = open_pictures(write_pictures(tmp_path, 17))
    ranges = calibrate(model, SPEC, pictures, TENSORS, method="minmax")
    outputs = [
        run(inner_outputs(model, TENSORS), preprocess([frame], SPEC)[0])
        for frame in frames(pictures)
    ]
    assert set(ranges.tensors) == set(TENSORS)
    for name in TENSORS:
        want = (min(o[name].min() for o in outputs), max(o[name].max() for o in outputs))
        assert ranges.tensors[name] == pytest.approx(want, rel=1e-4, abs=1e-5)
    assert (ranges.pictures, ranges.skipped) == (17, 0)


@pytest.mark.parametrize("method", CALIBRATION_METHODS)
def test_each_method_stays_within_minmax_and_keeps_most(tmp_path: Path, method: str) -> None:
    model = build_network()
    pictures = open_pictures(write_pictures(tmp_path, 16))
    widest = calibrate(model, SPEC, pictures, ["residual"], method="minmax")
    got = calibrate(model, SPEC, pictures, ["residual"], method=method)
    limit = max(map(abs, widest.tensors["residual"]))
    reach = max(map(abs, got.tensors["residual"]))
    assert 0.1 * limit < reach <= 1.001 * limit
    if method == "percentile":
        values = np.concatenate(
            [
                run(inner_outputs(model, ["residual"]), preprocess([f], SPEC)[0])["residual"]
                for f in frames(pictures)
            ]
        )
        assert np.mean(np.abs(values) > reach) < 2e-4


@pytest.mark.parametrize("method", CALIBRATION_METHODS)
def test_a_tensor_that_is_always_zero_has_the_range_zero(tmp_path: Path, method: str) -> None:
    model = build_network()
    bias = next(t for t in model.graph.initializer if t.name == "backbone.conv_stem.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(16, -1e3, np.float32), bias.name))
    pictures = open_pictures(write_pictures(tmp_path, 16))
    ranges = calibrate(model, SPEC, pictures, ["stem_relu"], method=method)
    assert ranges.tensors["stem_relu"] == (0, 0)


def test_many_zeros_do_not_shrink_the_range_by_entropy(tmp_path: Path) -> None:
    """Behind a ReLU with few survivors, what survives has to fit."""
    model = build_network()
    bias = next(t for t in model.graph.initializer if t.name == "backbone.conv_stem.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(16, -3, np.float32), bias.name))
    pictures = open_pictures(write_pictures(tmp_path, 16))
    inner = inner_outputs(model, ["stem_relu"])
    images = preprocess(frames(pictures), SPEC)[0]
    values = run(inner, images)["stem_relu"]
    assert np.mean(values == 0) > 0.95
    reach = calibrate(model, SPEC, pictures, ["stem_relu"], method="entropy").tensors["stem_relu"]
    assert np.mean(values[values > 0] > reach[1]) < 0.1


def test_the_network_sees_what_the_runtime_would_give_it(tmp_path: Path) -> None:
    """Calibrating the input itself: extremes after letterbox and normalisation."""
    pictures = open_pictures(write_pictures(tmp_path, 16))
    ranges = calibrate(build_network(), SPEC, pictures, ["images"], method="minmax")
    inputs = preprocess(frames(pictures), SPEC)[0]
    assert ranges.tensors["images"] == pytest.approx((inputs.min(), inputs.max()), abs=1e-6)


def test_unreadable_pictures_are_skipped_and_counted(tmp_path: Path) -> None:
    write_pictures(tmp_path, 18)
    whole = (tmp_path / "005.png").read_bytes()
    (tmp_path / "005.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "011.png").write_bytes(b"")
    said: list[str] = []
    ranges = calibrate(
        build_network(), SPEC, open_pictures(tmp_path), TENSORS, method="minmax", warn=said.append
    )
    assert (ranges.pictures, ranges.skipped) == (16, 2)
    assert len(said) == 1
    assert "2 of 18 calibration pictures skipped" in said[0]
    assert "005.png" in said[0]
    (tmp_path / "003.png").write_bytes(b"")
    with pytest.raises(InvalidValueError, match=r"at least 16 readable pictures \(got 15 of 18"):
        calibrate(build_network(), SPEC, open_pictures(tmp_path), TENSORS, method="minmax")


def test_a_picture_of_another_size_than_its_boxes_is_skipped(tmp_path: Path) -> None:
    file = write_coco(tmp_path, 17)
    cv2.imwrite(str(tmp_path / "images" / "002.png"), picture(2)[:50])
    pictures = open_pictures(file)
    said: list[str] = []
    ranges = calibrate(build_network(), SPEC, pictures, TENSORS, method="minmax", warn=said.append)
    assert ranges.pictures == 16
    assert any("1 pictures of another size than their annotations say" in s for s in said)


def test_the_key_is_of_contents_not_of_places(tmp_path: Path) -> None:
    first = open_pictures(write_pictures(tmp_path / "a", 4))
    moved = open_pictures(write_pictures(tmp_path / "elsewhere", 4))
    key = calibration_key("1" * 64, first, SPEC, "minmax", TENSORS)
    assert calibration_key("1" * 64, moved, SPEC, "minmax", reversed(TENSORS)) == key
    other = open_pictures(write_pictures(tmp_path / "b", 4, first=1))
    changed = [
        calibration_key("2" * 64, first, SPEC, "minmax", TENSORS),
        calibration_key("1" * 64, other, SPEC, "minmax", TENSORS),
        calibration_key("1" * 64, first.choose(range(3)), SPEC, "minmax", TENSORS),
        calibration_key("1" * 64, first, SPEC.replace(pad_value=0), "minmax", TENSORS),
        calibration_key("1" * 64, first, SPEC, "entropy", TENSORS),
        calibration_key("1" * 64, first, SPEC, "minmax", TENSORS[:2]),
    ]
    assert len({key, *changed}) == 7


class Counter:
    """A progress that counts what passes."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str]] = []

    def __call__(self, items: Iterable[Any], total: int, description: str) -> Iterable[Any]:
        self.seen.append((total, description))
        return items


def test_a_cache_is_used_for_the_same_and_for_nothing_else(tmp_path: Path) -> None:
    model, cache = build_network(), tmp_path / "ranges.json"
    pictures = open_pictures(write_pictures(tmp_path / "pictures", 16))
    count = Counter()

    def again(**changes: Any) -> Any:
        options = {"method": "minmax", "cache": cache, "progress": count, **changes}
        return calibrate(changes.pop("model", model), SPEC, pictures, TENSORS, **options)

    first = again()
    assert count.seen == [(16, "calibrating")]
    second = again()
    assert len(count.seen) == 1
    assert second.tensors == first.tensors
    assert second.key == first.key
    again(method="percentile")
    again(method="minmax")
    assert len(count.seen) == 3
    cv2.imwrite(str(tmp_path / "pictures" / "007.png"), picture(99))
    third = again()
    assert len(count.seen) == 4
    assert third.key != first.key


@pytest.mark.parametrize("damage", ["cut", "not json", "edited", "list", "binary", "types"])
def test_a_damaged_cache_warns_and_is_replaced(tmp_path: Path, damage: str) -> None:
    model, cache = build_network(), tmp_path / "ranges.json"
    pictures = open_pictures(write_pictures(tmp_path / "pictures", 16))
    first = calibrate(model, SPEC, pictures, TENSORS, method="minmax", cache=cache)
    text = cache.read_text()
    raw = json.loads(text)
    contents = {
        "cut": text[: len(text) // 2],
        "not json": "ranges",
        "edited": text.replace('"pictures": 16', '"pictures": 17'),
        "list": "[1, 2]",
        "types": json.dumps({**raw, "tensors": [3]}),
    }
    if damage == "binary":
        cache.write_bytes(bytes(range(256)))
    else:
        assert contents[damage] != text
        cache.write_text(contents[damage])
    said: list[str] = []
    again = calibrate(
        model, SPEC, pictures, TENSORS, method="minmax", cache=cache, warn=said.append
    )
    assert len(said) == 1
    assert "damaged" in said[0]
    assert again.tensors == first.tensors
    assert read_cache(cache, first.key) is not None


def test_memory_does_not_grow_with_the_pictures(tmp_path: Path) -> None:
    model = build_network()
    write_pictures(tmp_path, 48)
    pictures = open_pictures(tmp_path)

    def peak(count: int) -> int:
        tracemalloc.start()
        calibrate(model, SPEC, pictures.spread(count), TENSORS, method="percentile")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(16)  # What is loaded once.
    assert peak(48) < 1.3 * peak(16)


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pictures = open_pictures(write_pictures(tmp_path, 16))
    calibrate(build_network(), SPEC, pictures, TENSORS, method="entropy")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_options_and_values_that_make_no_sense(tmp_path: Path) -> None:
    pictures = open_pictures(write_pictures(tmp_path, 16))
    with pytest.raises(InvalidValueError, match="must be one of entropy, minmax, percentile"):
        calibrate(build_network(), SPEC, pictures, TENSORS, method="kl")
    model = build_network()
    weight = next(t for t in model.graph.initializer if t.name == "backbone.blocks.1.b.bias")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full(32, np.inf, np.float32), weight.name))
    with pytest.raises(InvalidValueError, match="residual is not finite"):
        calibrate(model, SPEC, pictures, ["residual"], method="minmax")
