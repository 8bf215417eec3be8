"""A device made of host memory, as hard on its user as a real one.

A stream is a list of closures. They run no sooner than something waits for them, or at moments that
a seeded dice chooses, on any stream whose waits are met: what a program forgot to wait for is then
not there yet, or overwritten already. Fresh memory is poisoned, freed memory is poisoned and every
access is checked to lie inside one allocation.
"""

from __future__ import annotations

import ctypes
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trt_afdet.errors import RunError
from trt_afdet.native import CudaLibrary, FrameDescriptor, NativeError
from trt_afdet.runtime.buffers import TensorInfo
from trt_afdet.runtime.device import ALIGNMENT, Bytes, Rows, cuda_error
from trt_afdet.spec import ModelSpec

Work = Callable[[], None]

POISON = 0xCD


class Mark(NamedTuple):
    """An event's record, or a wait for one, in a stream's list."""

    event: int
    number: int
    waits: bool


class HostDevice:
    """See :class:`trt_afdet.runtime.device.Device`.

    Args:
        seed: Of the dice; without one work runs as late as possible.
        limit: Bytes of device memory there are.

    Attributes:
        allocations: How many there were, device and pinned.
        launches: Graphs launched.
    """

    name = "host memory"
    index = 0
    compute_capability = (8, 7)
    library = "host_device"
    dlpack_type = 1

    def __init__(
        self, seed: int | None = None, *, limit: int = 1 << 32, has_graphs: bool = True
    ) -> None:
        self.has_graphs = has_graphs
        self.limit = limit
        self.allocations = 0
        self.launches = 0
        self.fail_with: int | None = None
        self.closed = False
        self._dice = None if seed is None else random.Random(seed)
        self._lock = threading.RLock()
        self._depth = threading.local()
        self._blocks: dict[int, Bytes] = {}
        self._holders: dict[int, Any] = {}
        self._pinned: dict[int, Bytes] = {}
        self._streams: dict[int, deque[Work | Mark]] = {}
        self._recorded: dict[int, int] = {}
        self._happened: dict[int, tuple[int, float]] = {}
        self._graphs: dict[int, list[Work]] = {}
        self._capturing: tuple[int, list[Work]] | None = None
        self._next_handle = 1000

    # Memory.

    @contextmanager
    def active(self) -> Iterator[None]:
        assert not self.closed, "the device is closed"
        self._depth.value = getattr(self._depth, "value", 0) + 1
        try:
            yield
        finally:
            self._depth.value -= 1

    def _check(self) -> None:
        assert getattr(self._depth, "value", 0) > 0, "the device is not active in this thread"
        assert not self.closed, "the device is closed"
        if self.fail_with is not None:
            raise cuda_error(self.fail_with, "the host device")

    def _not_while_capturing(self) -> None:
        if self._capturing is not None:
            raise cuda_error(900, "the host device")

    def memory(self) -> tuple[int, int]:
        return self.limit - sum(len(b) for b in self._blocks.values()), self.limit

    def allocate(self, size: int) -> int:
        with self._lock:
            self._check()
            self._not_while_capturing()
            if size > self.memory()[0]:
                raise cuda_error(2, f"allocating {size} bytes on the GPU")
            raw = np.full(size + ALIGNMENT, POISON, np.uint8)
            start = -raw.ctypes.data % ALIGNMENT
            block = raw[start : start + size]
            self._blocks[block.ctypes.data] = block
            self.allocations += 1
            return int(block.ctypes.data)

    def free(self, address: int) -> None:
        with self._lock:
            self._check()
            # As cudaFree does: everything queued is done first.
            self._finish_all()
            self._blocks.pop(address)[:] = POISON

    def allocate_pinned(self, size: int) -> Bytes:
        with self._lock:
            self._check()
            array = np.full(size, POISON, np.uint8)
            self._pinned[array.ctypes.data] = array
            self.allocations += 1
            return array

    def free_pinned(self, array: Bytes) -> None:
        with self._lock:
            self._check()
            self._finish_all()
            self._pinned.pop(array.ctypes.data)[:] = POISON

    def view(self, address: int, size: int) -> Bytes:
        """Device memory as an array; it must lie inside one allocation."""
        for start, block in self._blocks.items():
            if start <= address and address + size <= start + len(block):
                return block[address - start : address - start + size]
        raise AssertionError(f"{size} bytes at {address:#x} are not one allocation's")

    def held(self) -> list[int]:
        """Handles and addresses not given back."""
        return [*self._blocks, *self._pinned, *self._streams, *self._graphs]

    # Streams and events.

    def _handle(self) -> int:
        self._next_handle += 1
        return self._next_handle

    def create_stream(self) -> int:
        self._check()
        stream = self._handle()
        self._streams[stream] = deque()
        return stream

    def destroy_stream(self, stream: int) -> None:
        self._check()
        with self._lock:
            self._finish(stream)
            del self._streams[stream]

    def create_event(self) -> int:
        self._check()
        event = self._handle()
        self._recorded[event] = 0
        self._happened[event] = (0, 0.0)
        return event

    def destroy_event(self, event: int) -> None:
        self._check()
        del self._recorded[event]

    def record(self, event: int, stream: int) -> None:
        with self._lock:
            self._check()
            self._not_while_capturing()
            self._recorded[event] += 1
            self._put(stream, Mark(event, self._recorded[event], waits=False))

    def wait(self, stream: int, event: int) -> None:
        with self._lock:
            self._check()
            if stream not in self._streams:  # A consumer that reads host memory at once.
                self.synchronize_event(event)
            elif self._recorded[event]:
                self._put(stream, Mark(event, self._recorded[event], waits=True))

    def enqueue(self, stream: int, work: Work) -> None:
        """Queues what a kernel would do; captured if the stream is being captured."""
        with self._lock:
            self._check()
            if self._capturing is not None and self._capturing[0] == stream:
                self._capturing[1].append(work)
            else:
                self._put(stream, work)

    def _put(self, stream: int, item: Work | Mark) -> None:
        self._streams[stream].append(item)
        if self._dice is not None:
            for _ in range(self._dice.randrange(4)):
                self._step(self._dice.choice(list(self._streams)))

    def _step(self, stream: int) -> bool:
        """Runs a stream's next item, if what it waits for has happened."""
        queue = self._streams[stream]
        if not queue:
            return False
        item = queue[0]
        if isinstance(item, Mark):
            if item.waits and self._happened[item.event][0] < item.number:
                return False
            if not item.waits:
                self._happened[item.event] = (item.number, time.perf_counter())
            queue.popleft()
        else:
            queue.popleft()
            item()
        return True

    def _finish(self, stream: int) -> None:
        """Runs a stream to its end, and of others no more than it waits for."""
        while queue := self._streams[stream]:
            if not self._step(stream):
                mark = queue[0]
                assert isinstance(mark, Mark)
                self._happen(mark.event, mark.number)

    def _happen(self, event: int, number: int) -> None:
        for stream, queue in self._streams.items():
            if any(
                isinstance(i, Mark) and not i.waits and i.event == event and i.number == number
                for i in queue
            ):
                while self._happened[event][0] < number:
                    if not self._step(stream):
                        mark = queue[0]
                        assert isinstance(mark, Mark)
                        self._happen(mark.event, mark.number)
                return

    def _finish_all(self) -> None:
        for stream in self._streams:
            self._finish(stream)

    def synchronize(self, stream: int) -> None:
        with self._lock:
            self._check()
            self._not_while_capturing()
            self._finish(stream)

    def synchronize_event(self, event: int) -> None:
        with self._lock:
            self._check()
            self._happen(event, self._recorded[event])

    def elapsed_ms(self, start: int, end: int) -> float:
        self._check()
        for event in (start, end):
            if self._happened[event][0] < max(1, self._recorded[event]):
                raise cuda_error(600, "reading a time")  # cudaErrorNotReady.
        return (self._happened[end][1] - self._happened[start][1]) * 1e3

    # Copies.

    def copy_in(self, target: int, source: Bytes, stream: int) -> None:
        assert source.flags.c_contiguous
        self.view(target, source.nbytes)

        def work() -> None:
            self.view(target, source.nbytes)[:] = source.reshape(-1)

        self.enqueue(stream, work)

    def copy_out(self, target: Bytes, source: int, stream: int) -> None:
        assert target.flags.c_contiguous
        self.view(source, target.nbytes)

        def work() -> None:
            target.reshape(-1)[:] = self.view(source, target.nbytes)

        self.enqueue(stream, work)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        self.view(target, size)

        def work() -> None:
            self.view(target, size)[:] = self.view(source, size)

        self.enqueue(stream, work)

    def copy_rows(self, target: Rows, source: Rows, row_bytes: int, rows: int, stream: int) -> None:
        assert row_bytes <= min(target[1], source[1])
        for row in range(rows):
            starts = (first + row * pitch for first, pitch in (target, source))
            self.copy(*starts, row_bytes, stream)

    # Graphs.

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        with self._lock:
            self._check()
            self._not_while_capturing()
            self._capturing = (stream, [])
            try:
                work()
                recorded = self._capturing[1]
            finally:
                self._capturing = None
            graph = self._handle()
            self._graphs[graph] = recorded
            return graph

    def launch(self, graph: int, stream: int) -> None:
        with self._lock:
            self._check()
            self.launches += 1
            for work in self._graphs[graph]:
                self._put(stream, work)

    def destroy_graph(self, graph: int) -> None:
        self._check()
        self._finish_all()
        del self._graphs[graph]

    def close(self) -> None:
        self.closed = True


