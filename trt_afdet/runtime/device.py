"""The GPU as the runtime needs it: memory, pinned host memory, streams, events, graphs.

A small interface with two implementations, over pycuda and over cuda-python. Handles and addresses
are plain integers, as TensorRT and the CUDA library take them. Both use the device's
primary context, which the CUDA runtime inside those shares.

A refusal of the driver becomes a :class:`trt_afdet.native.NativeError`, with advice, in one place.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from trt_afdet.native import NativeError, check_status

Bytes = npt.NDArray[np.uint8]
_Made = TypeVar("_Made")

#: AFDET_ERROR_CUDA: CUDA's error e is status this + e.
_CUDA_STATUS = 1000

#: The address of the first row, and the bytes from one row to the next.
Rows = tuple[int, int]

#: Every piece of a larger block starts at a multiple of this, which all kernels are content with.
ALIGNMENT = 256


class Device(Protocol):
    """One GPU. Every method may be called from any thread inside ``with device.active():``, which
    may be nested.

    Work is queued on streams; nothing waits for the device but the ``synchronize`` methods. Host
    arrays in copies are contiguous and, for the copy not to wait, pinned. Sizes are in bytes.

    Attributes:
        name: Of the GPU.
        index: Among the machine's GPUs.
        compute_capability: Such as (8, 7).
        library: The Python package behind it, with its version.
        has_graphs: Whether work can be captured in a graph.
        dlpack_type: Device type that DLPack gives its memory: 2 is CUDA.
    """

    name: str
    index: int
    compute_capability: tuple[int, int]
    library: str
    has_graphs: bool
    dlpack_type: int

    def active(self) -> AbstractContextManager[None]:
        """Makes the device current in this thread."""

    def memory(self) -> tuple[int, int]:
        """Free and total device memory."""

    def allocate(self, size: int) -> int:
        """The address of device memory, 256-byte aligned."""

    def allocate_pinned(self, size: int) -> Bytes:
        """Page-locked host memory, uint8 [size]."""

    def create_stream(self) -> int:
        """A cudaStream_t that does not wait for the default stream."""

    def create_event(self) -> int:
        """A cudaEvent_t that knows its time."""

    def record(self, event: int, stream: int) -> None:
        """The event happens when everything queued on the stream so far is done."""

    def wait(self, stream: int, event: int) -> None:
        """Work queued on the stream from now on starts after the event."""

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds between two events that have happened."""

    def copy_in(self, target: int, source: Bytes, stream: int) -> None:
        """Queues a copy from the host to the device."""

    def copy_out(self, target: Bytes, source: int, stream: int) -> None:
        """Queues a copy from the device to the host."""

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Queues a copy on the device."""

    def copy_rows(self, target: Rows, source: Rows, row_bytes: int, rows: int, stream: int) -> None:
        """Queues a copy of rows on the device."""

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """Records what ``work`` queues on the stream, instead of running it; returns a graph."""

    def launch(self, graph: int, stream: int) -> None:
        """Queues a graph."""

    def synchronize(self, stream: int) -> None:
        """Waits until everything queued on the stream is done."""

    def free_pinned(self, array: Bytes) -> None:
        """Takes back what :meth:`allocate_pinned` gave; it must not be touched any more."""

    def free(self, address: int) -> None: ...
    def synchronize_event(self, event: int) -> None: ...
    def destroy_stream(self, stream: int) -> None: ...
    def destroy_event(self, event: int) -> None: ...
    def destroy_graph(self, graph: int) -> None: ...

    def close(self) -> None:
        """Releases the device; free its memory before. Twice is fine."""


class Resources:
    """Everything one user of a device allocated, freed together."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._stack = ExitStack()

    def _keep(self, made: _Made, free: Callable[[_Made], None]) -> _Made:
        self._stack.callback(free, made)
        return made

    def memory(self, size: int) -> int:
        """Device memory; its address."""
        return self._keep(self.device.allocate(max(size, 1)), self.device.free)

    def pinned(self, size: int) -> Bytes:
        """Page-locked host memory, uint8 [size]."""
        return self._keep(self.device.allocate_pinned(max(size, 1)), self.device.free_pinned)

    def stream(self) -> int:
        return self._keep(self.device.create_stream(), self.device.destroy_stream)

    def event(self) -> int:
        return self._keep(self.device.create_event(), self.device.destroy_event)

    def close(self) -> None:
        """Frees all, the latest first; twice is fine."""
        with self.device.active():
            self._stack.close()


def aligned(size: int) -> int:
    """The size rounded up so that another piece can follow."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def cuda_error(code: int, action: str) -> NativeError:
    """The error for a CUDA error code other than 0, runtime's and driver's being alike."""
    try:
        check_status(_CUDA_STATUS + code, action)
    except NativeError as error:
        return error
    raise AssertionError(code)
