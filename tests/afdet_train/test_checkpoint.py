"""Checkpoints: what is written is read back; what does not fit says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from afdet_train import checkpoint as checkpoints
from afdet_train.checkpoint import Checkpoint
from afdet_train.config import Recipe
from torch import nn

from trt_afdet.errors import CorruptFileError, InvalidValueError, MissingFileError, WriteError


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    weights = {"a": torch.randn(3, 2), "b": torch.tensor(4)}
    path = tmp_path / "best.safetensors"
    checkpoints.save(path, Checkpoint(Recipe(), {"model": weights}, {"iteration": 7}))
    return path


def test_round_trip(saved: Path) -> None:
    back = checkpoints.load(saved.parent)
    assert back.recipe == Recipe()
    assert back.progress == {"iteration": 7}
    assert back.weights["a"].shape == (3, 2)
    assert sorted(p.name for p in saved.parent.iterdir()) == ["best.safetensors", "best.yaml"]


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        checkpoints.load(tmp_path)


def test_truncated(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:20])
    with pytest.raises(CorruptFileError):
        checkpoints.load(saved)


def test_a_pickle_is_not_loaded(saved: Path) -> None:
    torch.save({"model": torch.zeros(1)}, saved)
    with pytest.raises(CorruptFileError):
        checkpoints.load(saved)


def test_yaml_of_another_save(saved: Path) -> None:
    text = saved.with_suffix(".yaml")
    text.write_text(text.read_text().replace("iteration: 7", "iteration: 8"))
    with pytest.raises(CorruptFileError, match="not saved together"):
        checkpoints.load(saved)


def test_yaml_with_a_python_object(saved: Path) -> None:
    saved.with_suffix(".yaml").write_text("!!python/object/apply:os.system ['true']\n")
    with pytest.raises(CorruptFileError):
        checkpoints.load(saved)


def test_the_first_mismatch_is_named() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = {n: t.clone() for n, t in module.state_dict().items()}
    state["1.weight"] = torch.zeros(1, 9)
    with pytest.raises(InvalidValueError, match=r"1.weight has shape \[1, 9\]"):
        checkpoints.load_weights(module, state, "x")
    del state["0.bias"]
    with pytest.raises(InvalidValueError, match=r"lacks 0\.bias"):
        checkpoints.load_weights(module, state, "x")
    state = {**module.state_dict(), "more": torch.zeros(1)}
    with pytest.raises(InvalidValueError, match="unexpected more"):
        checkpoints.load_weights(module, state, "x")


def test_a_failed_write_leaves_the_old_file(saved: Path) -> None:
    before = saved.read_bytes()
    blocked = saved.parent / "file" / "inside.safetensors"
    (saved.parent / "file").write_text("")  # a file where a folder should be
    with pytest.raises(WriteError):
        checkpoints.save(blocked, Checkpoint(Recipe(), {"model": {}}, {"iteration": 1}))
    assert saved.read_bytes() == before