class HostKernels:
    """The CUDA library's own kernels, emulated on the CPU and queued on a host device.

    Arguments are checked at once, as the library does; the work comes when the stream gets to it.
    """

    def __init__(self, device: HostDevice, library: CudaLibrary) -> None:
        self._device = device
        self._library = library

    def detect_workspace(self, spec: ModelSpec, dtype: str, batch: int) -> int:
        return self._library.detect_workspace(spec, dtype, batch)

    def detect(
        self,
        heads: Sequence[int],
        spec: ModelSpec,
        dtype: str,
        batch: int,
        outputs: Sequence[int],
        workspace: int,
        workspace_bytes: int,
        stream: int = 0,
    ) -> None:
        heads, outputs = list(heads), list(outputs)
        if workspace_bytes < self._library.detect_workspace(spec, dtype, batch):
            raise NativeError("queueing the decoder failed", got="a small workspace")

        def work() -> None:
            self._device.view(workspace, workspace_bytes)
            self._library.detect(heads, spec, dtype, batch, outputs, workspace, workspace_bytes)

        self._device.enqueue(stream, work)

    def check_frames(self, frames: Sequence[FrameDescriptor], spec: ModelSpec) -> None:
        self._library.check_frames(frames, spec)

    def letterbox(
        self, frames: int, count: int, spec: ModelSpec, output: int, dtype: str, stream: int = 0
    ) -> None:
        def work() -> None:
            size = ctypes.sizeof(FrameDescriptor)
            described = self._device.view(frames, count * size)
            for frame in (FrameDescriptor * count).from_buffer_copy(described.tobytes()):
                self._device.view(frame.planes[0], frame.pitches[0] * frame.height)
            self._library.letterbox(frames, count, spec, output, dtype)

        self._device.enqueue(stream, work)


