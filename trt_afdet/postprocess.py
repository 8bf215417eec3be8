"""Heads to detections: the NumPy reference, and the native code where it is there.

The reference is what every other implementation must equal. Per level: threshold on raw logits, the
best ``candidates_per_level`` in a total order, Eq. (8) as corrected. Over all levels: greedy NMS,
the best ``max_detections``. Details for another implementation:

* The score threshold t, the IoU threshold and the scale are rounded to float32 first. The logit
  threshold is ln(t / (1 - t)) in double precision, rounded to float32. t = 0 admits every logit
  above -inf, t = 1 admits none.
* Zero and minus zero are the same logit.
* A box is non-finite if a decoded coordinate is, before clipping; it is empty after clipping.
* IoU is intersection / (area + area - intersection) in float32, each operation rounded (no FMA).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trt_afdet.detections import Detections
from trt_afdet.errors import InvalidValueError
from trt_afdet.geometry import Letterbox
from trt_afdet.interface import output_shapes
from trt_afdet.native import HostLibrary, NativeMissingError, host
from trt_afdet.spec import ModelSpec

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

#: Boxes, confidences and class ids of one image.
Rows = tuple[npt.NDArray[Any], ...]

#: Boxes that NMS compares among themselves at a time, and takes up at a time.
_NMS_BLOCK = 64
_NMS_INTAKE = 512

#: Which box of a block comes after which: the pairs of whom the first may remove the second.
_LATER = np.triu(np.ones((_NMS_BLOCK, _NMS_BLOCK), np.bool_), 1)

#: Below this share of pairs of one class, those pairs are picked out before they are compared.
_SPARSE_PAIRS = 0.2

_SIGN = np.uint32(0x80000000)
_LOW_HALF = np.uint64(0xFFFFFFFF)


class Candidates(NamedTuple):
    """Decoded boxes before NMS, in the order that NMS takes them.

    Attributes:
        logits: float32 [n].
        boxes: float32 [n, 4], x1 y1 x2 y2 in network-input pixels.
        class_id: int64 [n].
    """

    logits: Floats
    boxes: Floats
    class_id: Ints


def logit_threshold(probability: float) -> np.float32:
    """The logit a candidate must exceed: ln(p / (1 - p)), -inf for 0 and +inf for 1."""
    probability = float(np.float32(probability))
    if probability <= 0:
        return np.float32(-np.inf)
    if probability >= 1:
        return np.float32(np.inf)
    return np.float32(math.log(probability / (1 - probability)))


def sigmoid(logits: npt.ArrayLike) -> Floats:
    """Logits to probabilities: computed in double precision, so correctly rounded float32."""
    values = np.asarray(logits, np.float64)
    with np.errstate(over="ignore"):
        return (1.0 / (1.0 + np.exp(-values))).astype(np.float32)


def select_candidates(
    logits: npt.NDArray[Any], threshold: np.float32, limit: int
) -> tuple[Floats, Ints, Ints]:
    """The best (point, class) pairs of one level.

    Args:
        logits: Floating [K, H, W].
        threshold: A pair is a candidate if its logit is above this; NaN never is.
        limit: Most pairs kept.

    Returns:
        logits float32 [n], point index (row * W + column) [n] and class [n], ordered by (logit
        descending, point ascending, class ascending).
    """
    classes = logits.shape[0]
    flat = np.ascontiguousarray(logits, np.float32).reshape(-1)
    chosen = np.flatnonzero(flat > threshold)
    values = flat[chosen]
    if len(values) > limit:
        # Cheap cut on the values alone; what ties with the last one stays, for the keys to decide.
        cut = np.partition(values, len(values) - limit)[len(values) - limit]
        best = np.flatnonzero(values >= cut)
        chosen, values = chosen[best], values[best]
    class_id, point = np.divmod(chosen, logits.shape[1] * logits.shape[2])
    # One unsigned key sorts by the whole order: the logit's bits, made to fall as the logit rises,
    # above the pair's rank. Adding zero turns -0.0 into 0.0.
    bits = (values + np.float32(0)).view(np.uint32)
    falling = np.where(bits & _SIGN, bits, ~bits & ~_SIGN)
    rank = point * classes + class_id
    keys = (falling.astype(np.uint64) << np.uint64(32)) | rank.astype(np.uint64)
    if len(keys) > limit:
        keys = np.partition(keys, limit - 1)[:limit]
    keys.sort()
    rank = (keys & _LOW_HALF).astype(np.int64)
    falling = (keys >> np.uint64(32)).astype(np.uint32)
    values = np.where(falling & _SIGN, falling, ~falling & ~_SIGN).view(np.float32)
    point, class_id = np.divmod(rank, classes)
    return values, point, class_id


@lru_cache(maxsize=64)
def _points(rows: int, columns: int, stride: int) -> Floats:
    """Where a level's points sit: float32 [2, rows * columns], X then Y in input pixels."""
    y, x = np.divmod(np.arange(rows * columns), columns)
    centres = ((np.stack([x, y]) + 0.5) * stride).astype(np.float32)
    centres.setflags(write=False)
    return centres


