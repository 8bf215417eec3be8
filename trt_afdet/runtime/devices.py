"""Opens the GPU through whichever CUDA package is installed."""

from __future__ import annotations

import importlib.util

from trt_afdet.errors import InvalidValueError, MissingDependencyError
from trt_afdet.runtime.device import Device

#: The module of each library.
_MODULES = {"pycuda": "pycuda", "cuda-python": "cuda"}


def open_device(index: int = 0, library: str | None = None) -> Device:
    """Opens a GPU.

    Args:
        index: Among the machine's GPUs.
        library: ``"pycuda"`` or ``"cuda-python"``; the first that is installed by default.

    Raises:
        MissingDependencyError: If no such package is installed.
        InvalidValueError: If the library is unknown.
        NativeError: If there is no driver or no such GPU.
    """
    if library is not None and library not in _MODULES:
        raise InvalidValueError(f"the device library is one of {', '.join(_MODULES)}", got=library)
    names = [library] if library else list(_MODULES)
    found = next((name for name in names if importlib.util.find_spec(_MODULES[name])), None)
    if found == "pycuda":
        from trt_afdet.runtime.device_pycuda import PycudaDevice

        return PycudaDevice(index)
    if found == "cuda-python":
        from trt_afdet.runtime.device_cuda_python import CudaPythonDevice

        return CudaPythonDevice(index)
    raise MissingDependencyError(
        f"running on a GPU needs {' or '.join(names)}, which is not installed",
        hint=f"pip install {names[-1]}",
    )
