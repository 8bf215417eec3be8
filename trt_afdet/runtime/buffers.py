"""The memory of one batch on its way through a device."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trt_afdet.native import FrameDescriptor
from trt_afdet.runtime.device import Bytes, Resources, aligned


class TensorInfo(NamedTuple):
    """One input or output of a network: its type as NumPy calls it, its shape without the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def bytes(self, batch: int) -> int:
        return batch * math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Block(NamedTuple):
    """A batch's tensors side by side in one piece of memory: where each starts, and its size."""

    batch: int
    offsets: dict[TensorInfo, int]
    size: int

    @classmethod
    def of(cls, infos: Sequence[TensorInfo], batch: int) -> Block:
        *offsets, size = accumulate((aligned(info.bytes(batch)) for info in infos), initial=0)
        return cls(batch, dict(zip(infos, offsets, strict=True)), size)

    def arrays(self, memory: Bytes) -> dict[str, npt.NDArray[Any]]:
        """Views of a host copy of the block, by name."""
        views = {}
        for info, offset in self.offsets.items():
            piece = memory[offset : offset + info.bytes(self.batch)]
            views[info.name] = piece.view(info.dtype).reshape((self.batch, *info.shape))
        return views


class Slot:
    """The memory and events of one batch: its frames going in, its results coming out.

    Attributes:
        frames, staging: Device memory of the frames, and pinned memory that they pass through.
        descriptors, descriptors_host: Of the frames: where each lies and goes.
        results, results_host: Device memory of the results, and pinned memory for them.
        started, uploaded, computed, downloaded: Events, also all as ``events``.
    """

    def __init__(self, resources: Resources, index: int, batch: int, result_bytes: int) -> None:
        self.index = index
        self._room = Resources(resources.device)
        self.descriptors_host = resources.pinned(batch * ctypes.sizeof(FrameDescriptor))
        self.descriptors = resources.memory(batch * ctypes.sizeof(FrameDescriptor))
        self.results_host = resources.pinned(result_bytes)
        self.results = resources.memory(result_bytes)
        self.events = tuple(resources.event() for _ in range(4))
        self.started, self.uploaded, self.computed, self.downloaded = self.events
        self.staging: Bytes = np.empty(0, np.uint8)
        self.frames = 0

    def reserve(self, size: int) -> None:
        """Makes room for frames; the slot must be idle."""
        if size > len(self.staging):
            self.release()
            self.frames = self._room.memory(size)
            self.staging = self._room.pinned(size)

    def release(self) -> None:
        """Frees the frames' room."""
        self.frames, self.staging = 0, np.empty(0, np.uint8)
        self._room.close()
