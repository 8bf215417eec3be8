"""``trt-afdet eval`` on a real ONNX file and real little datasets."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from tests.trt_afdet.dataset_makers import coco_dict, voc_object, voc_xml, write_coco, write_voc
from tests.trt_afdet.onnx_models import build_model, save_model
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
def data(model: Path, tmp_path: Path) -> Path:
    """Two pictures whose truth is some of what the model finds in them, so that AP is above 0."""
    root = tmp_path / "data"
    write_coco(root)
    records = open_dataset(root, "val")
    raw = coco_dict()
    raw["annotations"] = []
    with Detector.load(model, conf=0.01) as detector:
        for record in records.records:
            found = detector(records.read_image(record))
            kept = found[::3].to_coco(record.image_id, [2, 9])
            raw["annotations"] += [
                {**entry, "id": len(raw["annotations"]) + i} for i, entry in enumerate(kept)
            ]
    write_coco(root, raw)
    return root


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
    assert written["ap"] > 0.1
    assert written["classes"]["dog"]["objects"] == expected.classes[1].truths > 0
    assert {"voc07_ap50", "voc_ap50"} <= set(written)
    text = capsys.readouterr().out
    assert "2 pictures" in text
    assert "dog" in text
    assert f"{100 * expected.ap50:.1f}" in text


def test_classes_in_another_order_are_mapped_by_name(
    model: Path, data: Path, tmp_path: Path
) -> None:
    run(model, data, "--out", tmp_path / "first")
    file = data / "annotations" / "instances_val.json"
    raw = json.loads(file.read_text())
    # The same truth with the ids swapped: the data's order is now dog, cat.
    raw["categories"] = [{"id": 2, "name": "dog"}, {"id": 9, "name": "cat"}]
    for annotation in raw["annotations"]:
        annotation["category_id"] = 11 - annotation["category_id"]
    file.write_text(json.dumps(raw))
    assert open_dataset(data).class_names == ("dog", "cat")
    run(model, data, "--out", tmp_path / "second")
    first, second = (
        json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("first", "second")
    )
    assert first["classes"]["cat"]["objects"] != first["classes"]["dog"]["objects"]
    assert first["ap"] > 0.1
    assert first["ap"] == pytest.approx(second["ap"])
    assert first["classes"] == second["classes"]


@pytest.mark.parametrize(
    ("names", "objects", "says"),
    [
        (
            ("cat", "cow"),
            {"cat": 61, "cow": 0},
            "7 objects of classes that the model does not have",
        ),
        (("cow", "Dog", "cat"), {"cow": 0, "Dog": 7, "cat": 61}, "1 classes of the model are not"),
        (("dog",), {"dog": 7}, "61 objects of classes that the model does not have"),
    ],
)
def test_classes_are_matched_by_name(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    names: tuple[str, ...],
    objects: dict[str, int],
    says: str,
) -> None:
    model = save_model(tmp_path / "other.onnx", build_model(spec(*names)))
    assert run(model, data, "--out", tmp_path / "out") == 0
    assert says in " ".join(capsys.readouterr().err.split())
    classes = json.loads((tmp_path / "out/metrics.json").read_text())["classes"]
    assert {name: row["objects"] for name, row in classes.items()} == objects


def test_no_class_in_common_is_refused(data: Path, tmp_path: Path) -> None:
    model = save_model(tmp_path / "other.onnx", build_model(spec("cow", "hen")))
    with pytest.raises(InvalidValueError, match=r"no class in common.*'cat'.*cow, hen"):
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
    # VOC names no list of its own: the model's classes are taken, and "cat" is one of them.
    assert run(model, root, "--split", "test") == 0
    other = save_model(tmp_path / "other.onnx", build_model(spec("cow", "hen")))
    with pytest.raises(InvalidValueError, match="no class in common"):
        run(other, root, "--split", "test")


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


def test_merged_classes_are_scored_as_one(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model of one class finds what the data calls by two names."""
    model = save_model(tmp_path / "animals.onnx", build_model(spec("animal")))
    out = tmp_path / "out"
    arguments = (model, data, "--split", "val", "--out", out)
    with pytest.raises(InvalidValueError, match="no class in common"):
        run(*arguments)
    names = open_dataset(data, "val").class_names
    assert run(*arguments, "--merge", f"animal={','.join(names)}") == 0
    figures = json.loads((out / "metrics.json").read_text())
    truth = open_dataset(data, "val", merge={"animal": names})
    assert figures["classes"]["animal"]["objects"] == sum(len(r.boxes) for r in truth.records)
    capsys.readouterr()
    for text in ("animal", "animal=", "=cat", "animal=,"):
        with pytest.raises(SystemExit):
            run(*arguments, "--merge", text)
        assert f"reads NEW=OLD,OLD (got {text})" in capsys.readouterr().err
    with pytest.raises(InvalidValueError, match="cannot merge 'cow' into 'animal'"):
        run(*arguments, "--merge", "animal=cow")


def test_only_some_pictures(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = open_dataset(data, "val").records
    name = records[0].path.name
    out = tmp_path / "out"
    assert run(model, data, "--split", "val", "--out", out, "--only", name) == 0
    assert json.loads((out / "metrics.json").read_text())["images"] == 1
    with pytest.raises(InvalidValueError, match=r"no picture of .* matches .*xyz"):
        run(model, data, "--split", "val", "--only", "xyz*")
