"""``trt-afdet eval`` on a real ONNX file and real little datasets."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from dataset_makers import coco_dict, voc_object, voc_xml, write_coco, write_voc
from onnx_models import build_model, save_model

from trt_afdet.cli import eval as command
from trt_afdet.datasets import open_dataset
from trt_afdet.errors import InvalidValueError, MissingFileError
from trt_afdet.evaluation import evaluate_coco
from trt_afdet.runtime.detector import Detector
from trt_afdet.spec import ModelSpec


def spec(*names: str) -> ModelSpec:
    return ModelSpec(name="tiny", class_names=names, height=128, width=128)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model.onnx", build_model(spec("cat", "dog")))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_coco(tmp_path / "data")
    return tmp_path / "data"


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(a) for a in arguments]))


def test_figures_are_those_of_the_library_and_files_are_left(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "eval"
    assert run(model, data, "--split", "val", "--out", out, "--voc") == 0
    assert sorted(p.name for p in out.iterdir()) == ["confusion.png", "metrics.json", "pr.png"]
    written = json.loads((out / "metrics.json").read_text())
    truth = open_dataset(data, "val")
    with Detector.load(model, conf=0.01) as detector:
        expected = evaluate_coco(truth, detector([truth.read_image(r) for r in truth.records]))
    assert written["ap"] == expected.ap
    assert written["ap50"] == expected.ap50
    assert written["images"] == 2
    assert written["ap_large"] is None  # undefined, and NaN is not JSON
    assert written["classes"]["dog"]["objects"] == 1
    assert {"voc07_ap50", "voc_ap50"} <= set(written)
    text = capsys.readouterr().out
    assert "2 pictures" in text
    assert "dog" in text
    assert f"{100 * expected.ap50:.1f}" in text


def test_classes_in_another_order_are_mapped_by_name(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same network with its classes renamed and its truth renamed alike scores alike."""
    figures = []
    raw = coco_dict()
    for number, names in enumerate((("cat", "dog"), ("dog", "cat"))):
        raw["categories"] = [{"id": 2, "name": names[0]}, {"id": 9, "name": names[1]}]
        # Ids are read in ascending order: swap them, so that only the names can tell.
        if number:
            raw["categories"] = [{"id": 2, "name": names[1]}, {"id": 9, "name": names[0]}]
            for annotation in raw["annotations"]:
                annotation["category_id"] = 11 - annotation["category_id"]
        write_coco(data, raw)
        model = save_model(tmp_path / f"{number}.onnx", build_model(spec(*names)))
        run(model, data, "--out", tmp_path / str(number))
        figures.append(json.loads((tmp_path / str(number) / "metrics.json").read_text()))
    first, second = figures
    assert first["ap"] == second["ap"]
    assert first["classes"]["cat"] == second["classes"]["dog"]
    assert first["classes"]["dog"] == second["classes"]["cat"]
    assert command.class_order(("a", "b", "c"), ("c", "a", "b")) == [1, 2, 0]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("cat", "cow"), "only the model has 'cow'"),
        (("cat", "dog", "cow"), "only the model has 'cow'"),
        (("cat",), "only the data has 'dog'"),
    ],
)
def test_other_classes_are_refused(
    data: Path, tmp_path: Path, names: tuple[str, ...], says: str
) -> None:
    model = save_model(tmp_path / "other.onnx", build_model(spec(*names)))
    with pytest.raises(InvalidValueError, match=says):
        run(model, data, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_mended_boxes_are_warned_of_once_per_kind(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = coco_dict()
    raw["annotations"][0]["bbox"] = [60, 5, 10, 20]
    raw["annotations"][2]["bbox"] = [60, 5, 10, 20]
    write_coco(data, raw)
    run(model, data)
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(lines) == 1
    assert "2 boxes clipped to the picture" in lines[0]


def test_limit_and_voc_data(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotation = voc_xml(voc_object("cat", (1, 1, 30, 30)))
    root = write_voc(tmp_path / "VOC2007", dict.fromkeys("abcd", annotation), split="test")
    twenty = save_model(
        tmp_path / "voc.onnx", build_model(spec(*open_dataset(root, "test").class_names))
    )
    assert run(twenty, root, "--split", "test", "--limit", 3, "--batch", 2) == 0
    assert "3 pictures" in capsys.readouterr().out
    with pytest.raises(InvalidValueError, match="classes"):
        run(model, root, "--split", "test")


@pytest.mark.parametrize(
    ("extra", "error", "says"),
    [
        (["--batch", 0], InvalidValueError, "--batch must be at least 1"),
        (["--limit", -1], InvalidValueError, "--limit must be at least 1"),
        (["--conf", 2], InvalidValueError, "within 0..1"),
        (["--split", "test"], MissingFileError, "it has val"),
        (["--out", __file__], InvalidValueError, "--out must be a folder"),
    ],
)
def test_bad_options(
    model: Path, data: Path, extra: list[object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        run(model, data, *extra)


@pytest.mark.parametrize("name", ["none.onnx", "none.safetensors"])
def test_missing_model(data: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingFileError, match=name):
        run(tmp_path / name, data)


def test_a_folder_without_a_checkpoint(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(MissingFileError, match="run"):
        run(tmp_path / "run", data)
