"""Copy-Paste: cuts objects out of another picture by their masks and pastes them into this one.

The last row of the paper's Table 6 uses it. It needs data with masks (COCO segmentations).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch

from afdet_train.samples.augment import uniform
from trt_afdet.datasets import Dataset, Record
from trt_afdet.errors import CorruptFileError, InvalidValueError, MissingFileError

#: Range of the pasted objects' size factor, drawn log-uniformly.
SCALE = (0.5, 1.5)
#: A covered object loses its label if less than this share of it stays visible.
MIN_LEFT = 0.3

Mask = npt.NDArray[np.uint8]


class Truth(NamedTuple):
    """Objects of one picture: boxes float32 [N, 4], labels int64 [N], scores float32 [N]."""

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]

    @classmethod
    def of(cls, record: Record, index: npt.NDArray[Any]) -> Truth:
        return cls(record.boxes[index], record.labels[index], record.scores[index])


def decode_mask(segmentation: Any, height: int, width: int) -> Mask:
    """A COCO segmentation (polygons, RLE as counts or as text) as a uint8 mask [H, W] of 0 and 1.

    Raises:
        CorruptFileError: If the format is unknown or the size differs.
    """
    try:
        if isinstance(segmentation, list) and segmentation:
            return _decode_polygons(segmentation, height, width)
        return _decode_runs(segmentation, height, width)
    except (TypeError, ValueError, KeyError, IndexError, RuntimeError) as error:
        raise CorruptFileError(
            f"a segmentation is neither polygons nor RLE of {width}x{height}",
            got=str(segmentation)[:60],
        ) from error


def _decode_polygons(polygons: list[Any], height: int, width: int) -> Mask:
    """The union of polygons [x, y, x, y, ...], with COCO's rule for pixels on the border."""
    from faster_coco_eval.core import mask as rle

    corners = [np.asarray(p, np.float64) for p in polygons]
    if any(c.ndim != 1 or c.size < 6 or c.size % 2 or not np.isfinite(c).all() for c in corners):
        raise ValueError("no polygon")
    parts = rle.frPyObjects([c.tolist() for c in corners], height, width)
    return np.asarray(rle.decode(rle.merge(parts)), np.uint8)


def _decode_runs(segmentation: Any, height: int, width: int) -> Mask:
    """Alternating run lengths of 0 and 1, column by column, as a list or as COCO's text."""
    from faster_coco_eval.core import mask as rle

    if [int(side) for side in segmentation["size"]] != [height, width]:
        raise ValueError("another size")
    counts = segmentation["counts"]
    if isinstance(counts, list):
        values = np.repeat(np.arange(len(counts)) % 2, counts).astype(np.uint8)
        return np.ascontiguousarray(values.reshape(width, height).T)
    return np.asarray(rle.decode(segmentation), np.uint8).reshape(height, width)


class CopyPaste:
    """Pastes a random half of another picture's objects.

    Args:
        dataset: The source of pictures and masks.
        probability: Share of pictures to paste into.

    Raises:
        InvalidValueError: If the probability is above 0 and the data lacks masks.
    """

    def __init__(self, dataset: Dataset, probability: float) -> None:
        self.dataset = dataset
        self.probability = probability
        masked = (any(s is not None for s in r.segmentations) for r in dataset.records)
        self.sources = np.flatnonzero(list(masked)).tolist() if probability > 0 else []
        if probability > 0 and not self.sources:
            raise InvalidValueError(
                "augment.copy_paste needs masks, and the training data has none",
                got=dataset.name,
                hint="set augment.copy_paste=0",
            )

    def __call__(
        self, record: Record, frame: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.uint8], Truth]:
        """A picture with its truth, sometimes with pasted objects.

        Args:
            record: The picture's record.
            frame: BGR uint8 [H, W, 3]; not modified.

        Returns:
            The picture and its truth.
        """
        own = Truth.of(record, np.flatnonzero(~record.ignored))
        if not self.sources or float(torch.rand(())) >= self.probability:
            return frame, own
        source = self.dataset.records[self.sources[int(torch.randint(len(self.sources), ()))]]
        try:
            pasted, masks, new = self._objects(source, frame.shape[:2])
        except (CorruptFileError, MissingFileError):
            return frame, own  # Broken since the check; the stream reports it.
        if not masks:
            return frame, own
        cover = np.maximum.reduce(masks)
        out = np.where(cover[..., None] > 0, pasted, frame)
        left = _uncovered(record, cover)
        return out, Truth(
            np.concatenate([left.boxes, np.array([_tight(m) for m in masks], np.float32)]),
            np.concatenate([left.labels, source.labels[new]]),
            np.concatenate([left.scores, source.scores[new]]),
        )

    def _objects(
        self, source: Record, size: tuple[int, int]
    ) -> tuple[npt.NDArray[np.uint8], list[Mask], list[int]]:
        """The source picture, moved, scaled and sometimes mirrored, at the target's size.

        Returns:
            The picture, the masks of the objects to paste, and the objects' indices.
        """
        picture = self.dataset.read_image(source)
        height, width = size
        scale = float(np.exp(uniform(*np.log(SCALE))))
        scale *= min(height / picture.shape[0], width / picture.shape[1])
        span_x, span_y = width - scale * picture.shape[1], height - scale * picture.shape[0]
        shift_x, shift_y = uniform(0, 1) * span_x, uniform(0, 1) * span_y
        matrix = np.array([[scale, 0, shift_x], [0, scale, shift_y]])
        if float(torch.rand(())) < 0.5:
            matrix[0] = [-scale, 0, shift_x + scale * (picture.shape[1] - 1)]

        def place(image: npt.NDArray[np.uint8], flags: int) -> npt.NDArray[np.uint8]:
            return np.asarray(cv2.warpAffine(image, matrix, (width, height), flags=flags))

        masks, taken = [], []
        for index, (segmentation, ignored) in enumerate(
            zip(source.segmentations, source.ignored, strict=True)
        ):
            if segmentation is None or ignored or float(torch.rand(())) < 0.5:
                continue
            mask = place(decode_mask(segmentation, *picture.shape[:2]), cv2.INTER_NEAREST)
            if mask.any():
                masks.append(mask)
                taken.append(index)
        return place(picture, cv2.INTER_LINEAR), masks, taken


def _tight(mask: Mask) -> tuple[int, int, int, int]:
    """x1 y1 x2 y2 of the set pixels; right and bottom edges are exclusive."""
    x, y, w, h = cv2.boundingRect(mask)
    return x, y, x + w, y + h


def _uncovered(record: Record, cover: Mask) -> Truth:
    """The record's objects after pasting, with boxes tightened to the visible part of the masks."""
    boxes, kept = [], []
    for index in np.flatnonzero(~record.ignored):
        box = record.boxes[index]
        segmentation = record.segmentations[index]
        if segmentation is None:
            whole = np.zeros_like(cover)
            x1, y1, x2, y2 = np.round(box).astype(int)
            whole[y1:y2, x1:x2] = 1
        else:
            whole = decode_mask(segmentation, *cover.shape)
        left = whole * (cover == 0)
        if left.sum() < MIN_LEFT * max(1, int(whole.sum())):
            continue
        untouched = segmentation is None or left.sum() == whole.sum()
        boxes.append(box if untouched else np.array(_tight(left), np.float32))
        kept.append(index)
    indices = np.array(kept, np.int64)
    own = Truth.of(record, indices)
    return Truth(np.array(boxes, np.float32).reshape(-1, 4), own.labels, own.scores)
