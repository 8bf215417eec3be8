"""Detections: the objects of one frame, as a struct of arrays."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from trt_afdet.errors import InvalidValueError
from trt_afdet.support.packages import missing

if TYPE_CHECKING:
    import supervision


class Detection(NamedTuple):
    """One object.

    Attributes:
        xyxy: x1, y1, x2, y2 in pixels.
        confidence: 0..1.
        class_id: Index into the model's class names.
        name: Class name.
        tracker_id: Number of its track; None if it has none.
    """

    xyxy: tuple[float, float, float, float]
    confidence: float
    class_id: int
    name: str
    tracker_id: int | None = None


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects of one frame, best first.

    ``detections[3]`` is one :class:`Detection`; a slice, a mask or an index array gives
    :class:`Detections`; iterating gives :class:`Detection` after :class:`Detection`.

    Attributes:
        xyxy: float32 [N, 4], x1 y1 x2 y2 in pixels of the frame.
        confidence: float32 [N], 0..1.
        class_id: int32 [N], index into ``class_names``.
        class_names: The model's class names.
        tracker_id: int64 [N], the number of each object's track, -1 for those without one; None if
            nothing tracks.

    Raises:
        InvalidValueError: If the arrays' lengths differ or a class id has no name.
    """

    xyxy: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    class_id: npt.NDArray[np.int32]
    class_names: tuple[str, ...]
    tracker_id: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "xyxy", np.asarray(self.xyxy, np.float32).reshape(-1, 4))
        object.__setattr__(self, "confidence", np.asarray(self.confidence, np.float32))
        object.__setattr__(self, "class_id", np.asarray(self.class_id, np.int32))
        object.__setattr__(self, "class_names", tuple(self.class_names))
        count = len(self.xyxy)
        if self.confidence.shape != (count,) or self.class_id.shape != (count,):
            got = f"{count}, {list(self.confidence.shape)}, {list(self.class_id.shape)}"
            what = "boxes, confidences and class ids must be equally many"
            raise InvalidValueError(what, got=got)
        if self.tracker_id is not None:
            object.__setattr__(self, "tracker_id", np.asarray(self.tracker_id, np.int64))
            if self.tracker_id.shape != (count,):
                what = f"{count} boxes need as many tracker ids"
                raise InvalidValueError(what, got=list(self.tracker_id.shape))
        if count and (self.class_id.min() < 0 or self.class_id.max() >= len(self.class_names)):
            what = f"class ids must be within 0..{len(self.class_names) - 1}"
            raise InvalidValueError(what, got=f"{self.class_id.min()}..{self.class_id.max()}")

    @classmethod
    def empty(cls, class_names: Sequence[str]) -> Detections:
        """No object at all."""
        none = np.empty(0, np.float32)
        return cls(none, none, np.empty(0, np.int32), tuple(class_names))

    def __len__(self) -> int:
        return len(self.xyxy)

    def __iter__(self) -> Iterator[Detection]:
        columns = (self.xyxy.tolist(), self.confidence.tolist(), self.class_id.tolist())
        for box, confidence, class_id, track in zip(*columns, self.tracks, strict=True):
            yield Detection(tuple(box), confidence, class_id, self.class_names[class_id], track)

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> Detection: ...

    @overload
    def __getitem__(self, index: slice | Sequence[Any] | npt.NDArray[Any]) -> Detections: ...

    def __getitem__(self, index: Any) -> Detection | Detections:
        if isinstance(index, (int, np.integer)):
            return next(iter(self[[int(index)]]))
        if not isinstance(index, slice):
            index = np.asarray(index)
            if index.size == 0:  # The dtype of an empty list does not say "indices".
                index = index.astype(np.intp)
        return Detections(
            self.xyxy[index],
            self.confidence[index],
            self.class_id[index],
            self.class_names,
            None if self.tracker_id is None else self.tracker_id[index],
        )

    @property
    def names(self) -> list[str]:
        """Class name of each detection."""
        return [self.class_names[i] for i in self.class_id.tolist()]

    @property
    def labels(self) -> list[str]:
        """A text for each detection: track, class name, confidence."""
        columns = zip(self.tracks, self.names, self.confidence.tolist(), strict=True)
        return [
            ("" if track is None else f"#{track} ") + f"{name} {confidence:.2f}"
            for track, name, confidence in columns
        ]

    @property
    def tracks(self) -> list[int | None]:
        """Number of each detection's track; None for those without one."""
        if self.tracker_id is None:
            return [None] * len(self)
        return [None if number < 0 else number for number in self.tracker_id.tolist()]

    def filter(
        self, classes: str | int | Iterable[str | int] | None = None, conf: float | None = None
    ) -> Detections:
        """Only the detections of some classes, from a confidence on.

        Args:
            classes: Names or ids; all by default.
            conf: Lowest confidence, 0..1.

        Raises:
            InvalidValueError: If a class is unknown, or ``conf`` is not within 0..1.
        """
        from trt_afdet.support.arguments import class_ids, fraction

        wanted = np.ones(len(self), bool)
        if classes is not None:
            wanted &= np.isin(self.class_id, class_ids(classes, self.class_names))
        if conf is not None:
            wanted &= self.confidence >= np.float32(fraction("conf", conf) or 0.0)
        return self[wanted]

    def to_dicts(self) -> list[dict[str, Any]]:
        """One JSON-able dict per detection: box (x1 y1 x2 y2), confidence, class_id, class.

        Where something tracks, also tracker_id (null for an object without a track). Pixels carry
        3 decimals and confidences 6, which is beyond what float32 networks mean.
        """
        return [
            {
                "box": [round(v, 3) for v in item.xyxy],
                "confidence": round(item.confidence, 6),
                "class_id": item.class_id,
                "class": item.name,
                **({} if self.tracker_id is None else {"tracker_id": item.tracker_id}),
            }
            for item in self
        ]

    def to_json(self) -> str:
        """:meth:`to_dicts` as one line of JSON."""
        return json.dumps(self.to_dicts(), ensure_ascii=False)

    def to_coco(
        self, image_id: int | str, category_ids: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """COCO results: one dict per detection with ``bbox`` as x, y, width, height in pixels.

        Args:
            image_id: Id of the picture in the ground truth.
            category_ids: Category of each class; class id + 1 by default, as COCO counts from 1.

        Raises:
            InvalidValueError: If ``category_ids`` does not hold one id per class.
        """
        if category_ids is None:
            category_ids = range(1, len(self.class_names) + 1)
        if len(category_ids) != len(self.class_names):
            what = f"category_ids must hold one id for each of {len(self.class_names)} classes"
            raise InvalidValueError(what, got=len(category_ids))
        return [
            {
                "image_id": image_id,
                "category_id": int(category_ids[item.class_id]),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": item.confidence,
            }
            for item in self
            for x1, y1, x2, y2 in [item.xyxy]
        ]

    def to_supervision(self) -> supervision.Detections:
        """The same as ``supervision.Detections``, with ``data["class_name"]``.

        Raises:
            MissingDependencyError: If supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise missing(error) from error
        return supervision.Detections(
            xyxy=self.xyxy.copy(),
            confidence=self.confidence.copy(),
            class_id=self.class_id.astype(int),
            tracker_id=None if self.tracker_id is None else self.tracker_id.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def draw(self, frame: Any, save: str | Path | None = None) -> npt.NDArray[np.uint8]:
        """A copy of the picture with boxes and labels on it.

        Args:
            frame: The picture, as a detector takes it: an array, a path, a PIL image ...
            save: Also writes it to this file; the suffix chooses the format.

        Returns:
            BGR uint8 [H, W, 3].

        Raises:
            InvalidValueError: If the picture is not usable, or the suffix is unknown.
        """
        from trt_afdet.draw import draw_boxes
        from trt_afdet.media.image_input import to_frame

        drawn = draw_boxes(to_frame(frame), self.xyxy, self.class_id, self.labels)
        if save is not None:
            from trt_afdet.media.writing import write_picture

            write_picture(Path(save), drawn)
        return drawn
