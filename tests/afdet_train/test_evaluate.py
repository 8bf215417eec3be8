"""A checkpoint and its ONNX file go through one code path and score alike."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from afdet_train.config import parse_recipe
from afdet_train.evaluate import load_detector
from afdet_train.export import export_checkpoint
from afdet_train.trainer import fit

from trt_afdet.cli import eval as command
from trt_afdet.datasets import Dataset, Record, open_dataset
from trt_afdet.detections import Detections
from trt_afdet.errors import InvalidValueError, MissingFileError
from trt_afdet.evaluation import evaluate_coco, predict
from trt_afdet.runtime.detector import Detector

Values = dict[str, Any]


@pytest.fixture
def trained(tiny_recipe: Values, tmp_path: Path) -> Path:
    """A run of a few iterations: far from good, but with scores that spread."""
    values = copy.deepcopy(tiny_recipe)
    values["train"].update(epochs=1, iterations_per_epoch=12)
    fit(parse_recipe(values, "test"), tmp_path / "run")
    return tmp_path / "run"


def taken_as_truth(data: Dataset, found: list[Detections]) -> Dataset:
    records = tuple(
        Record.build(r.path, r.image_id, r.width, r.height, d.xyxy, d.class_id)
        for r, d in zip(data.records, found, strict=True)
    )
    return dataclasses.replace(data, records=records)


@pytest.mark.slow
def test_checkpoint_and_onnx_agree(trained: Path, shapes: Path, tmp_path: Path) -> None:
    truth = open_dataset(shapes, "val")
    frames = [frame for _, frame in truth.frames()]
    export_checkpoint(trained, tmp_path / "model.onnx", frames)
    conf = 0.001
    with load_detector(trained, conf=conf, device="cpu") as detector:
        assert detector.spec.score_threshold == conf
        ours = predict(truth, detector, batch=3)
    with Detector.load(tmp_path / "model.onnx", conf=conf) as detector:
        theirs = predict(truth, detector, batch=3)
    assert sum(map(len, ours)) > 20
    for a, b in zip(ours, theirs, strict=True):
        assert abs(len(a) - len(b)) <= 1
        count = min(len(a), len(b))
        np.testing.assert_allclose(a.confidence[:count], b.confidence[:count], atol=2e-3)
    first, second = (evaluate_coco(truth, found).metrics() for found in (ours, theirs))
    for name, value in first.items():
        assert second[name] == pytest.approx(value, abs=1e-3, nan_ok=True), name
    # So early in training AP is near 0, and 0 equals 0. With some of the checkpoint's own
    # detections as truth it is not, and every box and rank counts.
    made = taken_as_truth(truth, [found[::3] for found in ours])
    high, same = (evaluate_coco(made, found).ap for found in (ours, theirs))
    assert high > 0.1
    assert same == pytest.approx(high, abs=1e-3)

    # And by the command, which opens either by what it is.
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    figures = []
    for model in (trained, trained / "best.safetensors", tmp_path / "model.onnx"):
        out = tmp_path / f"eval{len(figures)}"
        arguments = [model, shapes, "--split", "val", "--conf", conf, "--out", out]
        assert command.run(parser.parse_args([str(a) for a in arguments])) == 0
        figures.append(json.loads((out / "metrics.json").read_text()))
    assert figures[0] == figures[1]
    assert figures[0]["ap"] == pytest.approx(first["ap"], abs=1e-6)
    assert figures[2]["ap"] == pytest.approx(first["ap"], abs=1e-3)


def test_a_bad_checkpoint_or_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such checkpoint"):
        load_detector(tmp_path)
    with pytest.raises(InvalidValueError, match="threads must be at least 1"):
        load_detector(tmp_path, threads=0)
