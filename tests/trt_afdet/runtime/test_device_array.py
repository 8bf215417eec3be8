"""Arrays that other libraries read in place, and when their memory is let go."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from trt_afdet.runtime import device_array
from trt_afdet.runtime.device_array import DeviceArray, OverwrittenError

CUDA, HOST = (2, 3), (1, 0)


class Owner:
    """Keeps its memory until told otherwise, and notes who waits."""

    def __init__(self) -> None:
        self.kept = True
        self.waited: list[int] = []

    def check_kept(self) -> None:
        if not self.kept:
            raise OverwrittenError("gone")

    def order_after(self, stream: int) -> None:
        self.waited.append(stream)


def wrap(values: np.ndarray[Any, Any], device: tuple[int, int] = HOST) -> tuple[DeviceArray, Owner]:
    owner = Owner()
    array = DeviceArray(
        values.ctypes.data,
        values.shape,
        values.dtype.name,
        owner=owner,
        stream=77,
        device=device,
    )
    return array, owner


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "uint8"])
@pytest.mark.parametrize("shape", [(4,), (2, 3, 4), (1, 0, 2)])
def test_numpy_reads_it_in_place(dtype: str, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape)).astype(dtype).reshape(shape)
    array, owner = wrap(values)
    seen = np.from_dlpack(array)
    assert seen.dtype == values.dtype
    np.testing.assert_array_equal(seen, values)
    if values.size:
        assert np.shares_memory(seen, values)
        values.reshape(-1)[-1] = 42
        assert seen.reshape(-1)[-1] == 42
    assert len(owner.waited) == 1


def test_it_is_let_go_with_the_last_consumer() -> None:
    values = np.zeros((3, 4), np.float32)
    seen = np.from_dlpack(wrap(values)[0])
    part = seen[1:]
    assert len(device_array._held) == 1
    del seen
    gc.collect()
    assert len(device_array._held) == 1
    del part
    gc.collect()
    assert device_array._held == {}


def test_a_capsule_that_nobody_took_is_let_go() -> None:
    values = np.zeros(3, np.float32)
    capsule = wrap(values)[0].__dlpack__()
    assert type(capsule).__name__ == "PyCapsule"
    assert len(device_array._held) == 1
    del capsule
    gc.collect()
    assert device_array._held == {}


@pytest.mark.parametrize(("asked", "waited"), [(None, [1]), (1, [1]), (9, [9]), (-1, [])])
def test_the_consumers_stream_waits(asked: int | None, waited: list[int]) -> None:
    values = np.zeros(3, np.float32)
    array, owner = wrap(values, CUDA)
    array.__dlpack__(stream=asked, max_version=(1, 0), copy=None)
    assert owner.waited == waited
    assert array.__dlpack_device__() == CUDA


def test_cuda_array_interface() -> None:
    values = np.zeros((2, 5), np.float16)
    array, owner = wrap(values, CUDA)
    assert array.__cuda_array_interface__ == {
        "shape": (2, 5),
        "typestr": "<f2",
        "data": (values.ctypes.data, True),
        "strides": None,
        "stream": 77,
        "version": 3,
    }
    owner.kept = False
    with pytest.raises(OverwrittenError):
        _ = array.__cuda_array_interface__
    with pytest.raises(OverwrittenError):
        array.__dlpack__()
    # CuPy and PyTorch ask by hasattr whether memory is CUDA's.
    assert not hasattr(wrap(values, HOST)[0], "__cuda_array_interface__")
