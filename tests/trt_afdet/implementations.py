"""Every implementation of decode + NMS behind one signature: (heads, spec) -> Outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from trt_afdet import native
from trt_afdet.native import CudaLibrary, NativeMissingError, Outputs
from trt_afdet.postprocess import decode_and_suppress, sigmoid
from trt_afdet.spec import ModelSpec

Heads = Sequence[npt.NDArray[Any]]
Implementation = Callable[[Heads, ModelSpec], Outputs]

#: The workspace's alignment, and how far memory that the emulation gets may be off.
ALIGNMENT = 256


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


def emulated(order: int) -> Implementation:
    """The CUDA kernels on the CPU, their threads in order (0), reversed (1) or shuffled."""

    def run(heads: Heads, spec: ModelSpec) -> Outputs:
        library = native.emulated()
        library.set_order(order)
        arrays = [aligned_copy(head) for head in heads]
        dtype, batch = arrays[0].dtype.name, len(arrays[0])
        outputs = Outputs.empty(batch, spec)
        size = library.detect_workspace(spec, dtype, batch)
        workspace = aligned_copy(np.zeros(size, np.uint8))
        library.detect(
            [array.ctypes.data for array in arrays],
            spec,
            dtype,
            batch,
            [array.ctypes.data for array in outputs],
            workspace.ctypes.data,
            size,
        )
        return outputs

    return run


def aligned_copy(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A contiguous copy that starts where device memory would."""
    memory = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def portable(loop: bool) -> Implementation:
    def run(heads: Heads, spec: ModelSpec) -> Outputs:
        from portable import run_portable

        return Outputs(*run_portable(heads, spec, loop=loop))

    return run


def run_cuda(heads: Heads, spec: ModelSpec) -> Outputs:
    """The kernels on the GPU, through torch's device memory."""
    import torch

    library: CudaLibrary = native.cuda()
    arrays = [torch.from_numpy(np.ascontiguousarray(head)).cuda() for head in heads]
    dtype, batch = heads[0].dtype.name, len(heads[0])
    shapes = [array.shape for array in Outputs.empty(batch, spec)]
    kinds = (torch.int32, torch.float32, torch.float32, torch.int32)
    outputs = [torch.empty(s, dtype=k, device="cuda") for s, k in zip(shapes, kinds, strict=True)]
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


def parameters() -> list[Any]:
    """All of them for ``pytest.mark.parametrize``."""
    return [
        pytest.param(name, marks=pytest.mark.gpu if name == "cuda" else ())
        for name in IMPLEMENTATIONS
    ]


def get(name: str) -> Implementation:
    """An implementation; skips the test if its library is not there, naming it."""
    libraries = {"host": native.host, "emulated": native.emulated, "cuda": native.cuda}
    find = libraries.get(name.partition("-")[0])
    if find is not None:
        try:
            find()
        except NativeMissingError as error:
            pytest.skip(f"missing: {error}")
    if name == "cuda":
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("missing: a CUDA device")
    return IMPLEMENTATIONS[name]
