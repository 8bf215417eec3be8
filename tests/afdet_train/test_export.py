"""Export: the canonical file, equal to torch, or no file at all."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import afdet_train.export as export_module
import cv2
import numpy as np
import onnx
import pytest
import torch
from afdet_train import checkpoint as checkpoints
from afdet_train.checkpoint import Checkpoint
from afdet_train.cli import export as command
from afdet_train.config import parse_recipe
from afdet_train.export import TOLERANCE, check_parity, export_checkpoint
from afdet_train.model.network import build_network, model_spec

from tests.paths import ROOT
from trt_afdet.engine.onnx.model_file import load_canonical
from trt_afdet.errors import InvalidValueError, MissingFileError, RunError, WriteError
from trt_afdet.runtime.onnxruntime import OnnxRuntimeBackend
from trt_afdet.spec import METADATA_KEY, ModelSpec

Values = dict[str, Any]
CLASSES = ("disc", "bar")


def tiny_values() -> Values:
    """Not square, so that a swapped height and width shows."""
    return {
        "model": {
            "name": "tiny",
            "classes": list(CLASSES),
            "height": 128,
            "width": 256,
            "backbone": {"name": "efficientnet_lite0", "weights": "none"},
            "neck": {"width": 16, "repeats": 1},
            "head": {"depth": 1, "norm": "bn", "reg_activation": "softplus"},
        },
        "augment": {"flip": 0.0},
    }


def save(folder: Path, values: Values) -> Path:
    recipe = parse_recipe(values, "test")
    torch.manual_seed(0)
    network = build_network(recipe.model, load_weights=False)
    path = folder / "best.safetensors"
    checkpoints.save(path, Checkpoint(recipe, {"model": network.state_dict()}))
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights."""
    return save(tmp_path_factory.mktemp("run"), tiny_values())


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (90, 160, 3), dtype=np.uint8) for _ in range(5)]


@pytest.fixture(scope="module")
def exported(saved: Path, frames: list[np.ndarray]) -> Path:
    out = saved.parent / "dynamic.onnx"
    parity = export_checkpoint(saved, out, frames)
    assert parity.frames == 5
    assert parity.worst[1] <= TOLERANCE
    assert len(parity.differences) == 10
    return out


def shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def expected_outputs(batch: int | str) -> dict[str, list[int | str]]:
    return {
        f"{kind}_p{level}": [batch, channels, 128 // 2**level, 256 // 2**level]
        for kind, channels in (("cls", 2), ("reg", 4))
        for level in range(3, 8)
    }


def check_contract(path: Path, batch: int | str) -> onnx.ModelProto:
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    (source,) = model.graph.input
    assert source.name == "images"
    assert shape(source) == [batch, 3, 128, 256]
    outputs = {o.name: shape(o) for o in model.graph.output}
    assert outputs == expected_outputs(batch)
    assert list(outputs) == list(expected_outputs(batch))  # the order too
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert {n.domain for n in model.graph.node} <= {"", "ai.onnx"}
    assert {o.domain for o in model.opset_import} <= {"", "ai.onnx"}
    assert not model.functions
    return model


def test_the_file_keeps_the_contract(exported: Path) -> None:
    model = check_contract(exported, "N")
    (entry,) = model.metadata_props
    assert entry.key == METADATA_KEY
    assert ModelSpec.from_json(entry.value) == model_spec(parse_recipe(tiny_values(), "x").model)
    assert [p.name for p in exported.parent.iterdir() if "tmp" in p.name] == []


def test_the_file_tells_nothing_of_the_machine(exported: Path) -> None:
    content = exported.read_bytes()
    for folder in (ROOT, Path(torch.__file__).parents[2]):
        assert str(folder).encode() not in content


@pytest.mark.parametrize("batch", [1, 3])
def test_the_batch_is_dynamic(exported: Path, saved: Path, batch: int) -> None:
    images = np.random.default_rng(1).normal(0, 1, (batch, 3, 128, 256)).astype(np.float32)
    with OnnxRuntimeBackend(exported) as backend:
        heads = backend.infer(images)
        singles = [backend.infer(images[i : i + 1]) for i in range(batch)]
    for index, head in enumerate(heads):
        assert head.shape[0] == batch
        alone = np.concatenate([s[index] for s in singles])
        np.testing.assert_allclose(head, alone, rtol=1e-3, atol=1e-4)
        if index >= 5:
            assert (head >= 0).all()


@pytest.mark.slow
def test_a_fixed_batch_and_changes_of_the_spec_are_stored(
    saved: Path, frames: list[np.ndarray], tmp_path: Path
) -> None:
    out = tmp_path / "new" / "fixed.onnx"
    parity = export_checkpoint(
        saved, out, frames[:3], batch=2, spec_changes={"nms_iou": 0.6, "max_detections": 7}
    )
    assert parity.worst[1] <= TOLERANCE
    model = check_contract(out, 2)
    spec = ModelSpec.from_json(model.metadata_props[0].value)
    assert (spec.nms_iou, spec.max_detections) == (0.6, 7)
    with OnnxRuntimeBackend(out) as backend:
        assert backend.batch_size == 2


def test_parity_sees_other_weights(exported: Path, frames: list[np.ndarray]) -> None:
    config = parse_recipe(tiny_values(), "test").model
    torch.manual_seed(0)
    network = build_network(config, load_weights=False).eval()
    assert check_parity(network, exported, model_spec(config), frames[:1]).worst[1] <= TOLERANCE
    with torch.no_grad():
        for parameter in network.heads.parameters():
            parameter.add_(0.05)
    assert check_parity(network, exported, model_spec(config), frames[:1]).worst[1] > TOLERANCE


def test_parity_sees_what_is_no_number(exported: Path, frames: list[np.ndarray]) -> None:
    config = parse_recipe(tiny_values(), "test").model
    torch.manual_seed(0)
    network = build_network(config, load_weights=False).eval()
    with torch.no_grad():
        next(network.heads.parameters()).fill_(float("nan"))
    assert check_parity(network, exported, model_spec(config), frames[:1]).worst[1] == np.inf


@pytest.mark.slow
def test_a_file_that_differs_from_torch_is_not_left(
    saved: Path, frames: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "TOLERANCE", -1.0)
    out = tmp_path / "model.onnx"
    out.write_bytes(b"the old one")
    with pytest.raises(RunError, match=r"differs from torch: worst tensor (cls|reg)_p\d by"):
        export_checkpoint(saved, out, frames[:1])
    assert out.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [out]


def test_deformable_convolutions_are_refused(
    tmp_path: Path, saved: Path, frames: list[np.ndarray]
) -> None:
    values = copy.deepcopy(tiny_values())
    values["model"]["backbone"]["name"] = "resnet101_dcn"
    # The refusal comes before the weights are looked at: any will do.
    tensors = checkpoints.load(saved).tensors
    path = tmp_path / "best.safetensors"
    checkpoints.save(path, Checkpoint(parse_recipe(values, "test"), tensors))
    with pytest.raises(InvalidValueError, match=r"deformable.*resnet101_dcn.*without _dcn"):
        export_checkpoint(path, tmp_path / "model.onnx", frames)
    assert not (tmp_path / "model.onnx").exists()


def test_bad_input_is_refused_at_once(
    saved: Path, frames: list[np.ndarray], tmp_path: Path
) -> None:
    out = tmp_path / "model.onnx"
    with pytest.raises(InvalidValueError, match="at least one frame"):
        export_checkpoint(saved, out, [])
    with pytest.raises(MissingFileError, match="no such checkpoint"):
        export_checkpoint(tmp_path, out, frames)
    with pytest.raises(InvalidValueError, match="nms_iou"):
        export_checkpoint(saved, out, frames, spec_changes={"nms_iou": 2.0})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_place_that_cannot_be_written(
    saved: Path, frames: list[np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(WriteError, match="cannot write"):
        export_checkpoint(saved, tmp_path / "file" / "model.onnx", frames[:1])
    assert (tmp_path / "file").read_text() == "kept"


# The command


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(a) for a in arguments]))


@pytest.mark.slow
def test_the_command_writes_beside_the_checkpoint(
    saved: Path, frames: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, frame in enumerate(frames):
        assert cv2.imwrite(str(tmp_path / f"{index}.png"), frame)
    assert run(saved.parent, "--frames", tmp_path, "--num-frames", 2, "--nms-iou", 0.4) == 0
    out = saved.parent / "model.onnx"
    assert "equal to torch on 2 frames" in capsys.readouterr().out
    spec = ModelSpec.from_json(check_contract(out, "N").metadata_props[0].value)
    assert spec.nms_iou == 0.4


def test_half_weights_halve_the_file(
    saved: Path, frames: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cv2.imwrite(str(tmp_path / "frame.png"), frames[0])
    sizes = []
    for name, options in (("full.onnx", ()), ("half.onnx", ("--half-weights",))):
        out = tmp_path / name
        assert run(saved, "-o", out, "--frames", tmp_path / "frame.png", *options) == 0
        sizes.append(out.stat().st_size)
        model, _ = load_canonical(out)
        assert not [n for n in model.graph.node if n.op_type == "Cast"]
    assert sizes[1] < 0.6 * sizes[0]
    assert "weights rounded to FP16, compared with torch on 1 frames" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--num-frames", "--batch"])
def test_the_command_refuses_numbers_below_one(saved: Path, option: str) -> None:
    with pytest.raises(InvalidValueError, match=f"{option} must be at least 1"):
        run(saved, option, 0)