def decode_level(
    cls: npt.NDArray[Any],
    reg: npt.NDArray[Any],
    spec: ModelSpec,
    level: int,
    classes: Ints | None = None,
) -> Candidates:
    """One level's heads to candidate boxes (steps 1 to 3).

    Args:
        cls: Raw logits, floating [K, H, W].
        reg: Distances left, top, right, bottom in units of S * stride, floating [4, H, W].
        spec: Gives thresholds, scale and sizes.
        level: Index into ``spec.strides``.
        classes: Ascending class ids to look for; all by default.

    Returns:
        Candidates by (logit descending, point ascending, class ascending).
    """
    stride = spec.strides[level]
    if classes is not None:
        cls = cls[classes]
    threshold = logit_threshold(spec.score_threshold)
    logits, point, class_id = select_candidates(cls, threshold, spec.candidates_per_level)
    if classes is not None:
        class_id = classes[class_id]
    centre = _points(cls.shape[1], cls.shape[2], stride)[:, point]
    distance = np.asarray(reg).reshape(4, -1)[:, point].astype(np.float32)
    # Large FP32 distances may overflow; such boxes are dropped below, so no warning is due.
    with np.errstate(over="ignore", invalid="ignore"):
        distance *= np.float32(spec.regression_scale * stride)
        corners = np.concatenate([centre - distance[:2], centre + distance[2:]])
    finite = np.isfinite(corners).all(axis=0)
    x = np.clip(corners[0::2], np.float32(0), np.float32(spec.width))
    y = np.clip(corners[1::2], np.float32(0), np.float32(spec.height))
    good = finite & (x[1] > x[0]) & (y[1] > y[0])
    boxes = np.stack([x[0], y[0], x[1], y[1]], axis=1)
    if not good.all():
        logits, boxes, class_id = logits[good], boxes[good], class_id[good]
    return Candidates(logits, boxes, class_id)


class _Boxes(NamedTuple):
    """Boxes prepared for NMS: corners float32 [2, n], area float32 [n], class [n] if it counts."""

    low: Floats
    high: Floats
    area: Floats
    group: npt.NDArray[np.int32] | None

    def removes(self, first: Ints, second: Ints, iou: np.float32) -> npt.NDArray[np.bool_]:
        """Which boxes overlap which by more than ``iou``: bool [len(first), len(second)]."""
        if self.group is None:
            return self._overlap(first[:, None], second[None], iou)
        same = self.group[first, None] == self.group[second]
        pairs = np.flatnonzero(same)
        if len(pairs) > _SPARSE_PAIRS * same.size:
            same &= self._overlap(first[:, None], second[None], iou)
            return same
        row, column = np.divmod(pairs, len(second))
        same.reshape(-1)[pairs] = self._overlap(first[row], second[column], iou)
        return same

    def _overlap(self, first: Ints, second: Ints, iou: np.float32) -> npt.NDArray[np.bool_]:
        """IoU above the threshold, for broadcastable indices."""
        side = np.minimum(self.high[:, first], self.high[:, second])
        side -= np.maximum(self.low[:, first], self.low[:, second])
        np.maximum(side, np.float32(0), out=side)
        inter = side[0] * side[1]
        union = self.area[first] + self.area[second]
        union -= inter
        with np.errstate(invalid="ignore"):  # Two vanishing areas: NaN, which is not above.
            inter /= union
        return inter > iou


def _greedy(removes: npt.NDArray[np.bool_]) -> Ints:
    """Greedy suppression as the fixpoint of "no kept earlier box removes me".

    Each pass settles at least the first box that is not settled yet, so the fixpoint is the greedy
    result; real frames take a few passes. From bool [n, n], strictly upper triangular, to indices.
    """
    keep = np.ones(len(removes), np.bool_)
    while True:
        again = np.logical_not(removes[keep].any(axis=0))
        if np.array_equal(again, keep):
            return np.flatnonzero(keep)
        keep = again


