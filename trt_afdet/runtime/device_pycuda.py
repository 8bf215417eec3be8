"""The device over pycuda, the usual one on JetPack 5.

pycuda has no graphs, so those few functions are called in the driver itself, which pycuda has
loaded already.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ctypes import POINTER, byref, c_int, c_ulonglong, c_void_p
from typing import Any

import numpy as np

from trt_afdet.errors import InvalidValueError, MissingDependencyError
from trt_afdet.native import NativeError
from trt_afdet.runtime.device import Bytes, Rows, cuda_error
from trt_afdet.trt.gpu import open_driver

#: CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may go on allocating meanwhile.
_THREAD_LOCAL = 1

#: CUDA's codes of what pycuda tells apart by its text only.
_CODES = {
    "out of memory": 2,
    "initialization error": 3,
    "no CUDA-capable device is detected": 100,
    "invalid resource handle": 400,
    "an illegal memory access was encountered": 700,
    "unspecified launch failure": 719,
}


class PycudaDevice:
    """See :class:`trt_afdet.runtime.device.Device`; raises what ``open_device`` raises."""

    dlpack_type = 2

    def __init__(self, index: int = 0) -> None:
        try:
            import pycuda
            import pycuda.driver as driver
        except ImportError as error:
            raise MissingDependencyError(
                "pycuda cannot be imported",
                got=str(error).splitlines()[0],
                hint="it needs the NVIDIA driver; see `trt-afdet doctor`",
            ) from error
        self._driver: Any = driver
        self.library = f"pycuda {getattr(pycuda, 'VERSION_TEXT', 'version unknown')}"
        self.index = index
        self._call("starting CUDA", driver.init)
        count = self._call("starting CUDA", driver.Device.count)
        if not 0 <= index < count:
            raise InvalidValueError(f"there is no GPU {index}, this machine has {count}")
        device = self._call("opening the GPU", driver.Device, index)
        self.name = str(self._call("opening the GPU", device.name))
        self.compute_capability = tuple(self._call("opening the GPU", device.compute_capability))
        self._context: Any = self._call("opening the GPU", device.retain_primary_context)
        self._graph_calls = _graph_functions()
        self.has_graphs = self._graph_calls is not None
        self._memory: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}
        self._events: dict[int, Any] = {}
        self._pinned: dict[int, Any] = {}

    def _call(self, action: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Translates what pycuda raises: classes with a text, no code."""
        try:
            return function(*arguments)
        except self._driver.Error as error:
            text = str(error).strip()
            code = next((c for known, c in _CODES.items() if known in text), None)
            if code is None:
                raise NativeError(f"{action} failed", got=text) from error
            raise cuda_error(code, action) from error

    @contextmanager
    def active(self) -> Iterator[None]:
        self._call("using the GPU", self._context.push)
        try:
            yield
        finally:
            self._driver.Context.pop()

    def memory(self) -> tuple[int, int]:
        free, total = self._call("asking for free memory", self._driver.mem_get_info)
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        action = f"allocating {size} bytes on the GPU"
        allocation = self._call(action, self._driver.mem_alloc, size)
        self._memory[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        self._call("freeing device memory", self._memory.pop(address).free)

    def allocate_pinned(self, size: int) -> Bytes:
        action = f"pinning {size} bytes"
        array: Bytes = self._call(action, self._driver.pagelocked_empty, size, np.uint8)
        self._pinned[array.ctypes.data] = array.base
        return array

    def free_pinned(self, array: Bytes) -> None:
        self._call("freeing pinned memory", self._pinned.pop(array.ctypes.data).free)

    def create_stream(self) -> int:
        # 1 is CU_STREAM_NON_BLOCKING.
        stream = self._call("creating a stream", self._driver.Stream, 1)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        del self._streams[stream]

    def synchronize(self, stream: int) -> None:
        self._call("waiting for the GPU", self._streams[stream].synchronize)

    def create_event(self) -> int:
        event = self._call("creating an event", self._driver.Event)
        self._events[id(event)] = event
        return id(event)

    def destroy_event(self, event: int) -> None:
        del self._events[event]

    def record(self, event: int, stream: int) -> None:
        self._call("recording an event", self._events[event].record, self._streams[stream])

    def wait(self, stream: int, event: int) -> None:
        known, queued = self._events[event], self._streams.get(stream)
        if queued is None:  # A consumer's: pycuda cannot make a Stream from a number; we wait here.
            self._call("queueing a wait", known.synchronize)
        else:
            self._call("queueing a wait", queued.wait_for_event, known)

    def synchronize_event(self, event: int) -> None:
        self._call("waiting for the GPU", self._events[event].synchronize)

    def elapsed_ms(self, start: int, end: int) -> float:
        first, last = self._events[start], self._events[end]
        return float(self._call("reading a time", first.time_till, last))

    def copy_in(self, target: int, source: Bytes, stream: int) -> None:
        copy, queue = self._driver.memcpy_htod_async, self._streams[stream]
        self._call("copying to the GPU", copy, target, source, queue)

    def copy_out(self, target: Bytes, source: int, stream: int) -> None:
        copy, queue = self._driver.memcpy_dtoh_async, self._streams[stream]
        self._call("copying from the GPU", copy, target, source, queue)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        copy, queue = self._driver.memcpy_dtod_async, self._streams[stream]
        self._call("copying on the GPU", copy, target, source, size, queue)

    def copy_rows(self, target: Rows, source: Rows, row_bytes: int, rows: int, stream: int) -> None:
        what = self._driver.Memcpy2D()
        what.set_src_device(source[0])
        what.set_dst_device(target[0])
        what.src_pitch, what.dst_pitch = source[1], target[1]
        what.width_in_bytes, what.height = row_bytes, rows
        self._call("copying on the GPU", what, self._streams[stream])

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        self._graph("starting to capture", "cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)
        recorded, graph = c_void_p(), c_void_p()
        try:
            work()
        except BaseException:
            # Ends the capture whatever it holds, or the stream stays unusable.
            with suppress(NativeError):
                self._graph("capturing a graph", "cuStreamEndCapture", stream, byref(recorded))
                self._graph("freeing a graph", "cuGraphDestroy", recorded)
            raise
        self._graph("capturing a graph", "cuStreamEndCapture", stream, byref(recorded))
        try:
            make = "cuGraphInstantiateWithFlags"
            self._graph("preparing a graph", make, byref(graph), recorded, 0)
        finally:
            self._graph("freeing a graph", "cuGraphDestroy", recorded)
        return int(graph.value or 0)

    def launch(self, graph: int, stream: int) -> None:
        self._graph("launching a graph", "cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._graph("freeing a graph", "cuGraphExecDestroy", graph)

    def _graph(self, action: str, function: str, *arguments: Any) -> None:
        status = getattr(self._graph_calls, function)(*arguments)
        if status != 0:
            raise cuda_error(status, action)

    def close(self) -> None:
        if self._context is not None:
            context, self._context = self._context, None
            context.detach()


def _graph_functions() -> ctypes.CDLL | None:
    """The driver's graph functions, typed; None where it is too old (before CUDA 11.4)."""
    library = open_driver()
    signatures: dict[str, tuple[Any, ...]] = {
        "cuStreamBeginCapture_v2": (c_void_p, c_int),
        "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
        "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
        "cuGraphLaunch": (c_void_p, c_void_p),
        "cuGraphDestroy": (c_void_p,),
        "cuGraphExecDestroy": (c_void_p,),
    }
    for function, arguments in signatures.items():
        if not hasattr(library, function):
            return None
        getattr(library, function).argtypes = arguments
    return library
