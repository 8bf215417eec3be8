"""The runner on a real GPU, around a network that runs on the CPU as a part of the stream.

So streams, events, graphs, copies and kernels are the real ones, results can be compared to the
last digit, and TensorRT is not needed.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.trt_afdet.onnx_models import SPEC
from tests.trt_afdet.runtime.rigs import MODEL
from trt_afdet import native
from trt_afdet.errors import AfdetError
from trt_afdet.native import CudaLibrary
from trt_afdet.runtime.buffers import TensorInfo
from trt_afdet.runtime.device import Bytes, Device, Resources
from trt_afdet.runtime.device_array import DeviceArray
from trt_afdet.runtime.devices import open_device
from trt_afdet.runtime.runner import Runner
from trt_afdet.spec import ModelSpec

_HostFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@cache
def why_not() -> str:
    """What is missing for these tests; empty if nothing."""
    try:
        open_device().close()
        native.cuda()
    except AfdetError as error:
        return str(error)
    return ""


class CountingDevice:
    """A device that counts allocations."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.allocations = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def allocate(self, size: int) -> int:
        self.allocations += 1
        return self._device.allocate(size)

    def allocate_pinned(self, size: int) -> Bytes:
        self.allocations += 1
        return self._device.allocate_pinned(size)


class CpuNetwork:
    """An ONNX file in ONNX Runtime, called by the driver when the stream gets to it.

    That is a host function: it may not call CUDA, so copies around it bring the tensors to pinned
    memory and back. All of it can be captured.
    """

    def __init__(
        self,
        device: Device,
        model: bytes,
        batches: tuple[int, int, int],
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
        self._resources = Resources(device)
        self.batches = batches
        self.keeps_batches = keeps_batches
        names = [o.name for o in self._session.get_outputs()]
        kinds = {"tensor(float)": dtype, "tensor(int32)": "int32"}
        self.inputs = [
            TensorInfo(i.name, dtype, tuple(i.shape[1:])) for i in self._session.get_inputs()
        ]
        if "num_detections" in names:
            kinds["tensor(float)"] = "float32"
        self.outputs = [
            TensorInfo(o.name, kinds[o.type], tuple(o.shape[1:]))
            for o in self._session.get_outputs()
        ]
        with device.active():
            self._pinned = {
                info.name: self._resources.pinned(info.bytes(batches[2]))
                for info in (*self.inputs, *self.outputs)
            }
        self._addresses: dict[int, dict[str, int]] = {}
        self._calls: dict[int, Any] = {}
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._driver.cuLaunchHostFunc.argtypes = (ctypes.c_void_p, _HostFunction, ctypes.c_void_p)
        self.failures: list[BaseException] = []

    def prepare(self, batch: int, addresses: Mapping[str, int]) -> None:
        if not self.keeps_batches:
            self._addresses.clear()
        self._addresses[batch] = dict(addresses)
        if batch not in self._calls:
            self._calls[batch] = _HostFunction(lambda _: self._run(batch))

    def enqueue(self, batch: int, stream: int) -> None:
        addresses = self._addresses[batch]
        for info in self.inputs:
            piece = self._bytes(info, batch)
            self._device.copy_out(piece, addresses[info.name], stream)
        status = self._driver.cuLaunchHostFunc(stream, self._calls[batch], None)
        native.check_status(1000 + status if status else 0, "queueing a host function")
        for info in self.outputs:
            self._device.copy_in(addresses[info.name], self._bytes(info, batch), stream)

    def _run(self, batch: int) -> None:
        try:
            source = self.inputs[0]
            images = self._array(source, batch).astype(np.float32)
            found = self._session.run([o.name for o in self.outputs], {source.name: images})
            for info, array in zip(self.outputs, found, strict=True):
                self._array(info, batch)[:] = array
        except BaseException as error:  # The driver's thread has nobody to catch it.
            self.failures.append(error)

    def _bytes(self, info: TensorInfo, batch: int) -> Bytes:
        return self._pinned[info.name][: info.bytes(batch)]

    def _array(self, info: TensorInfo, batch: int) -> npt.NDArray[Any]:
        return self._bytes(info, batch).view(info.dtype).reshape((batch, *info.shape))

    def close(self) -> None:
        self._resources.close()


class GpuRig:
    """See :class:`rigs.HostRig`."""

    gpu = True

    def __init__(self) -> None:
        self._made: list[tuple[Runner, CpuNetwork]] = []

    def __enter__(self) -> GpuRig:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for runner, _network in self._made:
            runner.close()
        if kind is None:
            assert [n.failures for _, n in self._made] == [[] for _ in self._made]

    def device(self, *_: Any, **__: Any) -> Device:
        return open_device()

    def kernels(self, _: Device) -> CudaLibrary:
        return native.cuda()

    def runner(
        self,
        model: bytes = MODEL,
        spec: ModelSpec = SPEC,
        batches: tuple[int, int, int] = (1, 2, 4),
        *,
        seed: int | None = None,
        kernels: bool = True,
        dtype: str = "float32",
        keeps_batches: bool = True,
        graphs: bool = True,
    ) -> Runner:
        """A runner; ``seed`` is the host device's dice, which a GPU does not need."""
        del seed
        device: Any = CountingDevice(open_device())
        network = CpuNetwork(device, model, batches, dtype=dtype, keeps_batches=keeps_batches)
        found = native.cuda() if kernels else None
        runner = Runner(network, device, spec, found, graphs=graphs)
        self._made.append((runner, network))
        return runner

    def to_numpy(self, array: DeviceArray) -> npt.NDArray[Any]:
        """A copy on the host, read as CuPy or PyTorch would."""
        described = array.__cuda_array_interface__
        runner = self._made[-1][0]
        size = math.prod(array.shape) * array.dtype.itemsize
        with runner.device.active():
            resources = Resources(runner.device)
            memory = resources.pinned(size)
            runner.device.copy_out(memory, described["data"][0], described["stream"])
            runner.device.synchronize(described["stream"])
            copy = memory.view(described["typestr"]).reshape(described["shape"]).copy()
            resources.close()
        return copy
