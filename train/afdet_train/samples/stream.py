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
from afdet_train.samples.augment import geometric, photometric
from afdet_train.samples.boxes import Boxes
from afdet_train.samples.copy_paste import CopyPaste
from trt_afdet.datasets import Dataset
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
        self.min_visible = recipe.augment.min_visible
        self.geometric = geometric(recipe.augment, spec.pad_value)
        self.photometric = photometric(recipe.augment)
        self.copy_paste = CopyPaste(dataset, recipe.augment.copy_paste)
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
        index = self._index(position)
        broken: list[str] = []
        # Opening the data read all pictures. A picture that breaks later does not end the run.
        while True:
            record = self.dataset.records[index]
            try:
                picture = self.dataset.read_image(record)
                break
            except (CorruptFileError, MissingFileError):
                broken.append(str(record.path))
                if len(broken) == len(self.dataset.records):
                    raise
                index = (index + 1) % len(self.dataset.records)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(position_seed(self.seed, position))
            # VOC's difficult objects and COCO's crowds are not training targets.
            frame, boxes, labels = self.copy_paste(record, picture)
            left_out = record.boxes[record.ignored], record.labels[record.ignored]
            sample = self._augment(frame, (boxes, labels), left_out, str(record.path))
        return dataclasses.replace(sample, broken=tuple(broken)) if broken else sample

    def _augment(
        self,
        frame: np.ndarray,
        targets: tuple[np.ndarray, np.ndarray],
        ignored: tuple[np.ndarray, np.ndarray],
        name: str,
    ) -> Sample:
        if self.spec.color_order == "RGB":
            frame = np.ascontiguousarray(frame[:, :, ::-1])
        image = tv_tensors.Image(torch.from_numpy(frame).permute(2, 0, 1))
        # The first boxes are those that a box-safe window keeps.
        image, *truths = self.geometric(
            image, *(_bounding_boxes(boxes, frame) for boxes, _ in (targets, ignored))
        )
        view = image.permute(1, 2, 0).contiguous().numpy()
        canvas, letterboxed = letterbox(
            view, self.spec.height, self.spec.width, self.spec.pad_value
        )
        placed = []
        for truth, (_, labels), visible, side in zip(
            truths, (targets, ignored), (self.min_visible, 0.0), (self.min_side, 0.0), strict=True
        ):
            whole = truth.as_subclass(torch.Tensor)
            limit = torch.tensor([view.shape[1], view.shape[0]] * 2, dtype=torch.float32)
            clipped = torch.minimum(whole.clamp(min=0), limit)
            area = (whole[:, 2:] - whole[:, :2]).prod(dim=1)
            left = (clipped[:, 2:] - clipped[:, :2]).clamp(min=0).prod(dim=1)
            inside = torch.from_numpy(letterboxed.to_input(clipped.numpy())).reshape(-1, 4)
            sides = inside[:, 2:] - inside[:, :2]
            keep = (left > 0) & (left >= visible * area) & (sides >= side).all(dim=1)
            placed.append(
                Boxes.of_image(inside[keep], torch.from_numpy(np.asarray(labels, np.int64))[keep])
            )
        coloured = self.photometric(tv_tensors.Image(torch.from_numpy(canvas).permute(2, 0, 1)))
        boxes, crowds = placed
        return Sample(
            image=coloured.as_subclass(torch.Tensor).permute(1, 2, 0).contiguous(),
            boxes=boxes,
            ignored=crowds,
            name=name,
        )


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
