"""Every format's reader makes drafts; what can be wrong with pictures and boxes is found here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_afdet.datasets.checks import Report, clean_boxes
from trt_afdet.datasets.index import Look, ProgressLike, look_at_all
from trt_afdet.datasets.record import Dataset, Record
from trt_afdet.errors import CorruptFileError, InvalidValueError


@dataclass
class Draft:
    """A picture as its annotation has it.

    Attributes:
        path: The picture or video.
        where: The annotation, for the report.
        image_id: Unique within the dataset.
        boxes: [N, 4], x1 y1 x2 y2: pixels, or with ``relative`` shares of the sides.
        labels: [N], class index.
        size: Width and height of the annotation; None if it has none.
        tolerance: Pixels that a box may be outside without being counted.
        frame_index: Of a video's frame.
        extras: Further lists of N values, by the name of :meth:`Record.build`'s argument.
    """

    path: Path
    where: str
    image_id: int
    boxes: npt.NDArray[np.float64]
    labels: list[int]
    size: tuple[int, int] | None = None
    relative: bool = False
    tolerance: float = 0.5
    frame_index: int | None = None
    extras: dict[str, list[Any]] = field(default_factory=dict)


def label_score(given: float) -> float:
    """How sure a label is: detections that serve as labels say it, all others are certain."""
    return given if 0 < given < 1 else 1.0


@dataclass
class Drafts:
    """The result of a format's reader; COCO's ``category_ids`` are 1, 2, 3, ... by default."""

    name: str
    class_names: Sequence[str]
    items: list[Draft]
    report: Report
    category_ids: Sequence[int] = ()


def finish(found: Drafts, *, decode: bool = False, progress: ProgressLike | None = None) -> Dataset:
    """The dataset of these drafts; pictures that cannot be used are left out and counted.

    Raises CorruptFileError, which says why, if none can be used.
    """
    name, drafts, report = found.name, found.items, found.report
    _check_units(name, drafts)
    pictures = [d.path for d in drafts if d.frame_index is None]
    for path, count in Counter(pictures).items():
        report.note("pictures have several annotations, each is used", str(path), count // 2)
    looks = look_at_all(pictures, name, decode=decode, progress=progress)
    made = (_use(draft, looks.get(draft.path), report) for draft in drafts)
    records = tuple(record for record in made if record is not None)
    if not records:
        hint = "; ".join(report.lines())
        raise CorruptFileError("no picture of the dataset can be used", got=name, hint=hint)
    without = [r for r in records if not len(r.boxes)]
    if len(without) > len(records) / 2:
        kind = f"of {len(records)} pictures have no labels"
        report.note(kind, str(without[0].path), len(without))
    ids = tuple(found.category_ids or range(1, len(found.class_names) + 1))
    return Dataset(name, tuple(found.class_names), records, ids, report)


def _check_units(name: str, drafts: list[Draft]) -> None:
    """Shares of the picture in place of pixels would be boxes of less than a pixel."""
    values = np.concatenate([np.zeros((0, 4)), *(d.boxes for d in drafts if not d.relative)])
    values = values[np.isfinite(values).all(axis=1)]
    if len(values) and values.max() <= 1 and (values[:, 2:] > values[:, :2]).any():
        got = f"none of {len(values)} boxes of {name} goes beyond 1"
        hint = "they must be in pixels; multiply by the picture's width and height"
        raise InvalidValueError("coordinates are shares of the picture", got=got, hint=hint)


def _use(draft: Draft, look: Look | None, report: Report) -> Record | None:
    if look is None:  # A frame of a video.
        if not draft.path.is_file():
            report.add("videos that are missing", str(draft.path))
        elif draft.size is None:
            report.add("frames of a video without their size left out", draft.where)
        else:
            return _record(draft, draft.boxes, draft.size, report)
        return None
    if look.fault:
        report.add(f"pictures left out: {look.fault}", str(draft.path))
        return None
    shown, said = (look.width, look.height), draft.size
    boxes = draft.boxes * [*shown, *shown] if draft.relative else draft.boxes
    if look.orientation != 1:
        report.note("pictures turned or mirrored by their EXIF data", str(draft.path))
    if said is None:
        if not draft.relative:
            report.note("sizes read from the picture", draft.where)
    elif said != shown:
        if look.orientation <= 4 or said != shown[::-1]:
            sizes = f"{shown[0]}x{shown[1]}, its annotations say {said[0]}x{said[1]}"
            kind = "pictures of another size than their annotations say left out"
            report.add(kind, f"{draft.path} is {sizes}")
            return None
        boxes = _turn_boxes(boxes, look)
        report.note("pictures whose boxes were turned with them", str(draft.path))
        if masks := draft.extras.get("segmentations"):
            draft.extras["segmentations"] = [_turn_mask(m, look) for m in masks]
    return _record(draft, boxes, shown, report)


def _record(
    draft: Draft, boxes: npt.NDArray[np.float64], size: tuple[int, int], report: Report
) -> Record:
    width, height = size
    clean, kept = clean_boxes(boxes, width, height, report, draft.where, draft.tolerance)
    labels = np.asarray(draft.labels, np.int64)[kept]
    extras = {name: [values[i] for i in kept] for name, values in draft.extras.items()}
    return Record.build(
        draft.path,
        draft.image_id,
        width,
        height,
        clean,
        labels,
        frame_index=draft.frame_index,
        **extras,
    )


def _turn_boxes(boxes: npt.NDArray[np.float64], look: Look) -> npt.NDArray[np.float64]:
    """Boxes of the picture as stored, on the picture as shown (orientations 2 to 8)."""
    turned = _turn_points(boxes.reshape(-1, 2), look).reshape(-1, 4)
    # An inverted box must stay inverted: only the swap by the turn is undone.
    if look.orientation in (2, 3, 6, 7):
        turned = turned[:, [2, 1, 0, 3]]
    if look.orientation in (3, 4, 7, 8):
        turned = turned[:, [0, 3, 2, 1]]
    return turned


def _turn_points(points: npt.NDArray[np.float64], look: Look) -> npt.NDArray[np.float64]:
    """Points [N, 2] of the picture as stored, on the picture as shown."""
    points = np.array(points[:, ::-1] if look.orientation > 4 else points, np.float64)
    if look.orientation in (2, 3, 6, 7):
        points[:, 0] = look.width - points[:, 0]
    if look.orientation in (3, 4, 7, 8):
        points[:, 1] = look.height - points[:, 1]
    return points


def _turn_mask(mask: Any, look: Look) -> Any:
    """Polygons turned; run lengths are given up, because they follow the columns."""
    if not isinstance(mask, list):
        return None
    try:
        return [_turn_points(np.reshape(p, (-1, 2)), look).reshape(-1).tolist() for p in mask]
    except (TypeError, ValueError):
        return None
