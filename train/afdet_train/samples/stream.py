"""From a dataset on disk to training batches.

The samples of a run form one endless stream. Position q holds picture q % n of permutation
number q // n, and every random choice about it derives from (seed, q). A batch is a slice of the
stream, so a run can stop at any iteration, use any number of workers or ranks, and continue
bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset
from torchvision import tv_tensors

from afdet_train.config import Recipe
from afdet_train.samples.augment import (
    FillingWindow,
    RandomWindow,
    geometric,
    photometric,
    uniform,
)
from afdet_train.samples.boxes import Boxes
from afdet_train.samples.copy_paste import CopyPaste, Truth
from trt_afdet.datasets import Dataset, Record
from trt_afdet.errors import CorruptFileError, InvalidValueError, MissingFileError
from trt_afdet.preprocess import letterbox
from trt_afdet.spec import ModelSpec


@dataclass(frozen=True)
class Sample:
    """One training picture.

    Attributes:
        image: uint8 [H, W, 3], letterboxed, in the spec's channel order.
        boxes: Ground truth.
        ignored: Crowds and difficult objects: neither targets nor background of their class.
        name: The picture's file, for messages.
        broken: Unreadable files that this picture replaces.
    """

    image: Tensor
    boxes: Boxes
    ignored: Boxes
    name: str
    broken: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """The samples of one step; ``images`` is uint8 [N, H, W, 3]."""

    images: Tensor
    boxes: Boxes
    ignored: Boxes
    names: list[str]
    broken: tuple[str, ...] = ()

    def pin_memory(self) -> Batch:
        return dataclasses.replace(
            self,
            images=self.images.pin_memory(),
            boxes=self.boxes.pin_memory(),
            ignored=self.ignored.pin_memory(),
        )


def collate(samples: list[Sample]) -> Batch:
    return Batch(
        torch.stack([s.image for s in samples]),
        Boxes.collate([s.boxes for s in samples]),
        Boxes.collate([s.ignored for s in samples]),
        [s.name for s in samples],
        tuple(name for s in samples for name in s.broken),
    )


def position_seed(seed: int, position: int) -> int:
    """A well-mixed 63-bit seed for one position of the stream."""
    return int(np.random.SeedSequence([seed, position]).generate_state(1, np.uint64)[0] >> 1)


class TrainingPictures(TorchDataset[Sample]):
    """Pictures with augmentation, addressed by position in the stream."""

    def __init__(self, dataset: Dataset, recipe: Recipe, spec: ModelSpec) -> None:
        if not len(dataset.records):
            raise InvalidValueError("the training data has no pictures", got=dataset.name)
        if dataset.is_video:
            raise InvalidValueError(
                "training needs pictures, this data is a video",
                got=dataset.name,
                hint="its frames cannot be read in random order; save them as pictures",
            )
        self.dataset = dataset
        self.spec = spec
        self.seed = recipe.train.seed
        self.min_side = recipe.data.min_side
        self.config = recipe.augment
        self.geometric = geometric(recipe.augment, RandomWindow(recipe.augment, spec.pad_value))
        self.photometric = photometric(recipe.augment)
        self.copy_paste = CopyPaste(dataset, recipe.augment.copy_paste)
        # From this position on, no mosaics.
        total = recipe.train.total_iterations(len(dataset)) * recipe.train.batch_size
        self._mosaics_end = round(total * recipe.augment.mosaic_until)
        self._round = -1
        self._order: Tensor | None = None

    def _index(self, position: int) -> int:
        count = len(self.dataset.records)
        if self._order is None or position // count != self._round:
            self._round = position // count
            generator = torch.Generator().manual_seed(position_seed(self.seed + 1, self._round))
            self._order = torch.randperm(count, generator=generator)
        return int(self._order[position % count])

    def __getitem__(self, position: int) -> Sample:
        broken: list[str] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(position_seed(self.seed, position))
            indices, tiles = [self._index(position)], [(0, 0, self.spec.height, self.spec.width)]
            share = self.config.mosaic if position < self._mosaics_end else 0.0
            mosaic = share > 0 and float(torch.rand(())) < share
            if mosaic:
                indices += torch.randint(len(self.dataset), (3,)).tolist()
                tiles = _quarters(self.spec.height, self.spec.width)
            canvas = np.empty((self.spec.height, self.spec.width, 3), np.uint8)
            targets: list[Boxes] = []
            ignored: list[Boxes] = []
            read = [self._read(index, broken) for index in indices]
            for (record, frame), (top, left, height, width) in zip(read, tiles, strict=True):
                shown = canvas[top : top + height, left : left + width]
                found = self._place(record, frame, shown, mosaic=mosaic)
                corner = torch.tensor([left, top] * 2)
                for boxes, one in zip((targets, ignored), found, strict=True):
                    boxes.append(dataclasses.replace(one, xyxy=one.xyxy + corner))
            coloured = self.photometric(tv_tensors.Image(torch.from_numpy(canvas).permute(2, 0, 1)))
        return Sample(
            image=coloured.as_subclass(torch.Tensor).permute(1, 2, 0).contiguous(),
            boxes=Boxes.merge(targets),
            ignored=Boxes.merge(ignored),
            name=" + ".join(str(record.path) for record, _ in read),
            broken=tuple(broken),
        )

    def _read(self, index: int, broken: list[str]) -> tuple[Record, np.ndarray]:
        """The picture, or the next one that can be read.

        Opening the data read all pictures. A picture that breaks later does not end the run.
        """
        count = len(self.dataset.records)
        for step in range(count):
            record = self.dataset.records[(index + step) % count]
            try:
                return record, self.dataset.read_image(record)
            except (CorruptFileError, MissingFileError) as error:
                broken.append(str(record.path))
                last = error
        raise last

    def _place(
        self, record: Record, frame: np.ndarray, shown: np.ndarray, *, mosaic: bool
    ) -> tuple[Boxes, Boxes]:
        """Draws an augmented picture into ``shown``, the input [H, W, 3] or a mosaic's tile.

        Returns:
            Its targets and its regions to ignore, in the pixels of ``shown``.
        """
        # VOC's difficult objects and COCO's crowds are not training targets.
        frame, targets = self.copy_paste(record, frame)
        ignored = Truth.of(record, np.flatnonzero(record.ignored))
        if self.spec.color_order == "RGB":
            frame = np.ascontiguousarray(frame[:, :, ::-1])
        image = tv_tensors.Image(torch.from_numpy(frame).permute(2, 0, 1))
        height, width = shown.shape[:2]
        change = self.geometric
        if mosaic:
            window = FillingWindow(self.config, self.spec.pad_value, (height, width))
            change = geometric(self.config, window)
        # The first boxes are those that a box-safe window keeps.
        image, *truths = change(
            image, *(_bounding_boxes(objects.boxes, frame) for objects in (targets, ignored))
        )
        view = image.permute(1, 2, 0).contiguous().numpy()
        shown[...], letterboxed = letterbox(view, height, width, self.spec.pad_value)
        placed = []
        for truth, objects, visible, side in zip(
            truths,
            (targets, ignored),
            (self.config.min_visible, 0.0),
            (self.min_side, 0.0),
            strict=True,
        ):
            whole = truth.as_subclass(torch.Tensor)
            limit = torch.tensor([view.shape[1], view.shape[0]] * 2, dtype=torch.float32)
            clipped = torch.minimum(whole.clamp(min=0), limit)
            area = (whole[:, 2:] - whole[:, :2]).prod(dim=1)
            left = (clipped[:, 2:] - clipped[:, :2]).clamp(min=0).prod(dim=1)
            inside = torch.from_numpy(letterboxed.to_input(clipped.numpy())).reshape(-1, 4)
            sides = inside[:, 2:] - inside[:, :2]
            keep = (left > 0) & (left >= visible * area) & (sides >= side).all(dim=1)
            labels, scores = map(torch.from_numpy, (objects.labels, objects.scores))
            placed.append(Boxes.of_image(inside, labels, scores).select(keep))
        return placed[0], placed[1]


def _quarters(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Top, left, height and width of the four tiles around a random point."""
    y, x = (round(side * uniform(0.3, 0.7)) for side in (height, width))
    rows, columns = ((0, y), (y, height - y)), ((0, x), (x, width - x))
    return [(top, left, h, w) for top, h in rows for left, w in columns]


