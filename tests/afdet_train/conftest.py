"""A small real dataset on disk: discs and bars on noise, in COCO layout, with masks."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

SIZE = (192, 256)


def write_shapes(folder: Path, split: str, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = folder / "images" / split
    images.mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    height, width = SIZE
    coco: dict[str, list[dict[str, object]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "disc"}, {"id": 2, "name": "bar"}],
    }
    for index in range(count):
        frame = rng.integers(90, 150, (height, width, 3), dtype=np.uint8)
        for column in range(2):  # one object in each half, so that none hides another
            kind = int(rng.integers(2))
            w, h = (int(v) for v in rng.integers(24, 80, 2))
            h = w if kind == 0 else h
            x = int(rng.integers(0, width // 2 - w)) + column * width // 2
            y = int(rng.integers(0, height - h))
            if kind == 0:
                cv2.circle(frame, (x + w // 2, y + w // 2), w // 2, (0, 0, 255), -1)
            else:
                cv2.rectangle(frame, (x, y), (x + w - 1, y + h - 1), (255, 0, 0), -1)
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            coco["annotations"].append(
                {
                    "id": len(coco["annotations"]) + 1,
                    "image_id": index + 1,
                    "category_id": kind + 1,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [corners],
                }
            )
        name = f"{split}_{index}.png"
        cv2.imwrite(str(images / name), frame)
        coco["images"].append(
            {"id": index + 1, "file_name": name, "width": width, "height": height}
        )
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco))


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder with splits train (8 pictures) and val (4)."""
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, "train", 8, seed=0)
    write_shapes(folder, "val", 4, seed=1)
    return folder


@pytest.fixture
def tiny_recipe(shapes: Path) -> dict[str, dict[str, object]]:
    """A recipe's values for a few quick iterations on the CPU."""
    return {
        "model": {
            "name": "tiny",
            "height": 128,
            "width": 128,
            "backbone": {"name": "efficientnet_lite0", "weights": "none"},
            "neck": {"width": 16, "repeats": 1},
            "head": {"depth": 1, "norm": "bn", "reg_activation": "softplus"},
        },
        "data": {"train": str(shapes), "val": str(shapes), "workers": 0},
        "optim": {"lr": 1e-3, "schedule": "cosine", "warmup_iterations": 2, "ema_decay": 0.9},
        "train": {
            "epochs": 2,
            "iterations_per_epoch": 3,
            "batch_size": 4,
            "device": "cpu",
            "tensorboard": False,
        },
    }
