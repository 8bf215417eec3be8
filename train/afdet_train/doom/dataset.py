"""Writing a filmed split as a COCO dataset: pictures first, the annotations file last."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from afdet_train.doom.classes import NAMES
from afdet_train.doom.film import Frame, Object, film
from afdet_train.doom.maps import WAD, maps_of
from afdet_train.doom.world import check_resolution, require_vizdoom
from trt_afdet.errors import InvalidValueError, WriteError
from trt_afdet.support.files import write_text


def annotations_path(out: Path, split: str) -> Path:
    """The path of a split's COCO file."""
    return out / "annotations" / f"instances_{split}.json"


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; raises `WriteError` if the disk is full."""
    write_text(path, json.dumps(value, separators=(",", ":")))


def categories() -> list[dict[str, Any]]:
    """COCO categories: id is the class index plus one."""
    return [{"id": i + 1, "name": name, "supercategory": "doom"} for i, name in enumerate(NAMES)]


def annotations_of(objects: Iterable[Iterable[Object]]) -> list[dict[str, Any]]:
    """COCO annotations of the objects of each image; image ids start at 0, annotation ids at 1."""
    flat = ((image, found) for image, group in enumerate(objects) for found in group)
    return [
        {
            "id": number,
            "image_id": image,
            "category_id": class_id + 1,
            "bbox": [x, y, w, h],
            "area": area,
            "iscrowd": 0,
        }
        for number, (image, (class_id, x, y, w, h, area)) in enumerate(flat, 1)
    ]


def to_coco(frames: list[Frame], info: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """A COCO ``instances`` dictionary of filmed frames, numbered from 0."""
    width, height = size
    images = [
        {
            "id": i,
            "file_name": frame.file_name,
            "width": width,
            "height": height,
            "map": frame.map_name,
        }
        for i, frame in enumerate(frames)
    ]
    return {
        "info": info,
        "licenses": [
            {"id": 1, "name": "Freedoom, modified BSD", "url": "https://freedoom.github.io"}
        ],
        "images": images,
        "annotations": annotations_of([frame.objects for frame in frames]),
        "categories": categories(),
    }


def check_request(out: Path, split: str, frames: int, seed: int, workers: int, force: bool) -> None:
    """Refuse bad arguments before anything is written."""
    maps_of(split)
    for name, value, least in (
        ("--frames", frames, 1),
        ("--workers", workers, 1),
        ("--seed", seed, 0),
    ):
        if value < least:
            raise InvalidValueError(f"{name} is too small", got=value, hint=f"at least {least}")
    if out.exists() and not out.is_dir():
        raise InvalidValueError("OUT is not a folder", got=out)
    target = annotations_path(out, split)
    if target.exists() and not force:
        raise InvalidValueError(
            "the dataset exists already", got=target, hint="add --force to film it anew"
        )


def film_dataset(
    out: Path,
    split: str,
    frames: int,
    seed: int,
    workers: int = 1,
    resolution: str = "800x600",
    force: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Film a split into folder `out` and return its COCO dictionary.

    Args:
        out: Folder for ``images/SPLIT/*.jpg`` and ``annotations/instances_SPLIT.json``.
        split: ``train``, ``val`` or ``test``.
        frames: Number of pictures.
        seed: The same seed gives the same bytes with any number of workers.
        workers: Number of processes.
        resolution: ``WxH``, one of `world.RESOLUTIONS`.
        force: Replace an existing split.
        on_progress: Called with the number of new frames.

    Raises:
        InvalidValueError: A bad argument, or the split exists and `force` is false.
        WriteError: The pictures or the annotations cannot be written.
    """
    check_request(out, split, frames, seed, workers, force)
    size = check_resolution(resolution)
    require_vizdoom()
    images = out / "images" / split
    part = images.with_name(f".{split}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    except OSError as error:
        raise WriteError(f"cannot write to {out}", got=error) from error
    done: list[Frame] = []
    try:
        for chunk in film(part, split, frames, seed, workers, resolution):
            done += chunk
            if on_progress:
                on_progress(len(chunk))
        # Removed first, so that annotations never describe pictures of another run.
        annotations_path(out, split).unlink(missing_ok=True)
        shutil.rmtree(images, ignore_errors=True)
        part.replace(images)
    except OSError as error:
        raise WriteError(f"cannot write to {out}", got=error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    info = {
        "description": f"Freedoom ({WAD}) filmed with ViZDoom, split {split}",
        "split": split,
        "seed": seed,
        "maps": list(maps_of(split)),
    }
    coco = to_coco(done, info, size)
    write_json(annotations_path(out, split), coco)
    return coco
