"""Recipes: defaults, overrides, and what is said about mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
from afdet_train.config import Recipe, load_recipe, parse_recipe

from tests.paths import ROOT
from trt_afdet.errors import AfdetError, CorruptFileError, InvalidValueError, MissingFileError

RECIPES = sorted((ROOT / "train" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    recipe = load_recipe(path)
    assert parse_recipe(recipe.model_dump(mode="json"), "again") == recipe


def test_there_are_recipes() -> None:
    names = {p.stem for p in RECIPES}
    assert {"doom", "voc-step1", "voc-step2", "coco-step1", "coco-step2"} <= names


def test_overrides(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("optim: {lr: 0.1}\n")
    recipe = load_recipe(path, ["optim.lr=5e-4", "model.targets.mode=ofs", "augment.scale=[1, 2]"])
    assert recipe.optim.lr == 5e-4
    assert recipe.model.targets.mode == "ofs"
    assert recipe.augment.scale == (1.0, 2.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optim": {"learning_rate": 1}}, "unknown key optim.learning_rate"),
        ({"model": {"nek": {}}}, "did you mean model.neck"),
        ({"model": {"neck": {"widht": 64}}}, "did you mean model.neck.width"),
        ({"modle": {}}, "did you mean model"),
        ({"model": {"height": 500}}, "model.height"),
        ({"model": {"targets": {"mode": "hard"}}}, "model.targets.mode"),
        ({"augment": {"scale": [2, 1]}}, "augment.scale"),
        ([1, 2], "must be a mapping"),
    ],
)
def test_mistakes_get_one_line(values: object, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message) as caught:
        parse_recipe(values, "r.yaml")
    assert "\n" not in str(caught.value)


def test_files(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1\nb")
    with pytest.raises(CorruptFileError) as caught:
        load_recipe(tmp_path / "bad.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["optim", "=3", "optim.lr=[1", "optim.lr.x=3"])
def test_bad_overrides(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("optim: {lr: 0.1}\n")
    with pytest.raises(AfdetError):
        load_recipe(path, [text])


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe().train.epochs = 3  # type: ignore[misc]