def _bounding_boxes(boxes: np.ndarray, frame: np.ndarray) -> tv_tensors.BoundingBoxes:
    # Boxes are clamped last, because the visible share of each box is needed before.
    return tv_tensors.BoundingBoxes(  # type: ignore[call-arg]
        torch.from_numpy(np.ascontiguousarray(boxes, np.float32)).reshape(-1, 4),
        format=tv_tensors.BoundingBoxFormat.XYXY,
        canvas_size=frame.shape[:2],
        clamping_mode=None,
    )


class StreamBatches(Sampler[list[int]]):
    """Positions of this rank's share of each batch, from ``start`` to ``stop`` (iterations)."""

    def __init__(self, start: int, stop: int, batch_size: int, rank: int, world: int) -> None:
        self.start, self.stop = start, stop
        self.batch_size = batch_size
        self.share = batch_size // world
        self.rank = rank

    def __iter__(self) -> Iterator[list[int]]:
        for iteration in range(self.start, self.stop):
            first = iteration * self.batch_size + self.rank * self.share
            yield list(range(first, first + self.share))

    def __len__(self) -> int:
        return max(0, self.stop - self.start)


def _single_thread(_: int) -> None:
    # Workers run during the training step, so each uses one thread to leave it the cores.
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def batches(
    pictures: TrainingPictures, recipe: Recipe, start: int, stop: int, rank: int, world: int
) -> DataLoader[Batch]:
    """A loader of batches ``start`` to ``stop`` of the stream."""
    workers = recipe.data.workers
    loader: DataLoader[Any] = DataLoader(
        pictures,
        batch_sampler=StreamBatches(start, stop, recipe.train.batch_size, rank, world),
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_single_thread,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="forkserver" if workers else None,
    )
    return loader