class OrtNetwork:
    """An ONNX file in ONNX Runtime, behind the interface of an engine on a host device.

    Args:
        device: Where its tensors lie.
        model: The ONNX file's bytes.
        batches: The profile.
        dtype: Element type that input and heads have on the device.
        keeps_batches: See :class:`trt_afdet.runtime.engine_network.TensorRTNetwork`.

    Attributes:
        prepared: Batch sizes in the order they were prepared.
    """

    def __init__(
        self,
        device: HostDevice,
        model: bytes,
        batches: tuple[int, int, int] = (1, 2, 4),
        *,
        dtype: str = "float32",
        keeps_batches: bool = True,
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self._device = device
        self._prepared: dict[int, dict[str, int]] = {}
        self.batches = batches
        self.keeps_batches = keeps_batches
        self.prepared: list[int] = []
        self.closed = False
        self.fails_in_capture = False
        kinds = {"tensor(float)": dtype, "tensor(int32)": "int32"}
        self.inputs = [
            TensorInfo(i.name, kinds[i.type], tuple(i.shape[1:]))
            for i in self._session.get_inputs()
        ]
        finished = any(o.name == "num_detections" for o in self._session.get_outputs())
        if finished:
            kinds["tensor(float)"] = "float32"
        self.outputs = [
            TensorInfo(o.name, kinds[o.type], tuple(o.shape[1:]))
            for o in self._session.get_outputs()
        ]

    def prepare(self, batch: int, addresses: Mapping[str, int]) -> None:
        assert self.batches[0] <= batch <= self.batches[2]
        if not self.keeps_batches:
            self._prepared.clear()
        self._prepared[batch] = dict(addresses)
        self.prepared.append(batch)

    def enqueue(self, batch: int, stream: int) -> None:
        addresses = self._prepared[batch]
        if self.fails_in_capture and self._device._capturing is not None:
            raise RunError("a layer cannot be captured")

        def work() -> None:
            assert batch in self._prepared, "a graph of another batch size's state was launched"
            source = self.inputs[0]
            images = self._array(source, addresses[source.name], batch).astype(np.float32)
            names = [info.name for info in self.outputs]
            arrays = self._session.run(names, {source.name: images})
            for info, array in zip(self.outputs, arrays, strict=True):
                self._array(info, addresses[info.name], batch)[:] = array

        self._device.enqueue(stream, work)

    def _array(self, info: TensorInfo, address: int, batch: int) -> npt.NDArray[Any]:
        memory = self._device.view(address, info.bytes(batch))
        return memory.view(info.dtype).reshape((batch, *info.shape))

    def close(self) -> None:
        self.closed = True
