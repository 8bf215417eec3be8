"""The data card of a split: counts, sizes, and a mosaic of examples with their boxes."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from afdet_train.doom.dataset import write_json
from afdet_train.doom.rules import MIN_BRIGHTNESS, MIN_SIDE, MIN_VISIBLE
from trt_afdet.media import read_picture
from trt_afdet.support.figures import new_figure, save_figure

#: Edges of the size histogram: square root of the box area, in pixels.
_SIZE_EDGES = (0, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 1024)
_MOSAIC = 16


def summary(coco: dict[str, Any]) -> dict[str, Any]:
    """Statistics of a COCO dictionary: counts per class and map, box sizes, and the rules."""
    names = {c["id"]: c["name"] for c in coco["categories"]}
    per_class = Counter(a["category_id"] for a in coco["annotations"])
    sizes = [float(np.sqrt(a["bbox"][2] * a["bbox"][3])) for a in coco["annotations"]]
    histogram, _ = np.histogram(sizes, bins=_SIZE_EDGES)
    with_objects = {a["image_id"] for a in coco["annotations"]}
    return {
        "info": coco["info"],
        "frames": len(coco["images"]),
        "frames_without_object": len(coco["images"]) - len(with_objects),
        "objects": len(coco["annotations"]),
        "objects_per_class": {name: per_class[i] for i, name in names.items()},
        "frames_per_map": dict(sorted(Counter(i["map"] for i in coco["images"]).items())),
        "size_edges_px": list(_SIZE_EDGES),
        "objects_per_size": [int(n) for n in histogram],
        "rules": {
            "min_side_px": MIN_SIDE,
            "min_visible_share": MIN_VISIBLE,
            "min_brightness": MIN_BRIGHTNESS,
        },
    }


def mosaic(images: Path, coco: dict[str, Any], count: int = _MOSAIC) -> np.ndarray:
    """(H, W, 3) uint8 BGR: `count` evenly spaced frames of the split, with boxes."""
    import cv2

    names = {c["id"]: c["name"] for c in coco["categories"]}
    by_image: dict[int, list[dict[str, Any]]] = {}
    for a in coco["annotations"]:
        by_image.setdefault(a["image_id"], []).append(a)
    filled = [i for i in coco["images"] if i["id"] in by_image] or coco["images"]
    chosen = [filled[i] for i in np.linspace(0, len(filled) - 1, count).astype(int)]
    tiles = []
    for item in chosen:
        image = read_picture(images / item["file_name"])
        for a in by_image.get(item["id"], []):
            x, y, w, h = a["bbox"]
            cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), (80, 255, 80), 2)
            cv2.putText(
                image, names[a["category_id"]], (x, max(y - 4, 14)), 0, 0.7, (0, 255, 255), 2
            )
        tiles.append(cv2.resize(image, (480, 360), interpolation=cv2.INTER_AREA))
    return np.vstack([np.hstack(tiles[i : i + 4]) for i in range(0, count, 4)])


def write_card(out: Path, split: str, coco: dict[str, Any]) -> Path:
    """Write ``card_SPLIT.json`` and ``card_SPLIT.png`` into `out`; returns the picture's path."""
    card = summary(coco)
    write_json(out / f"card_{split}.json", card)

    figure = new_figure(16, 17)
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 2.6))
    classes = figure.add_subplot(grid[0, 0])
    counts = card["objects_per_class"]
    classes.barh(list(counts), list(counts.values()), color="#3b75af")
    classes.invert_yaxis()
    classes.set_xlabel("objects")
    classes.set_title(f"{split}: {card['objects']} objects in {card['frames']} frames")
    sizes = figure.add_subplot(grid[0, 1])
    edges = card["size_edges_px"]
    labels = [f"{a}-{b}" for a, b in itertools.pairwise(edges)]
    sizes.bar(labels, card["objects_per_size"], color="#3b75af")
    sizes.tick_params(axis="x", rotation=45)
    sizes.set_xlabel("square root of box area, pixels")
    sizes.set_ylabel("objects")
    pictures = figure.add_subplot(grid[1, :])
    pictures.imshow(mosaic(out / "images" / split, coco)[..., ::-1])
    pictures.axis("off")
    path = out / f"card_{split}.png"
    save_figure(figure, path)
    return path
