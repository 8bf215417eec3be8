"""The device over cuda-python 12 and 13 (``cuda.bindings.driver``, ``cuda.cuda`` before 12.6)."""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from trt_afdet.errors import InvalidValueError, MissingDependencyError
from trt_afdet.native import NativeError
from trt_afdet.runtime.device import Bytes, cuda_error


class CudaPythonDevice:
    """See :class:`trt_afdet.runtime.device.Device`.

    Raises:
        MissingDependencyError: If cuda-python is not installed or finds no driver.
        InvalidValueError: If there is no GPU of that index.
        NativeError: If the driver refuses.
    """

    has_graphs = True
    dlpack_type = 2

    def __init__(self, index: int = 0) -> None:
        self._driver, version = _driver()
        driver = self._driver
        self.library = f"cuda-python {version}"
        self.index = index
        self._call("starting CUDA", "cuInit", 0)
        count = int(self._call("counting GPUs", "cuDeviceGetCount"))
        if not 0 <= index < count:
            raise InvalidValueError(f"there is no GPU {index}, this machine has {count}")
        self._device: Any = self._call("opening the GPU", "cuDeviceGet", index)
        text = self._call("naming the GPU", "cuDeviceGetName", 256, self._device)
        self.name = bytes(text).split(b"\0")[0].decode()
        kinds = driver.CUdevice_attribute
        prefix = "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_"
        major, minor = (
            int(
                self._call(
                    "asking the GPU",
                    "cuDeviceGetAttribute",
                    getattr(kinds, prefix + part),
                    self._device,
                )
            )
            for part in ("MAJOR", "MINOR")
        )
        self.compute_capability = (major, minor)
        self._context: Any = self._call("opening the GPU", "cuDevicePrimaryCtxRetain", self._device)
        # cuda-python's objects are what its functions take; numbers are what everyone else takes.
        self._streams: dict[int, Any] = {}
        self._events: dict[int, Any] = {}
        self._graphs: dict[int, Any] = {}
        self._pinned: dict[int, int] = {}
        self._current = threading.local()

    def _call(self, action: str, function: str, *arguments: Any) -> Any:
        """Calls the driver; returns its result, a tuple if there are several."""
        status, *results = getattr(self._driver, function)(*arguments)
        if int(status) != 0:
            raise cuda_error(int(status), action)
        if len(results) == 1:
            return results[0]
        return tuple(results) or None

    @contextmanager
    def active(self) -> Iterator[None]:
        depth = getattr(self._current, "depth", 0)
        if depth == 0:
            self._call("using the GPU", "cuCtxPushCurrent", self._context)
        self._current.depth = depth + 1
        try:
            yield
        finally:
            self._current.depth = depth
            if depth == 0:
                self._call("leaving the GPU", "cuCtxPopCurrent")

    def memory(self) -> tuple[int, int]:
        free, total = self._call("asking for free memory", "cuMemGetInfo")
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        return int(self._call(f"allocating {size} bytes on the GPU", "cuMemAlloc", size))

    def free(self, address: int) -> None:
        self._call("freeing device memory", "cuMemFree", address)

    def allocate_pinned(self, size: int) -> Bytes:
        address = int(self._call(f"pinning {size} bytes", "cuMemHostAlloc", size, 0))
        array: Bytes = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        self._pinned[array.ctypes.data] = address
        return array

    def free_pinned(self, array: Bytes) -> None:
        self._call("freeing pinned memory", "cuMemFreeHost", self._pinned.pop(array.ctypes.data))

    def create_stream(self) -> int:
        flag = self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        stream = self._call("creating a stream", "cuStreamCreate", flag)
        self._streams[int(stream)] = stream
        return int(stream)

    def destroy_stream(self, stream: int) -> None:
        self._call("destroying a stream", "cuStreamDestroy", self._streams.pop(stream))

    def _stream(self, stream: int) -> Any:
        """The object of a stream; strangers' streams, such as a consumer's, are wrapped."""
        known = self._streams.get(stream)
        return self._driver.CUstream(stream) if known is None else known

    def synchronize(self, stream: int) -> None:
        self._call("waiting for the GPU", "cuStreamSynchronize", self._stream(stream))

    def create_event(self) -> int:
        flag = self._driver.CUevent_flags.CU_EVENT_DEFAULT
        event = self._call("creating an event", "cuEventCreate", flag)
        self._events[int(event)] = event
        return int(event)

    def destroy_event(self, event: int) -> None:
        self._call("destroying an event", "cuEventDestroy", self._events.pop(event))

    def record(self, event: int, stream: int) -> None:
        self._call("recording an event", "cuEventRecord", self._events[event], self._stream(stream))

    def wait(self, stream: int, event: int) -> None:
        self._call(
            "queueing a wait", "cuStreamWaitEvent", self._stream(stream), self._events[event], 0
        )

    def synchronize_event(self, event: int) -> None:
        self._call("waiting for the GPU", "cuEventSynchronize", self._events[event])

    def elapsed_ms(self, start: int, end: int) -> float:
        return float(
            self._call(
                "reading a time", "cuEventElapsedTime", self._events[start], self._events[end]
            )
        )

    def copy_in(self, target: int, source: Bytes, stream: int) -> None:
        self._call(
            "copying to the GPU",
            "cuMemcpyHtoDAsync",
            target,
            source.ctypes.data,
            source.nbytes,
            self._stream(stream),
        )

    def copy_out(self, target: Bytes, source: int, stream: int) -> None:
        self._call(
            "copying from the GPU",
            "cuMemcpyDtoHAsync",
            target.ctypes.data,
            source,
            target.nbytes,
            self._stream(stream),
        )

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        self._call(
            "copying on the GPU", "cuMemcpyDtoDAsync", target, source, size, self._stream(stream)
        )

    def copy_rows(
        self,
        target: int,
        target_pitch: int,
        source: int,
        source_pitch: int,
        row_bytes: int,
        rows: int,
        stream: int,
    ) -> None:
        on_device = self._driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
        what = self._driver.CUDA_MEMCPY2D()
        what.srcMemoryType = what.dstMemoryType = on_device
        what.srcDevice, what.srcPitch = source, source_pitch
        what.dstDevice, what.dstPitch = target, target_pitch
        what.WidthInBytes, what.Height = row_bytes, rows
        self._call("copying on the GPU", "cuMemcpy2DAsync", what, self._stream(stream))

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        # Thread-local: other threads may go on allocating meanwhile.
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        handle = self._stream(stream)
        self._call("starting to capture", "cuStreamBeginCapture", handle, mode)
        try:
            work()
        except BaseException:
            # Ends the capture whatever it holds, or the stream stays unusable.
            _, broken = self._driver.cuStreamEndCapture(handle)
            if broken is not None and int(broken):
                self._driver.cuGraphDestroy(broken)
            raise
        recorded = self._call("capturing a graph", "cuStreamEndCapture", handle)
        try:
            graph = self._call("preparing a graph", "cuGraphInstantiate", recorded, 0)
        finally:
            self._call("freeing a graph", "cuGraphDestroy", recorded)
        self._graphs[int(graph)] = graph
        return int(graph)

    def launch(self, graph: int, stream: int) -> None:
        self._call("launching a graph", "cuGraphLaunch", self._graphs[graph], self._stream(stream))

    def destroy_graph(self, graph: int) -> None:
        self._call("freeing a graph", "cuGraphExecDestroy", self._graphs.pop(graph))

    def close(self) -> None:
        if self._context is not None:
            self._context = None
            self._call("closing the GPU", "cuDevicePrimaryCtxRelease", self._device)


def _driver() -> tuple[Any, str]:
    """The module of driver functions, and cuda-python's version."""
    for name, package in (("cuda.bindings.driver", "cuda.bindings"), ("cuda.cuda", "cuda")):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        except ImportError as error:
            raise MissingDependencyError(
                "cuda-python cannot be imported", got=str(error).splitlines()[0]
            ) from error
        version = str(getattr(importlib.import_module(package), "__version__", "version unknown"))
        try:
            module.cuInit(0)
        except Exception as error:  # It says so only when it first looks for the driver.
            raise NativeError(
                "cuda-python finds no NVIDIA driver", hint="see `trt-afdet doctor`"
            ) from error
        return module, version
    raise MissingDependencyError("cuda-python is not installed", hint="pip install cuda-python")