def nms(
    boxes: npt.ArrayLike,
    class_id: npt.ArrayLike | None,
    iou_threshold: float,
    max_detections: int | None = None,
) -> Ints:
    """Greedy non-maximum suppression of boxes that come best first (steps 4 and 5).

    Args:
        boxes: float32 [n, 4], x1 y1 x2 y2, none of them empty, best first.
        class_id: Integers [n]: only boxes of the same class remove each other. None: all do.
        iou_threshold: A box is removed if its IoU with a kept, earlier one is above this.
        max_detections: Stop after this many.

    Returns:
        Ascending indices of the kept boxes, int64.
    """
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    limit = len(boxes) if max_detections is None else max_detections
    iou = np.float32(iou_threshold)
    low = np.ascontiguousarray(boxes[:, :2].T)
    high = np.ascontiguousarray(boxes[:, 2:].T)
    side = high - low
    group = None if class_id is None else np.asarray(class_id, np.int32)
    table = _Boxes(low, high, side[0] * side[1], group)
    kept = np.empty(0, np.int64)
    open_ = np.empty(0, np.int64)  # Taken up, and not removed by anything kept so far.
    taken = 0
    # Best first. Boxes are compared with the kept ones before they are compared among themselves:
    # in crowded frames few are left by then. Ends as soon as enough are kept.
    while len(kept) < limit and (len(open_) or taken < len(boxes)):
        if len(open_) < _NMS_BLOCK and taken < len(boxes):
            fresh = np.arange(taken, min(taken + _NMS_INTAKE, len(boxes)))
            taken += len(fresh)
            if len(kept):
                fresh = fresh[~table.removes(kept, fresh, iou).any(axis=0)]
            open_ = np.concatenate([open_, fresh])
        block, rest = open_[:_NMS_BLOCK], open_[_NMS_BLOCK:]
        removes = table.removes(block, block, iou) & _LATER[: len(block), : len(block)]
        block = block[_greedy(removes)]
        kept = np.concatenate([kept, block])
        if len(kept) < limit:
            open_ = rest[~table.removes(block, rest, iou).any(axis=0)]
    return kept[:limit]


def check_heads(
    heads: Mapping[str, npt.NDArray[Any]] | Sequence[npt.NDArray[Any]], spec: ModelSpec
) -> list[npt.NDArray[Any]]:
    """The heads in the order of ``spec.output_names``, if their shapes fit the spec."""
    names = spec.output_names
    if isinstance(heads, Mapping):
        missing = [name for name in names if name not in heads]
        if missing:
            got = ", ".join(map(str, heads)) or "no output"
            raise InvalidValueError(f"output {missing[0]} is missing", got=got)
        heads = [heads[name] for name in names]
    if len(heads) != len(names):
        raise InvalidValueError(f"a detector has {len(names)} outputs", got=len(heads))
    arrays = [np.asarray(head) for head in heads]
    batch = arrays[0].shape[0] if arrays[0].ndim else 0
    for head, (name, shape) in zip(arrays, output_shapes(spec, False).items(), strict=True):
        if head.shape != (batch, *shape):
            what = f"output {name} does not fit the model's spec: expected {[batch, *shape]}"
            raise InvalidValueError(what, got=list(head.shape))
    return arrays


def decode_and_suppress(
    heads: Sequence[npt.NDArray[Any]], spec: ModelSpec, classes: Ints | None = None
) -> Candidates:
    """All five steps for one image: the kept candidates, best first.

    Args:
        heads: cls [K, H, W] of each level, then reg [4, H, W] of each level.
        spec: Gives thresholds, scale and sizes.
        classes: Ascending class ids to look for; all by default.
    """
    count = len(spec.strides)
    levels = [decode_level(heads[i], heads[count + i], spec, i, classes) for i in range(count)]
    logits, boxes, class_id = map(np.concatenate, zip(*levels, strict=True))
    # Stable: equal logits stay in level order, and within a level in its own.
    order = np.argsort(-logits, kind="stable")
    boxes, class_id = boxes[order], class_id[order]
    group = None if spec.class_agnostic else class_id
    keep = nms(boxes, group, spec.nms_iou, spec.max_detections)
    return Candidates(logits[order[keep]], boxes[keep], class_id[keep])


@cache
def _native() -> HostLibrary | None:
    """The native code; without it one warning line, and None."""
    try:
        return host()
    except NativeMissingError as error:
        logging.getLogger("trt_afdet").warning("%s; postprocessing runs in NumPy, slower", error)
        return None


