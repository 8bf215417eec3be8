"""Tests of the Doom data: determinism, boxes, rules, splits, refusals. They run Doom itself."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from afdet_train.cli import data as data_cli
from afdet_train.doom import classes, clip, dataset, film, maps, rules, world

from trt_afdet.errors import InvalidValueError
from trt_afdet.media import Video, count_frames

FRAMES = 30  # Two chunks, the second one short.


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("one")
    return out, dataset.film_dataset(out, "test", FRAMES, 7, workers=1, resolution="640x480")


def _bytes(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*.j*"))}


def test_same_seed_same_bytes_with_any_number_of_workers(
    filmed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, _ = filmed
    dataset.film_dataset(tmp_path, "test", FRAMES, 7, workers=2, resolution="640x480")
    assert _bytes(tmp_path) == _bytes(out)
    assert len(_bytes(out)) == FRAMES + 1


def test_another_seed_gives_other_pictures(
    filmed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    dataset.film_dataset(tmp_path, "test", 3, 8, resolution="640x480")
    old = {p.read_bytes() for p in (filmed[0] / "images" / "test").iterdir()}
    assert not old & {p.read_bytes() for p in (tmp_path / "images" / "test").iterdir()}


def test_coco_is_sound(filmed: tuple[Path, dict[str, Any]]) -> None:
    out, coco = filmed
    assert json.loads(dataset.annotations_path(out, "test").read_text()) == coco
    assert [c["name"] for c in coco["categories"]] == list(classes.NAMES)
    assert [c["id"] for c in coco["categories"]] == list(range(1, len(classes.NAMES) + 1))
    assert {i["map"] for i in coco["images"]} <= set(maps.SPLITS["test"])
    assert len(coco["annotations"]) >= FRAMES // 2
    ids = [a["id"] for a in coco["annotations"]]
    assert len(set(ids)) == len(ids)
    for a in coco["annotations"]:
        x, y, w, h = a["bbox"]
        assert x >= 0
        assert y >= 0
        assert x + w <= 640
        assert y + h <= 480
        assert min(w, h) >= rules.MIN_SIDE
        assert 0 < a["area"] <= w * h


def test_boxes_are_tight_and_sizes_match_the_table(tmp_path: Path) -> None:
    """A summoned barrel, seen whole: its pixels, its box, and its size by the pinhole model."""
    checked = 0
    with world.open_world(
        "MAP01", seed=1, skill=1, awake=False, resolution="800x600", folder=tmp_path
    ) as w:
        rng = np.random.default_rng(0)
        anchors = [o for o in w.state.objects if o.name != "DoomPlayer"]
        for anchor in anchors[::6]:
            spot = w.place_near(anchor.position_x, anchor.position_y, rng.uniform(60, 300, 12), rng)
            if spot is None:
                continue
            w.teleport(*spot, float(rng.uniform(0, 360)), 0.0, 8)
            barrel = w.summon("ExplosiveBarrel")
            if barrel is None:
                continue
            w.step(tics=10)
            place = w.place_near(barrel.position_x, barrel.position_y, np.full(24, 150.0), rng)
            if place is None:
                continue
            angle = np.degrees(
                np.arctan2(barrel.position_y - place[1], barrel.position_x - place[0])
            )
            w.teleport(*place, float(angle), 0.0, 8)
            s = w.state
            for label, box in rules.measure(s.labels, s.labels_buffer, s.screen_buffer, w.camera()):
                x, y, width, height = box.xywh
                mask = s.labels_buffer == label.value
                ys, xs = np.nonzero(mask)
                assert (xs.min(), ys.min()) == (x, y)
                assert (xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()) == (width, height)
                assert box.area == mask.sum()
                if label.object_id == barrel.id and box.visible > 0.9:
                    assert height == pytest.approx(32 * 480 / 150, rel=0.06)
                    assert box.visible == pytest.approx(1.0, abs=0.1)
                    checked += 1
    assert checked >= 1


def test_corpses_are_no_objects(tmp_path: Path) -> None:
    with world.open_world(
        "MAP07", seed=1, skill=1, awake=False, resolution="640x480", folder=tmp_path
    ) as w:
        assert w.summon("DoomImp") is not None
        w.game.send_game_command("kill monsters")
        w.step(tics=30)
        names = {o.name for o in w.state.objects}
    assert "DeadDoomImp" in names
    assert not names & set(classes.CLASSES[classes.NAMES.index("imp")].actors)


def test_measure_counts_occlusion_and_size() -> None:
    buffer = np.zeros((600, 800), np.uint8)
    screen = np.full((600, 800, 3), 99, np.uint8)
    camera = rules.Camera(0.0, 0.0, 41.0, 0.0)
    barrel = classes.CLASSES[classes.NAMES.index("barrel")]
    fx, fy = rules.focal(800)
    whole = barrel.area * fx * fy / 200**2
    width = 50
    buffer[100 : 100 + round(whole / width / 2), 300 : 300 + width] = 5
    label = SimpleNamespace(
        object_name="ExplosiveBarrel", value=5, x=300, y=100, width=width, height=200,
        object_position_x=200.0, object_position_y=0.0,
    )  # fmt: skip
    ((_, half),) = rules.measure([label], buffer, screen, camera)
    assert half.visible == pytest.approx(0.5, abs=0.02)
    assert half.brightness == 99
    assert rules.keep(half)
    label.object_position_x = 150.0  # Nearer, so the same pixels are a smaller share.
    ((_, less),) = rules.measure([label], buffer, screen, camera)
    assert less.visible == pytest.approx(0.5 * (150 / 200) ** 2, abs=0.02)
    assert not rules.keep(less)
    assert not rules.keep(rules.Box(0, (0, 0, 7, 90), 600, 1.0, 200.0))
    assert rules.keep(rules.Box(0, (0, 0, 8, 90), 600, 1.0, 200.0))
    label.object_name = "DeadDoomImp"
    assert rules.measure([label], buffer, screen, camera) == []


def test_walls_and_darkness_are_not_kept() -> None:
    rng = np.random.default_rng(0)
    screen = rng.integers(0, 255, (600, 800, 3), dtype=np.uint8)
    far = np.full((600, 800), 60, np.uint8)
    assert rules.inside_and_open(screen, far, [])
    assert not rules.inside_and_open(screen, np.full_like(far, rules.NEAR_DEPTH - 1), [])
    assert not rules.inside_and_open(screen // 20, far, [])
    assert not rules.inside_and_open(np.full_like(screen, 128), far, [])


def test_splits_are_disjoint_and_complete() -> None:
    every = [m for names in maps.SPLITS.values() for m in names]
    assert len(every) == len(set(every)) == 32
    assert {film.map_of_chunk("val", 3, c) for c in range(4)} == set(maps.SPLITS["val"])


def test_class_names_and_actors_are_unique() -> None:
    assert len(set(classes.NAMES)) == len(classes.CLASSES)
    actors = [a for c in classes.CLASSES for a in c.actors]
    assert len(actors) == len(set(actors))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "phase1"}, "unknown split"),
        ({"frames": 0}, "--frames"),
        ({"workers": 0}, "--workers"),
        ({"seed": -1}, "--seed"),
        ({"resolution": "10x10"}, "unknown resolution"),
    ],
)
def test_bad_arguments_write_nothing(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"split": "val", "frames": 1, "seed": 1, **change}
    with pytest.raises(InvalidValueError, match=message):
        dataset.film_dataset(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_an_existing_split_is_kept_unless_forced(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    data_cli.add_kinds(parser.add_subparsers())
    words = ["doom", str(tmp_path), "--split", "val", "--frames", "2", "--resolution", "640x480"]
    assert data_cli.run(parser.parse_args(words)) == 0
    assert json.loads((tmp_path / "card_val.json").read_text())["frames"] == 2
    assert (tmp_path / "card_val.png").stat().st_size > 10_000
    before = _bytes(tmp_path)
    with pytest.raises(InvalidValueError, match="exists already"):
        data_cli.run(parser.parse_args(words))
    assert _bytes(tmp_path) == before
    assert data_cli.run(parser.parse_args([*words, "--force"])) == 0
    assert _bytes(tmp_path) == before


@pytest.mark.slow
def test_clip_has_one_truth_image_per_frame(tmp_path: Path) -> None:

    video = tmp_path / "clip.mp4"
    truth = clip.film_clip(video, "test", 12, 1, resolution="640x480", scale=0.5)
    assert count_frames(video) == 12
    with Video(video) as opened:
        assert (opened.info.width, opened.info.height) == (320, 240)
    assert [i["frame_index"] for i in truth["images"]] == list(range(12))
    assert json.loads(video.with_suffix(".json").read_text()) == truth
    assert {a["image_id"] for a in truth["annotations"]} <= set(range(12))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.json", "clip.mp4"]
    with pytest.raises(InvalidValueError, match="exists already"):
        clip.film_clip(video, "test", 12, 1)


def test_bad_clip_arguments(tmp_path: Path) -> None:
    for words in ({"frames": 0}, {"scale": 2.0}, {"video": tmp_path / "clip.avi"}):
        arguments: dict[str, Any] = {
            "video": tmp_path / "a.mp4", "split": "test", "frames": 3, "seed": 1, **words
        }  # fmt: skip
        with pytest.raises(InvalidValueError):
            clip.film_clip(**arguments)
    assert not list(tmp_path.iterdir())
