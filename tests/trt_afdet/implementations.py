"""Every implementation of decode + NMS behind one signature: (heads, spec) -> Outputs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.skips import skip_test
from trt_afdet import native
from trt_afdet.errors import MissingDependencyError
from trt_afdet.native import NativeError, NativeMissingError, Outputs
from trt_afdet.postprocess import decode_and_suppress, sigmoid
from trt_afdet.runtime.device import Device, Resources
from trt_afdet.runtime.devices import open_device
from trt_afdet.spec import ModelSpec

Heads = Sequence[npt.NDArray[Any]]
Implementation = Callable[[Heads, ModelSpec], Outputs]

#: The workspace's alignment, and what the memory around it holds.
ALIGNMENT = 256
GUARD = 0xA5


def run_numpy(heads: Heads, spec: ModelSpec) -> Outputs:
    """The reference."""
    outputs = Outputs.empty(len(heads[0]), spec)
    for array, value in zip(outputs, (0, 0, 0, -1), strict=True):
        array[:] = value
    for image in range(len(heads[0])):
        found = decode_and_suppress([head[image] for head in heads], spec)
        count = len(found.logits)
        outputs.num_detections[image] = count
        outputs.boxes[image, :count] = found.boxes
        outputs.scores[image, :count] = sigmoid(found.logits)
        outputs.classes[image, :count] = found.class_id
    return outputs


def host(threads: int) -> Implementation:
    def run(heads: Heads, spec: ModelSpec) -> Outputs:
        return native.host().detect(heads, spec, threads=threads)

    return run


class Workspace:
    """Memory as a device would give it, between guards that show what was written beside it.

    Attributes:
        address: 256-byte aligned.
    """

    def __init__(self, size: int) -> None:
        self._memory = np.full(size + 3 * ALIGNMENT, GUARD, np.uint8)
        self._start = ALIGNMENT + -self._memory.ctypes.data % ALIGNMENT
        self._end = self._start + size
        self.address = int(self._memory.ctypes.data) + self._start

    def check(self) -> None:
        assert (self._memory[: self._start] == GUARD).all(), "written before the workspace"
        assert (self._memory[self._end :] == GUARD).all(), "written past the workspace"


def emulated(order: int) -> Implementation:
    """The CUDA kernels on the CPU, their threads in order (0), reversed (1) or shuffled."""

    def run(heads: Heads, spec: ModelSpec) -> Outputs:
        library = native.emulated()
        library.set_order(order)
        # Not a byte more than they need: a sanitizer sees what is read around them.
        inputs = [np.array(head, order="C") for head in heads]
        assert all(array.ctypes.data % 16 == 0 for array in inputs)
        dtype, batch = inputs[0].dtype.name, len(inputs[0])
        outputs = Outputs.empty(batch, spec)
        size = library.detect_workspace(spec, dtype, batch)
        workspace = Workspace(size)
        library.detect(
            [array.ctypes.data for array in inputs],
            spec,
            dtype,
            batch,
            [array.ctypes.data for array in outputs],
            workspace.address,
            size,
        )
        workspace.check()
        assert all(a.tobytes() == b.tobytes() for a, b in zip(inputs, heads, strict=True))
        return outputs

    return run


def portable(loop: bool) -> Implementation:
    def run(heads: Heads, spec: ModelSpec) -> Outputs:
        from tests.trt_afdet.portable import run_portable

        return Outputs(*run_portable(heads, spec, loop=loop))

    return run


def run_cuda(heads: Heads, spec: ModelSpec) -> Outputs:
    """The kernels on the GPU, in torch's memory or the runtime's own."""
    return _run_cuda_torch(heads, spec) if _has_torch_cuda() else _run_cuda(heads, spec)


@cache
def _has_torch_cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


@cache
def _device() -> Device:
    return open_device()


def _run_cuda(heads: Heads, spec: ModelSpec) -> Outputs:
    library, device = native.cuda(), _device()
    resources = Resources(device)
    dtype, batch = heads[0].dtype.name, len(heads[0])
    outputs = Outputs.empty(batch, spec)
    size = library.detect_workspace(spec, dtype, batch)
    try:
        with device.active():
            stream = resources.stream()

            def put(array: npt.NDArray[Any]) -> int:
                address = resources.memory(array.nbytes)
                raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                device.copy_in(address, raw, stream)
                device.synchronize(stream)
                return address

            inputs = [put(head) for head in heads]
            targets = [resources.memory(array.nbytes) for array in outputs]
            # Its contents are undefined; so are these.
            workspace = put(np.full(size, 0xCD, np.uint8))
            library.detect(inputs, spec, dtype, batch, targets, workspace, size, stream)
            for array, target in zip(outputs, targets, strict=True):
                device.copy_out(array.reshape(-1).view(np.uint8), target, stream)
            device.synchronize(stream)
    finally:
        resources.close()
    return outputs


def _run_cuda_torch(heads: Heads, spec: ModelSpec) -> Outputs:
    import torch

    library = native.cuda()
    arrays = [torch.from_numpy(np.ascontiguousarray(head)).cuda() for head in heads]
    dtype, batch = heads[0].dtype.name, len(heads[0])
    outputs = [torch.from_numpy(array).cuda() for array in Outputs.empty(batch, spec)]
    size = library.detect_workspace(spec, dtype, batch)
    workspace = torch.full((size,), 0xCD, dtype=torch.uint8, device="cuda")
    stream = torch.cuda.current_stream()
    library.detect(
        [array.data_ptr() for array in arrays],
        spec,
        dtype,
        batch,
        [output.data_ptr() for output in outputs],
        workspace.data_ptr(),
        size,
        stream.cuda_stream,
    )
    stream.synchronize()
    return Outputs(*(output.cpu().numpy() for output in outputs))


IMPLEMENTATIONS: dict[str, Implementation] = {
    "numpy": run_numpy,
    "host": host(1),
    "host-threads": host(3),
    "emulated": emulated(0),
    "emulated-reversed": emulated(1),
    "emulated-shuffled": emulated(7),
    "onnx": portable(loop=False),
    "onnx-loop": portable(loop=True),
    "cuda": run_cuda,
}


def parameters(*names: str) -> list[Any]:
    """Those of the names, or all of them, for ``pytest.mark.parametrize``."""
    return [
        pytest.param(name, marks=pytest.mark.gpu if name == "cuda" else ())
        for name in names or IMPLEMENTATIONS
    ]


def get(name: str) -> Implementation:
    """An implementation; skips the test if what it needs is not there, naming it."""
    libraries = {"host": native.host, "emulated": native.emulated, "cuda": native.cuda}
    find = libraries.get(name.partition("-")[0])
    if find is not None:
        try:
            find()
        except NativeMissingError as error:
            skip_test(error, "make native-host; for CUDA a GPU and make gpu-check")
    if name.startswith("onnx"):
        for package in ("onnx", "onnxruntime"):
            if importlib.util.find_spec(package) is None:
                skip_test(f"{package} is not installed", f"pip install {package}")
    if name == "cuda" and not _has_torch_cuda():
        try:
            _device()
        except (MissingDependencyError, NativeError) as error:
            skip_test(error, "make native-host; for CUDA a GPU and make gpu-check")
    return IMPLEMENTATIONS[name]
