"""What every dataset format is read into: pictures with boxes, in pixels, as plain NumPy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_afdet.datasets.checks import NAMES_SHOWN, Report
from trt_afdet.datasets.find import same_name
from trt_afdet.errors import CorruptFileError, InvalidValueError
from trt_afdet.media import FrameReader


@dataclass(frozen=True)
class Record:
    """One picture, or one frame of a video, with its truth.

    Attributes:
        path: The picture's or the video's file.
        image_id: Unique within the dataset.
        width, height: In pixels.
        boxes: float32 [N, 4], x1 y1 x2 y2 in pixels, inside the picture, never empty.
        labels: int64 [N], class index.
        difficult: bool [N]: objects that VOC's rules leave out.
        crowd: bool [N]: COCO's groups of uncounted objects.
        area: float64 [N], in square pixels: of the mask if the format says, else of the box.
        scores: float32 [N], within 0..1: how sure the label is; 1 unless the format says.
        segmentations: N COCO segmentations (polygons or RLE), None where one is missing.
        frame_index: Which frame of the video, from 0; None for a picture.
    """

    path: Path
    image_id: int
    width: int
    height: int
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    difficult: npt.NDArray[np.bool_]
    crowd: npt.NDArray[np.bool_]
    area: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float32]
    segmentations: tuple[Any, ...]
    frame_index: int | None = None

    @property
    def ignored(self) -> npt.NDArray[np.bool_]:
        """bool [N]: objects that are neither training targets nor missed if not found."""
        return self.difficult | self.crowd

    def check_size(self, frame: npt.NDArray[np.uint8]) -> None:
        """Raises CorruptFileError if boxes were drawn on a picture of another size."""
        if frame.shape[:2] != (self.height, self.width):
            size, said = f"{frame.shape[1]}x{frame.shape[0]}", f"{self.width}x{self.height}"
            what = f"{self.path} is {size}, its annotations say {said}"
            hint = "was the picture changed after it was annotated?"
            raise CorruptFileError(what, hint=hint)

    @classmethod
    def build(
        cls,
        path: Path,
        image_id: int,
        width: int,
        height: int,
        boxes: npt.NDArray[np.float32],
        labels: npt.ArrayLike,
        *,
        difficult: npt.ArrayLike | None = None,
        crowd: npt.ArrayLike | None = None,
        area: npt.ArrayLike | None = None,
        scores: npt.ArrayLike | None = None,
        segmentations: list[Any] | None = None,
        frame_index: int | None = None,
    ) -> Record:
        """A record with the defaults of formats that know less."""
        count = len(boxes)
        sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
        return cls(
            path=path,
            image_id=image_id,
            width=width,
            height=height,
            boxes=boxes,
            labels=np.asarray(labels, np.int64).reshape(count),
            difficult=np.asarray(np.zeros(count) if difficult is None else difficult, bool),
            crowd=np.asarray(np.zeros(count) if crowd is None else crowd, bool),
            area=sides.prod(axis=1) if area is None else np.asarray(area, np.float64),
            scores=np.asarray(np.ones(count) if scores is None else scores, np.float32),
            segmentations=tuple(segmentations or [None] * count),
            frame_index=frame_index,
        )

    def keep(self, mask: npt.NDArray[np.bool_], labels: npt.NDArray[np.int64]) -> Record:
        """The objects of a mask, bool [N], with new class indices, int64 [N]."""
        kept = zip(self.segmentations, mask.tolist(), strict=True)
        return dataclasses.replace(
            self,
            boxes=self.boxes[mask],
            labels=labels[mask],
            difficult=self.difficult[mask],
            crowd=self.crowd[mask],
            area=self.area[mask],
            scores=self.scores[mask],
            segmentations=tuple(s for s, keep in kept if keep),
        )


@dataclass(frozen=True)
class Dataset:
    """Pictures with truth.

    Attributes:
        name: Where it came from, for messages.
        class_names: The index is the class index.
        records: In the order of the files.
        category_ids: COCO category id of each class index.
        report: What reading repaired or dropped.
    """

    name: str
    class_names: tuple[str, ...]
    records: tuple[Record, ...]
    category_ids: tuple[int, ...]
    report: Report = field(default_factory=Report)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def is_video(self) -> bool:
        return any(r.frame_index is not None for r in self.records)

    def check_labels(self) -> None:
        """Raises InvalidValueError if no picture has a label."""
        if not any(len(record.boxes) for record in self.records):
            hint = "; ".join(self.report.lines()) or None
            raise InvalidValueError("no picture has a label", got=self.name, hint=hint)

    def head(self, count: int) -> Dataset:
        """``count`` records spread evenly over the whole."""
        if count >= len(self.records):
            return self
        picks = np.linspace(0, len(self.records) - 1, count).round().astype(int)
        return dataclasses.replace(self, records=tuple(self.records[i] for i in picks))

    def select(self, pattern: str) -> Dataset:
        """Only the records whose file name matches a shell pattern such as ``coco_*``.

        Raises:
            InvalidValueError: If there are none.
        """
        kept = tuple(r for r in self.records if fnmatchcase(r.path.name, pattern))
        if not kept:
            raise InvalidValueError(
                f"no picture of {self.name} matches", got=pattern, hint="such as 'coco_*'"
            )
        return dataclasses.replace(self, records=kept)

    def merge_classes(self, groups: Mapping[str, Sequence[str]]) -> Dataset:
        """The same with several classes as one: ``{"vehicle": ("car", "bus", "truck")}``.

        A merged class takes the place of its first member; the other classes stay.

        Raises:
            InvalidValueError: If a member is not a class of the data or belongs to two groups, or
                the name of a group is taken.
        """
        new = {name: name for name in self.class_names}
        for group, members in groups.items():
            for member in members:
                if new.get(member) != member:
                    raise InvalidValueError(
                        f"cannot merge {member!r} into {group!r}",
                        got="a class of two groups" if member in new else "no such class",
                        hint=f"{self.name} has {', '.join(self.class_names[:20])}",
                    )
                new[member] = group
            if group in self.class_names and group not in members:
                raise InvalidValueError(f"{self.name} already has a class", got=group)
        names = tuple(dict.fromkeys(new[name] for name in self.class_names))
        order = np.array([names.index(new[name]) for name in self.class_names], np.int64)
        first = [order.tolist().index(i) for i in range(len(names))]
        return dataclasses.replace(
            self,
            class_names=names,
            category_ids=tuple(self.category_ids[i] for i in first),
            records=tuple(dataclasses.replace(r, labels=order[r.labels]) for r in self.records),
        )

    def with_class_names(self, names: tuple[str, ...]) -> Dataset:
        """The same with these classes in this order; labels are matched by name.

        Raises InvalidValueError if the dataset has a class that is not among them.
        """
        if tuple(names) == self.class_names:
            return self
        unknown = [n for n in self.class_names if n not in names]
        if unknown:
            what = f"{self.name} has other classes than the model"
            got = f"only the data has {', '.join(map(repr, unknown[:5]))}"
            hint = f"the model has {', '.join(names[:20])}"
            raise InvalidValueError(what, got=got, hint=hint)
        order = np.array([names.index(n) for n in self.class_names], np.int64)
        records = tuple(dataclasses.replace(r, labels=order[r.labels]) for r in self.records)
        return dataclasses.replace(self, records=records)._renamed(names, self.class_names)

    def _renamed(self, names: tuple[str, ...], meant: Sequence[str | None]) -> Dataset:
        """With other class names; ``meant`` says which of them each of the old ones is."""
        pairs = zip(meant, self.category_ids, strict=True)
        ids = {names.index(name): i for name, i in pairs if name is not None}
        free = max(self.category_ids, default=0) + 1
        given = tuple(ids.get(i, free + i) for i in range(len(names)))
        return dataclasses.replace(self, class_names=tuple(names), category_ids=given)

    def for_model(self, names: tuple[str, ...]) -> Dataset:
        """The same with a model's classes in their order, to be scored against its detections.

        Classes are matched by name (by case only where nothing else differs). Objects of a class
        that the model lacks are left out and counted in the report; classes that only the model
        has have no objects. Raises InvalidValueError if the two share no class.
        """
        if tuple(names) == self.class_names:
            return self
        meant = [same_name(name, names) for name in self.class_names]
        used = sorted({label for r in self.records for label in r.labels.tolist()})
        used = used or list(range(len(meant)))
        if not any(meant[label] for label in used):
            shown = ", ".join(repr(self.class_names[label]) for label in used[:5])
            what = f"{self.name} and the model have no class in common"
            hint = f"the model has {', '.join(names[:20])}"
            raise InvalidValueError(what, got=f"the data has {shown}", hint=hint)
        order = np.array([-1 if n is None else names.index(n) for n in meant], np.int64)
        report = Report()
        report.merge(self.report)
        records = []
        for record in self.records:
            labels = order[record.labels]
            for label in record.labels[labels < 0].tolist():
                kind = "objects of classes that the model does not have left out"
                report.add(kind, repr(self.class_names[label]))
            records.append(record.keep(labels >= 0, labels))
        absent = [n for n in names if n not in meant]
        kind = "classes of the model are not in the data, their AP is not known"
        report.note(kind, ", ".join(absent[:NAMES_SHOWN]), len(absent))
        data = dataclasses.replace(self, records=tuple(records), report=report)
        return data._renamed(names, meant)

    def read_image(
        self, record: Record, videos: FrameReader | None = None
    ) -> npt.NDArray[np.uint8]:
        """A record's picture as BGR uint8 [H, W, 3]; ``videos`` reads the frames of videos.

        Raises:
            MissingFileError, CorruptFileError: If it cannot be read, or has another size than the
                annotations say.
        """
        frame = (videos or FrameReader()).read(record.path, record.frame_index)
        record.check_size(frame)
        return frame

    def frames(self) -> Iterator[tuple[Record, npt.NDArray[np.uint8]]]:
        """Every record with its picture, in order; a video is decoded once, front to back."""
        with FrameReader() as videos:
            for record in self.records:
                yield record, self.read_image(record, videos)
