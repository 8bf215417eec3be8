"""The stream of training samples is the same however it is cut or shared out."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from afdet_train.config import parse_recipe
from afdet_train.model.network import model_spec
from afdet_train.samples.boxes import Boxes
from afdet_train.samples.stream import (
    Batch,
    StreamBatches,
    TrainingPictures,
    batches,
    collate,
    position_seed,
)
from hypothesis import given
from hypothesis import strategies as st

from trt_afdet.datasets import open_dataset
from trt_afdet.errors import CorruptFileError, InvalidValueError

Values = dict[str, Any]


def recipe_of(values: Values, *, workers: int = 0, seed: int = 0) -> Any:
    values = copy.deepcopy(values)
    values["model"]["classes"] = ["disc", "bar"]
    values["data"]["workers"] = workers
    values["train"]["seed"] = seed
    # Everything random at once.
    values["augment"] = {"scale_p": 1.0, "color_p": 1.0, "copy_paste": 0.5}
    return parse_recipe(values, "test")


COLUMNS = ("xyxy", "labels", "image", "scores")


def pictures_of(recipe: Any, shapes: Path) -> TrainingPictures:
    return TrainingPictures(open_dataset(shapes, "train"), recipe, model_spec(recipe.model))


def same(a: Batch, b: Batch) -> bool:
    return (
        torch.equal(a.images, b.images)
        and all(torch.equal(getattr(a.boxes, n), getattr(b.boxes, n)) for n in COLUMNS)
        and a.boxes.batch_size == b.boxes.batch_size
        and a.names == b.names
    )


def test_a_position_has_one_sample_whatever_came_before(tiny_recipe: Values, shapes: Path) -> None:
    recipe = recipe_of(tiny_recipe)
    pictures = pictures_of(recipe, shapes)
    forward = [pictures[q] for q in range(10)]
    torch.manual_seed(99)  # the process' own state plays no part, and is left as it is
    state = torch.get_rng_state()
    fresh = pictures_of(recipe, shapes)
    backward = [fresh[q] for q in reversed(range(10))][::-1]
    assert torch.equal(state, torch.get_rng_state())
    assert same(collate(forward), collate(backward))


def test_every_round_has_every_picture_once_in_another_order(
    tiny_recipe: Values, shapes: Path
) -> None:
    pictures = pictures_of(recipe_of(tiny_recipe), shapes)
    rounds = [[pictures[8 * r + i] for i in range(8)] for r in range(3)]
    orders = [[s.name for s in one] for one in rounds]
    assert all(len(set(order)) == 8 for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    # The same picture looks different in each round.
    name = orders[0][0]
    views = [next(s for s in one if s.name == name).image for one in rounds]
    assert not torch.equal(views[0], views[1])


def test_another_seed_is_another_stream(tiny_recipe: Values, shapes: Path) -> None:
    streams = [pictures_of(recipe_of(tiny_recipe, seed=seed), shapes) for seed in (0, 1)]
    first, second = (collate([stream[q] for q in range(8)]) for stream in streams)
    assert not torch.equal(first.images, second.images)
    assert first.names != second.names


def test_a_stream_goes_on_where_it_was_cut(tiny_recipe: Values, shapes: Path) -> None:
    recipe = recipe_of(tiny_recipe)
    whole = list(batches(pictures_of(recipe, shapes), recipe, 0, 5, 0, 1))
    assert len(whole) == 5
    assert whole[0].images.shape == (4, 128, 128, 3)
    cut = [
        *batches(pictures_of(recipe, shapes), recipe, 0, 3, 0, 1),
        *batches(pictures_of(recipe, shapes), recipe, 3, 5, 0, 1),
    ]
    assert all(map(same, whole, cut))


def test_shares_of_the_ranks_are_the_whole_batch(tiny_recipe: Values, shapes: Path) -> None:
    recipe = recipe_of(tiny_recipe)
    (whole,) = batches(pictures_of(recipe, shapes), recipe, 2, 3, 0, 1)
    shares = [next(iter(batches(pictures_of(recipe, shapes), recipe, 2, 3, r, 2))) for r in (0, 1)]
    joined = Batch(
        torch.cat([s.images for s in shares]),
        Boxes.collate([s.boxes for s in shares]),
        Boxes.collate([s.ignored for s in shares]),
        [n for s in shares for n in s.names],
    )
    assert same(whole, joined)


@pytest.mark.slow
def test_workers_change_nothing(tiny_recipe: Values, shapes: Path) -> None:
    alone, helped = recipe_of(tiny_recipe), recipe_of(tiny_recipe, workers=2)
    expected = list(batches(pictures_of(alone, shapes), alone, 1, 4, 0, 1))
    loader = batches(pictures_of(helped, shapes), helped, 1, 4, 0, 1)
    assert all(map(same, expected, loader))
    assert len(loader) == len(expected) == 3


@given(
    start=st.integers(0, 1000), count=st.integers(0, 6), share=st.integers(1, 5),
    world=st.integers(1, 4),
)  # fmt: skip
def test_positions_are_shared_out_without_gap_or_overlap(
    start: int, count: int, share: int, world: int
) -> None:
    size = share * world
    ranks = [StreamBatches(start, start + count, size, r, world) for r in range(world)]
    assert all(len(one) == count == len(list(one)) for one in ranks)
    together = [q for parts in zip(*ranks, strict=True) for part in parts for q in part]
    assert together == list(range(start * size, (start + count) * size))


def test_seeds_differ_and_are_fixed() -> None:
    seeds = [position_seed(seed, position) for seed in range(20) for position in range(200)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= s < 2**63 for s in seeds)
    # A run resumed next year must draw the same: this number may never change.
    assert position_seed(0, 0) == 7896617691693857887


def test_data_that_cannot_be_trained_on_is_refused(tiny_recipe: Values, shapes: Path) -> None:
    recipe = recipe_of(tiny_recipe)
    data = open_dataset(shapes, "train")
    spec = model_spec(recipe.model)
    with pytest.raises(InvalidValueError, match="no pictures"):
        TrainingPictures(dataclasses.replace(data, records=()), recipe, spec)
    frames = tuple(dataclasses.replace(r, frame_index=0) for r in data.records)
    with pytest.raises(InvalidValueError, match="is a video"):
        TrainingPictures(dataclasses.replace(data, records=frames), recipe, spec)


def test_a_bad_picture_is_named(tiny_recipe: Values, shapes: Path, tmp_path: Path) -> None:
    recipe = recipe_of(tiny_recipe)
    data = open_dataset(shapes, "train")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    bad = dataclasses.replace(data.records[0], path=tmp_path / "bad.png")
    pictures = TrainingPictures(
        dataclasses.replace(data, records=(bad,)), recipe, model_spec(recipe.model)
    )
    with pytest.raises(CorruptFileError, match=r"bad\.png"):
        pictures[0]


def test_a_picture_that_breaks_during_the_run_is_skipped_and_named(
    tiny_recipe: Values, shapes: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(tiny_recipe)
    data = open_dataset(shapes, "train")
    bad = dataclasses.replace(data.records[0], path=tmp_path / "gone.png")
    records = (bad, *data.records[1:4])
    pictures = TrainingPictures(
        dataclasses.replace(data, records=records), recipe, model_spec(recipe.model)
    )
    samples = [pictures[i] for i in range(4)]
    assert [s.broken for s in samples].count((str(bad.path),)) == 1
    assert str(bad.path) not in {s.name for s in samples}
    assert collate(samples).broken == (str(bad.path),)


def mosaic_of(values: Values, shapes: Path, **augment: object) -> TrainingPictures:
    values = copy.deepcopy(values)
    values["model"]["classes"] = ["disc", "bar"]
    values["train"] |= {"epochs": 5, "iterations_per_epoch": 3, "batch_size": 4}
    values["augment"] = {"mosaic": 1.0, "color_p": 0.0, **augment}
    return pictures_of(parse_recipe(values, "test"), shapes)


def test_every_box_of_a_mosaic_lies_on_its_object(tiny_recipe: Values, shapes: Path) -> None:
    """Discs are red and bars blue; each fills its box from side to side, in every tile."""
    pictures = mosaic_of(tiny_recipe, shapes, min_visible=0.999)
    seen = 0
    for q in range(12):
        sample = pictures[q]
        for box, label in zip(sample.boxes.xyxy, sample.boxes.labels.tolist(), strict=True):
            x1, y1, x2, y2 = box.round().long().tolist()
            inner = sample.image[y1:y2, x1:x2].int()
            own, other = (0, 2) if label == 0 else (2, 0)
            coloured = (inner[..., own] - inner[..., other]) > 60
            for axis, side in ((0, x2 - x1), (1, y2 - y1)):
                at = coloured.any(dim=axis).nonzero()[:, 0]
                assert int(at[0]) <= 2
                assert int(at[-1]) >= side - 3
            seen += 1
    assert seen > 20


def test_a_mosaic_has_four_pictures_and_no_border(tiny_recipe: Values, shapes: Path) -> None:
    pictures = mosaic_of(tiny_recipe, shapes)
    grey = pictures.spec.pad_value
    for q in range(8):
        sample = pictures[q]
        assert sample.name.count(" + ") == 3
        # A border would be whole rows or columns of the padding's grey; rounding may leave one.
        border = (sample.image == grey).all(dim=2)
        assert border.all(dim=0).sum() + border.all(dim=1).sum() <= 2
        assert bool((sample.boxes.xyxy >= 0).all())
        height, width = sample.image.shape[:2]
        assert bool((sample.boxes.xyxy <= torch.tensor([width, height] * 2) + 1e-3).all())


def test_mosaics_stop_towards_the_end(tiny_recipe: Values, shapes: Path) -> None:
    pictures = mosaic_of(tiny_recipe, shapes, mosaic_until=0.5)
    total = 5 * 3 * 4  # epochs, iterations, pictures
    kinds = [" + " in pictures[q].name for q in range(total)]
    assert kinds == [q < total // 2 for q in range(total)]
    half = mosaic_of(tiny_recipe, shapes, mosaic=0.5)
    kinds = [" + " in half[q].name for q in range(30)]
    assert 5 < sum(kinds) < 25


def test_scores_of_labels_reach_the_batch(tiny_recipe: Values, shapes: Path) -> None:
    pictures = mosaic_of(tiny_recipe, shapes)
    by_label = {0: 0.25, 1: 0.75}
    records = tuple(
        dataclasses.replace(
            r, scores=np.array([by_label[i] for i in r.labels.tolist()], np.float32)
        )
        for r in pictures.dataset.records
    )
    pictures.dataset = dataclasses.replace(pictures.dataset, records=records)
    batch = collate([pictures[q] for q in range(6)])
    assert len(batch.boxes) > 10
    assert batch.boxes.scores.tolist() == [by_label[i] for i in batch.boxes.labels.tolist()]
