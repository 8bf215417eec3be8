"""Arrays that stay on the device, and how other libraries read them without a copy.

They speak ``__cuda_array_interface__`` (CuPy, Numba, PyTorch) and DLPack (those, and more). The
capsule of DLPack is made here through ctypes: its structures are few and fixed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p
from typing import Any, Protocol

import numpy as np

from trt_afdet.errors import RunError


class OverwrittenError(RunError):
    """Results on the device were asked for after their memory was used again."""


class Owner(Protocol):
    """Who owns an array's memory, and knows when it is ready and until when it is kept."""

    def check_kept(self) -> None:
        """Raises RunError once the memory holds other results."""

    def order_after(self, stream: int) -> None:
        """Makes later work on a consumer's stream wait for the array."""


class DeviceArray:
    """A contiguous array in device memory. It is read by other libraries, never changed.

    Attributes:
        address: Of its first element.
        shape: Its shape.
        dtype: Its NumPy dtype.
        stream: The cudaStream_t that fills it.
    """

    def __init__(
        self,
        address: int,
        shape: tuple[int, ...],
        dtype: str,
        *,
        owner: Owner,
        stream: int,
        device: tuple[int, int],
    ) -> None:
        self.address = address
        self.shape = shape
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.stream = stream
        self._owner = owner
        self._device = device

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3: the consumer waits for ``stream`` itself.

        Raises:
            RunError: If the memory holds other results by now.
        """
        self._owner.check_kept()
        if self._device[0] != _CUDA:
            raise AttributeError("__cuda_array_interface__")
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, True),
            "strides": None,
            "stream": self.stream,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's device type and the device's index."""
        return self._device

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> Any:
        """A DLPack capsule.

        Args:
            stream: Where the consumer will read it: a cudaStream_t, 1 or None for the default
                stream, -1 if it sees to the order itself.

        Raises:
            RunError: If the memory holds other results by now.
        """
        self._owner.check_kept()
        if stream != -1:
            self._owner.order_after(_DEFAULT_STREAM if stream is None else stream)
        return _capsule(self)


#: DLPack's kDLCUDA, and the legacy default stream.
_CUDA = 2
_DEFAULT_STREAM = 1

_NAME = b"dltensor"
_CODES = {"i": 0, "u": 1, "f": 2}


class _DLDevice(ctypes.Structure):
    _fields_ = (("type", c_int32), ("index", c_int32))


class _DLDataType(ctypes.Structure):
    _fields_ = (("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16))


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", c_void_p),
        ("device", _DLDevice),
        ("ndim", c_int32),
        ("dtype", _DLDataType),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    )


class _DLManagedTensor(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, POINTER(_DLManagedTensor))
_DLManagedTensor._fields_ = (("tensor", _DLTensor), ("context", c_void_p), ("deleter", _Deleter))

#: What consumers still hold, by address: the structures and the array they describe.
_held: dict[int, tuple[Any, ...]] = {}


@_Deleter
def _delete(managed: Any) -> None:
    _held.pop(ctypes.addressof(managed.contents), None)


def _python(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    # Another library may have typed the shared function: an own prototype leaves it alone.
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_is_capsule = _python("PyCapsule_IsValid", ctypes.c_int, c_void_p, c_char_p)
_capsule_pointer = _python("PyCapsule_GetPointer", c_void_p, c_void_p, c_char_p)
_Destructor = ctypes.PYFUNCTYPE(None, c_void_p)
_new_capsule = _python("PyCapsule_New", ctypes.py_object, c_void_p, c_char_p, _Destructor)


@_Destructor
def _destroy(capsule: int) -> None:
    """A consumer renames the capsule and calls the deleter later; nobody took this one."""
    if _is_capsule(capsule, _NAME):
        _held.pop(_capsule_pointer(capsule, _NAME), None)


def _capsule(array: DeviceArray) -> Any:
    managed = _DLManagedTensor()
    shape = (c_int64 * len(array.shape))(*array.shape)
    tensor = managed.tensor
    tensor.data = array.address
    tensor.device.type, tensor.device.index = array.__dlpack_device__()
    tensor.ndim = len(array.shape)
    tensor.dtype.code = _CODES[array.dtype.kind]
    tensor.dtype.bits = array.dtype.itemsize * 8
    tensor.dtype.lanes = 1
    tensor.shape = shape
    managed.deleter = _delete
    address = ctypes.addressof(managed)
    _held[address] = (managed, shape, array)
    return _new_capsule(address, _NAME, _destroy)
