"""The device over cuda-python 12 and 13 (``cuda.bindings.driver``, ``cuda.cuda`` before 12.6)."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from trt_afdet.errors import InvalidValueError, MissingDependencyError
from trt_afdet.native import NativeError
from trt_afdet.runtime.device import Bytes, Rows, cuda_error


class CudaPythonDevice:
    """See :class:`trt_afdet.runtime.device.Device`; raises what ``open_device`` raises."""

    has_graphs = True
    dlpack_type = 2

    def __init__(self, index: int = 0) -> None:
        self._driver, version = _driver()
        self.library = f"cuda-python {version}"
        self.index = index
        self._call("starting CUDA", "cuInit", 0)
        count = int(self._call("counting GPUs", "cuDeviceGetCount"))
        if not 0 <= index < count:
            raise InvalidValueError(f"there is no GPU {index}, this machine has {count}")
        device = self._device = self._call("opening the GPU", "cuDeviceGet", index)
        text = self._call("naming the GPU", "cuDeviceGetName", 256, device)
        self.name = bytes(text).split(b"\0")[0].decode()
        kinds, action = self._driver.CUdevice_attribute, "asking the GPU"
        major = kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        minor = kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
        self.compute_capability = (
            int(self._call(action, "cuDeviceGetAttribute", major, device)),
            int(self._call(action, "cuDeviceGetAttribute", minor, device)),
        )
        self._context: Any = self._call("opening the GPU", "cuDevicePrimaryCtxRetain", device)

    def _call(self, action: str, function: str, *arguments: Any) -> Any:
        """Calls the driver; returns its result, a tuple if there are several."""
        status, *results = getattr(self._driver, function)(*arguments)
        if int(status) != 0:
            raise cuda_error(int(status), action)
        return results[0] if len(results) == 1 else tuple(results)

    @contextmanager
    def active(self) -> Iterator[None]:
        self._call("using the GPU", "cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
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
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_pinned(self, array: Bytes) -> None:
        self._call("freeing pinned memory", "cuMemFreeHost", array.ctypes.data)

    def create_stream(self) -> int:
        flag = self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        return int(self._call("creating a stream", "cuStreamCreate", flag))

    def destroy_stream(self, stream: int) -> None:
        self._call("destroying a stream", "cuStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        self._call("waiting for the GPU", "cuStreamSynchronize", stream)

    def create_event(self) -> int:
        flag = self._driver.CUevent_flags.CU_EVENT_DEFAULT
        return int(self._call("creating an event", "cuEventCreate", flag))

    def destroy_event(self, event: int) -> None:
        self._call("destroying an event", "cuEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        self._call("recording an event", "cuEventRecord", event, stream)

    def wait(self, stream: int, event: int) -> None:
        self._call("queueing a wait", "cuStreamWaitEvent", stream, event, 0)

    def synchronize_event(self, event: int) -> None:
        self._call("waiting for the GPU", "cuEventSynchronize", event)

    def elapsed_ms(self, start: int, end: int) -> float:
        return float(self._call("reading a time", "cuEventElapsedTime", start, end))

    def copy_in(self, target: int, source: Bytes, stream: int) -> None:
        host, size = source.ctypes.data, source.nbytes
        self._call("copying to the GPU", "cuMemcpyHtoDAsync", target, host, size, stream)

    def copy_out(self, target: Bytes, source: int, stream: int) -> None:
        host, size = target.ctypes.data, target.nbytes
        self._call("copying from the GPU", "cuMemcpyDtoHAsync", host, source, size, stream)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        self._call("copying on the GPU", "cuMemcpyDtoDAsync", target, source, size, stream)

    def copy_rows(self, target: Rows, source: Rows, row_bytes: int, rows: int, stream: int) -> None:
        what = self._driver.CUDA_MEMCPY2D()
        what.srcMemoryType = what.dstMemoryType = self._driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
        what.srcDevice, what.srcPitch = source
        what.dstDevice, what.dstPitch = target
        what.WidthInBytes, what.Height = row_bytes, rows
        self._call("copying on the GPU", "cuMemcpy2DAsync", what, stream)

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        # Thread-local: other threads may go on allocating meanwhile.
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("starting to capture", "cuStreamBeginCapture", stream, mode)
        try:
            work()
        except BaseException:
            # Ends the capture whatever it holds, or the stream stays unusable.
            _, broken = self._driver.cuStreamEndCapture(stream)
            if broken is not None and int(broken):
                self._driver.cuGraphDestroy(broken)
            raise
        recorded = self._call("capturing a graph", "cuStreamEndCapture", stream)
        try:
            return int(self._call("preparing a graph", "cuGraphInstantiate", recorded, 0))
        finally:
            self._call("freeing a graph", "cuGraphDestroy", recorded)

    def launch(self, graph: int, stream: int) -> None:
        self._call("launching a graph", "cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._call("freeing a graph", "cuGraphExecDestroy", graph)

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
