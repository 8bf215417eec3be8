"""The memory of one batch on its way through a device."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trt_afdet.geometry import Letterbox
from trt_afdet.native import FrameDescriptor
from trt_afdet.runtime.device import Bytes, Device, Resources, aligned
from trt_afdet.runtime.device_array import byte_size
from trt_afdet.runtime.network import TensorInfo


class Block(NamedTuple):
    """Tensors side by side in one piece of memory."""

    infos: tuple[TensorInfo, ...]
    offsets: tuple[int, ...]
    size: int

    @classmethod
    def of(cls, infos: Sequence[TensorInfo], batch: int) -> Block:
        offsets, size = [], 0
        for info in infos:
            offsets.append(size)
            size += aligned(byte_size((batch, *info.shape), info.dtype))
        return cls(tuple(infos), tuple(offsets), size)

    def addresses(self, start: int) -> list[int]:
        return [start + offset for offset in self.offsets]

    def arrays(self, memory: Bytes, batch: int) -> dict[str, npt.NDArray[Any]]:
        """Views of a host copy of the block, by name."""
        views = {}
        for info, offset in zip(self.infos, self.offsets, strict=True):
            shape = (batch, *info.shape)
            piece = memory[offset : offset + byte_size(shape, info.dtype)]
            views[info.name] = piece.view(info.dtype).reshape(shape)
        return views


class Slot:
    """The memory and events of one batch: its frames going in, its results coming out.

    Attributes:
        frames, staging: Device memory of the frames, and pinned memory that they pass through.
        descriptors, descriptors_host: Of the frames: where each lies and goes.
        results, results_host: Device memory of the results, and pinned memory for them.
        started, uploaded, computed, downloaded: Events.
    """

    def __init__(self, resources: Resources, index: int, batch: int, result_bytes: int) -> None:
        self.index = index
        self._device: Device = resources.device
        self.descriptors_host = resources.pinned(batch * ctypes.sizeof(FrameDescriptor))
        self.descriptors = resources.memory(batch * ctypes.sizeof(FrameDescriptor))
        self.results_host = resources.pinned(result_bytes)
        self.results = resources.memory(result_bytes)
        self.started = resources.event()
        self.uploaded = resources.event()
        self.computed = resources.event()
        self.downloaded = resources.event()
        self.staging: Bytes = np.empty(0, np.uint8)
        self.frames = 0

    def reserve(self, size: int) -> None:
        """Makes room for frames; the slot must be idle."""
        if size > len(self.staging):
            self.release()
            self.frames = self._device.allocate(size)
            self.staging = self._device.allocate_pinned(size)

    def release(self) -> None:
        """Frees the frames' room."""
        frames, staging = self.frames, self.staging
        self.frames, self.staging = 0, np.empty(0, np.uint8)
        if frames:
            self._device.free(frames)
        if len(staging):
            self._device.free_pinned(staging)


def describe(descriptor: FrameDescriptor, address: int, box: Letterbox) -> None:
    """Fills in the descriptor of a BGR frame."""
    descriptor.planes[0], descriptor.planes[1] = address, None
    descriptor.pitches[0], descriptor.pitches[1] = box.frame_width * 3, 0
    descriptor.height, descriptor.width = box.frame_height, box.frame_width
    descriptor.format = descriptor.color = 0
    descriptor.top, descriptor.left = box.top, box.left
    descriptor.box_height, descriptor.box_width = box.height, box.width
