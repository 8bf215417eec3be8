"""Tiny datasets of each format, written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

#: Size of every picture.
WIDTH, HEIGHT = 64, 48


def write_picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), frame)


def coco_dict() -> dict[str, Any]:
    """Two pictures, three objects, one of them a crowd; category ids with a gap."""
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT},
            {"id": 3, "file_name": "b.jpg", "width": WIDTH, "height": HEIGHT},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 9, "bbox": [4, 5, 10, 20], "area": 150},
            {"id": 2, "image_id": 7, "category_id": 2, "bbox": [30, 8, 12, 6], "iscrowd": 1},
            {
                "id": 3,
                "image_id": 3,
                "category_id": 2,
                "bbox": [1, 2, 3, 4],
                "segmentation": [[1, 2, 4, 2, 4, 6]],
            },
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 2, "name": "cat"}],
    }


def write_coco(root: Path, raw: dict[str, Any] | None = None, split: str = "val") -> Path:
    """The COCO layout of the Doom data; returns the JSON."""
    for seed, name in enumerate(("a.jpg", "b.jpg")):
        write_picture(root / "images" / split / name, seed)
    file = root / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(raw if raw is not None else coco_dict()))
    return file


def voc_object(name: str, box: tuple[float, float, float, float], difficult: int = 0) -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    corners = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<bndbox>{corners}</bndbox></object>"
    )


def voc_xml(*objects: str) -> str:
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation>{size}{''.join(objects)}</annotation>"


def write_voc(root: Path, annotations: dict[str, str], split: str = "trainval") -> Path:
    """A VOC root with these annotation texts by picture name."""
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for seed, (stem, text) in enumerate(annotations.items()):
        write_picture(root / "JPEGImages" / f"{stem}.jpg", seed)
        (root / "Annotations" / f"{stem}.xml").write_text(text)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(annotations) + "\n")
    return root


def write_yolo(root: Path, labels: dict[str, str | None], split: str = "train") -> Path:
    """A YOLO folder with data.yaml and these label texts (None: no file); returns the YAML."""
    for seed, (stem, text) in enumerate(labels.items()):
        write_picture(root / "images" / split / f"{stem}.png", seed)
        if text is not None:
            file = root / "labels" / split / f"{stem}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    config = root / "data.yaml"
    config.write_text(f"path: .\n{split}: images/{split}\nnames: {{0: cat, 1: dog}}\n")
    return config
