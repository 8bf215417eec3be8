"""The ground truth of pictures as flat tensors, from the sample to the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Boxes:
    """The boxes of a batch, image after image; G boxes in all.

    Attributes:
        xyxy: float32 [G, 4], input pixels.
        labels: int64 [G], class index.
        image: int64 [G], index of the image in the batch.
        scores: float32 [G], within 0..1, how sure each label is.
        batch_size: Number of images.
    """

    xyxy: Tensor
    labels: Tensor
    image: Tensor
    scores: Tensor
    batch_size: int

    @classmethod
    def of_image(cls, xyxy: Tensor, labels: Tensor, scores: Tensor | None = None) -> Boxes:
        """The boxes [G, 4], labels [G] and scores [G] (1 by default) of one image."""
        image = torch.zeros(len(xyxy), dtype=torch.long)
        scores = torch.ones(len(xyxy)) if scores is None else scores.float()
        return cls(xyxy.float().reshape(-1, 4), labels.long(), image, scores, 1)

    @classmethod
    def collate(cls, parts: Sequence[Boxes]) -> Boxes:
        """Concatenates batches."""
        starts = [0]
        for part in parts:
            starts.append(starts[-1] + part.batch_size)
        return cls(
            xyxy=torch.cat([p.xyxy for p in parts]),
            labels=torch.cat([p.labels for p in parts]),
            image=torch.cat([p.image + start for p, start in zip(parts, starts, strict=False)]),
            scores=torch.cat([p.scores for p in parts]),
            batch_size=starts[-1],
        )

    @classmethod
    def merge(cls, parts: Sequence[Boxes]) -> Boxes:
        """The boxes of several batches of one image each, as one image."""
        joined = cls.collate(parts)
        return cls.of_image(joined.xyxy, joined.labels, joined.scores)

    def __len__(self) -> int:
        return len(self.xyxy)

    def select(self, keep: Tensor) -> Boxes:
        """Some of the boxes, by a mask [G] or by indices."""
        return self._map(lambda tensor: tensor[keep])

    def to(self, device: torch.device) -> Boxes:
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Boxes:
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Boxes:
        tensors = map(change, (self.xyxy, self.labels, self.image, self.scores))
        xyxy, labels, image, scores = tensors
        return Boxes(xyxy, labels, image, scores, self.batch_size)

    def rois(self) -> Tensor:
        """float32 [G, 5], image index and x1 y1 x2 y2, for ``roi_align``."""
        return torch.cat([self.image[:, None].to(self.xyxy.dtype), self.xyxy], dim=1)