def _candidates(
    arrays: Sequence[npt.NDArray[Any]], spec: ModelSpec, wanted: Ints | None
) -> list[Rows]:
    """What is found in each image: by native code side by side, or by NumPy."""
    library = _native()
    if library is None:
        images = [decode_and_suppress(image, spec, wanted) for image in zip(*arrays, strict=True)]
        return [(found.boxes, sigmoid(found.logits), found.class_id) for found in images]
    threads = min(len(arrays[0]), os.cpu_count() or 1) or 1
    ids = None if wanted is None else wanted.tolist()
    counts, *rest = library.detect(arrays, spec, threads=threads, wanted=ids)
    return [tuple(array[i, :n].copy() for array in rest) for i, n in enumerate(counts[:, 0])]


def postprocess(
    heads: Mapping[str, npt.NDArray[Any]] | Sequence[npt.NDArray[Any]],
    spec: ModelSpec,
    letterboxes: Sequence[Letterbox] | None = None,
    classes: Sequence[int] | None = None,
) -> list[Detections]:
    """A batch of heads to detections, best first.

    Args:
        heads: The ten outputs, by name or in the order of ``spec.output_names``:
            cls floating [N, K, H, W] of raw logits, reg floating [N, 4, H, W] of distances.
        spec: Gives thresholds, scale and sizes.
        letterboxes: Placement of each frame. With it boxes are in pixels of the frame, and one
            that lies in the border altogether is left out; without it they are in input pixels.
        classes: Class ids to look for; all by default.

    Raises:
        InvalidValueError: If shapes do not fit the spec.
    """
    arrays = check_heads(heads, spec)
    wanted = None if classes is None else np.unique(np.asarray(classes, np.int64))
    return _placed(_candidates(arrays, spec, wanted), spec, letterboxes)


def from_outputs(
    outputs: Sequence[npt.NDArray[Any]],
    spec: ModelSpec,
    letterboxes: Sequence[Letterbox] | None = None,
    classes: Sequence[int] | None = None,
    *,
    above: float | None = None,
) -> list[Detections]:
    """A batch of a network's own detections, of one that ends in NMS.

    Args:
        outputs: In the order of :data:`trt_afdet.interface.DETECTION_NAMES`: how many int [N, 1],
            boxes floating [N, M, 4] x1 y1 x2 y2 in input pixels, scores floating [N, M], class ids
            int [N, M]; best first.
        spec: Gives the class names and the maximum, which may be lower than M.
        letterboxes: See :func:`postprocess`.
        classes: Class ids to leave; all by default.
        above: Leave only those of a higher confidence.

    Raises:
        InvalidValueError: If the outputs do not fit each other, or count rows that are not there.
    """
    arrays = [np.asarray(output) for output in outputs]
    scores = arrays[2] if len(arrays) == 4 else np.empty(0)
    batch, most = scores.shape if scores.ndim == 2 else (-1, -1)
    shapes = [array.shape for array in arrays]
    if shapes != [(batch, 1), (batch, most, 4), (batch, most), (batch, most)]:
        what = "detections must be [N, 1], [N, M, 4], [N, M] and [N, M]"
        raise InvalidValueError(what, got=shapes or "no output")
    counts = arrays[0][:, 0]
    if np.any((counts < 0) | (counts > most)):
        raise InvalidValueError(f"num_detections must be within 0..{most}", got=counts.tolist())
    results = []
    for image, count in enumerate(counts):
        boxes, confidence, class_id = (array[image, :count] for array in arrays[1:])
        wanted = np.ones(count, np.bool_)
        if above is not None:
            wanted &= confidence > np.float32(above)
        if classes is not None:
            wanted &= np.isin(class_id, classes)
        rows = np.flatnonzero(wanted)[: spec.max_detections]
        results.append((boxes[rows], confidence[rows], class_id[rows]))
    return _placed(results, spec, letterboxes)


def _placed(
    found: Sequence[Rows], spec: ModelSpec, letterboxes: Sequence[Letterbox] | None
) -> list[Detections]:
    """Detections in the frames' pixels, without those beside the frame."""
    results = []
    for image, (boxes, confidence, class_id) in enumerate(found):
        if letterboxes is not None:
            boxes = letterboxes[image].to_frame(boxes)
            inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
            if not inside.all():
                boxes, confidence, class_id = boxes[inside], confidence[inside], class_id[inside]
        results.append(Detections(boxes, confidence, class_id, spec.class_names))
    return results
