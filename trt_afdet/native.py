"""The native libraries: found, checked and typed.

``libafdet_host`` decodes on the CPU, ``libafdet_cuda`` on the GPU; ``libafdet_emulated`` is the
CUDA kernels' own source run on the CPU, for tests. Their C ABI is ``plugins/include/afdet``.
Nothing is loaded before it is asked for.

A library is looked for in the folders of the environment variable ``TRT_AFDET_LIBRARY_PATH``, in
the installed package, then where the system's loader looks.
"""

from __future__ import annotations

import ctypes
import os
import sys
import sysconfig
from collections.abc import Sequence
from ctypes import POINTER, c_char_p, c_float, c_int32, c_size_t, c_uint8, c_uint32, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trt_afdet.errors import InvalidValueError, MissingDependencyError, RunError
from trt_afdet.spec import ModelSpec

#: Folders to look in first, separated as in PATH.
LIBRARY_PATH_VARIABLE = "TRT_AFDET_LIBRARY_PATH"

ABI_VERSION = 1
MAX_LEVELS = 8

#: AFDET_FLOAT32, AFDET_FLOAT16.
DTYPES = {"float32": 0, "float16": 1}

_CUDA_ERRORS = 1000

#: What a status means.
_STATUS = {
    1: "a pointer that must not be null is null",
    2: "a struct has another size than the library was built with",
    3: "the number of levels or a stride is out of range",
    4: "height and width must be positive multiples of every stride",
    5: "there is no class, or there are too many (point, class) pairs",
    6: "candidates_per_level or max_detections is out of range",
    7: "a threshold is outside 0..1, or the regression scale is not above 0",
    8: "the batch or the number of threads is out of range",
    9: "tensors must be float32 or float16, all of one type",
    10: "the workspace is too small or not aligned",
    11: "out of memory",
    12: "a frame's size, pitch, format or placement is out of range",
    13: "pad_value, mean or std is out of range, or not a number",
    14: "a pointer is not aligned as it must be",
}

#: What to do about CUDA errors that users meet.
_CUDA_ADVICE = {
    2: ("out of device memory", "use a smaller batch, or free memory held by others"),
    35: ("the driver is older than the CUDA runtime", "update the NVIDIA driver"),
    46: ("the device is in use by another process", "set its compute mode to default"),
    98: ("a kernel does not exist in the library", "reinstall trt-afdet from source"),
    100: ("no CUDA device was found", "see `trt-afdet doctor`"),
    209: (
        "the library has no code for this GPU",
        "build it with -DAFDET_CUDA_ARCHITECTURES=native",
    ),
    400: ("the stream is invalid", "it may belong to another device or have been destroyed"),
    700: ("a kernel read or wrote where it must not", "a pointer or size passed in is wrong"),
    701: ("a kernel asks for more registers or shared memory than the GPU has", None),
    719: ("a kernel failed; the CUDA context is lost", "restart the process"),
    900: ("the call is not allowed while the stream is being captured", None),
}


class NativeMissingError(MissingDependencyError):
    """A native library is not there, or is not the one this package was made for."""


class NativeError(RunError):
    """A native function failed."""


class DecodeParams(ctypes.Structure):
    """AfdetParams."""

    _fields_ = (
        ("struct_size", c_uint32),
        ("num_levels", c_int32),
        ("num_classes", c_int32),
        ("height", c_int32),
        ("width", c_int32),
        ("strides", c_int32 * MAX_LEVELS),
        ("candidates_per_level", c_int32),
        ("max_detections", c_int32),
        ("class_agnostic", c_int32),
        ("regression_scale", c_float),
        ("score_threshold", c_float),
        ("nms_iou", c_float),
    )

    @classmethod
    def of(cls, spec: ModelSpec) -> DecodeParams:
        """The values of a spec; raises InvalidValueError if it has too many levels."""
        if len(spec.strides) > MAX_LEVELS:
            what = f"native code takes up to {MAX_LEVELS} levels"
            raise InvalidValueError(what, got=len(spec.strides))
        # More candidates than pairs means all of them.
        pairs = max(rows * columns for rows, columns in spec.grid_sizes) * spec.num_classes
        return cls(
            struct_size=ctypes.sizeof(cls),
            num_levels=len(spec.strides),
            num_classes=spec.num_classes,
            height=spec.height,
            width=spec.width,
            strides=(c_int32 * MAX_LEVELS)(*spec.strides),
            candidates_per_level=min(spec.candidates_per_level, pairs),
            max_detections=spec.max_detections,
            class_agnostic=int(spec.class_agnostic),
            regression_scale=spec.regression_scale,
            score_threshold=spec.score_threshold,
            nms_iou=spec.nms_iou,
        )


class DetectionsOut(ctypes.Structure):
    """AfdetDetections: addresses of the four outputs."""

    _fields_ = (
        ("num_detections", c_void_p),
        ("boxes", c_void_p),
        ("scores", c_void_p),
        ("classes", c_void_p),
    )


class FrameDescriptor(ctypes.Structure):
    """AfdetFrameDescriptor: one frame's address, layout and placement."""

    _fields_ = (
        ("planes", c_void_p * 2),
        ("pitches", c_int32 * 2),
        ("height", c_int32),
        ("width", c_int32),
        ("format", c_int32),
        ("color", c_int32),
        ("top", c_int32),
        ("left", c_int32),
        ("box_height", c_int32),
        ("box_width", c_int32),
    )


class InputParams(ctypes.Structure):
    """AfdetInputParams."""

    _fields_ = (
        ("struct_size", c_uint32),
        ("height", c_int32),
        ("width", c_int32),
        ("pad_value", c_int32),
        ("bgr", c_int32),
        ("mean", c_float * 3),
        ("std", c_float * 3),
    )

    @classmethod
    def of(cls, spec: ModelSpec) -> InputParams:
        """The values of a spec."""
        return cls(
            struct_size=ctypes.sizeof(cls),
            height=spec.height,
            width=spec.width,
            pad_value=spec.pad_value,
            bgr=int(spec.color_order == "BGR"),
            mean=(c_float * 3)(*spec.mean),
            std=(c_float * 3)(*spec.std),
        )


class Outputs(NamedTuple):
    """Detections as the native code and the plugin write them; M = ``spec.max_detections``.

    Attributes:
        num_detections: int32 [N, 1].
        boxes: float32 [N, M, 4], x1 y1 x2 y2 in network-input pixels, best first.
        scores: float32 [N, M].
        classes: int32 [N, M]; -1 in unused rows, whose other values are 0.
    """

    num_detections: npt.NDArray[np.int32]
    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int32]

    @classmethod
    def empty(cls, batch: int, spec: ModelSpec) -> Outputs:
        """Uninitialised arrays for a batch."""
        most = spec.max_detections
        return cls(
            np.empty((batch, 1), np.int32),
            np.empty((batch, most, 4), np.float32),
            np.empty((batch, most), np.float32),
            np.empty((batch, most), np.int32),
        )


def check_status(status: int, action: str) -> None:
    """Raises NativeError, which says what failed, why, and what to do, unless ``status`` is 0."""
    if status == 0:
        return
    if status >= _CUDA_ERRORS:
        code = status - _CUDA_ERRORS
        text, hint = _CUDA_ADVICE.get(code, ("see cudaError_t in CUDA's manual", None))
        raise NativeError(f"{action} failed: {text}", got=f"CUDA error {code}", hint=hint)
    raise NativeError(f"{action} failed: {_STATUS.get(status, 'unknown status')}", got=status)


class HostLibrary:
    """libafdet_host: decode + NMS on the CPU; ``build_info`` tells compiler and instruction set."""

    def __init__(self, path: str) -> None:
        self.path = path
        library, self.build_info = _open(path, "afdet_host")
        self._detect = library.afdet_host_detect
        self._detect.restype = c_int32
        self._detect.argtypes = (
            POINTER(DecodeParams), POINTER(c_void_p), c_int32, c_int32, POINTER(c_uint8), c_int32,
            POINTER(DetectionsOut),
        )  # fmt: skip

    def detect(
        self,
        heads: Sequence[npt.NDArray[Any]],
        spec: ModelSpec,
        threads: int = 1,
        wanted: Sequence[int] | None = None,
    ) -> Outputs:
        """Heads to detections (steps 1 to 5).

        Args:
            heads: cls [N, K, H, W] of each level, then reg [N, 4, H, W] of each level, as
                :func:`trt_afdet.postprocess.check_heads` returns them. Taken as they are if all
                are float32 or all float16 and contiguous, else copied to float32.
            spec: Gives thresholds, scale and sizes.
            threads: Most CPU threads; an image is never split.
            wanted: Class ids to look for; all by default.

        Raises:
            InvalidValueError, NativeError: If the spec is beyond the native code's limits.
        """
        half = all(head.dtype == np.float16 for head in heads)
        dtype = np.float16 if half else np.float32
        arrays = [np.ascontiguousarray(head, dtype) for head in heads]
        batch = len(arrays[0])
        outputs = Outputs.empty(batch, spec)
        addresses = (c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
        mask = None
        if wanted is not None:
            mask = (c_uint8 * spec.num_classes)()
            for class_id in wanted:
                mask[class_id] = 1
        params = DecodeParams.of(spec)
        kind = DTYPES[np.dtype(dtype).name]
        places = DetectionsOut(*(array.ctypes.data for array in outputs))
        status = self._detect(params, addresses, kind, batch, mask, threads, places)
        check_status(status, "decoding on the CPU")
        return outputs


class CudaLibrary:
    """libafdet_cuda: decode + NMS and letterbox on the GPU, over raw device addresses.

    The emulation is the same ABI over host addresses. ``build_info`` tells toolkit and
    architectures.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._library, self.build_info = _open(path, "afdet_cuda")
        params, frames = POINTER(InputParams), POINTER(FrameDescriptor)
        signatures: dict[str, tuple[Any, ...]] = {
            "detect_workspace": (POINTER(DecodeParams), c_int32, c_int32, POINTER(c_size_t)),
            "detect": (
                POINTER(DecodeParams), POINTER(c_void_p), c_int32, c_int32, POINTER(DetectionsOut),
                c_void_p, c_size_t, c_void_p,
            ),
            "check_frames": (params, frames, c_int32),
            "place_frames": (params, frames, c_int32),
            "letterbox": (params, c_void_p, c_int32, c_void_p, c_int32, c_void_p),
        }  # fmt: skip
        for name, arguments in signatures.items():
            function = getattr(self._library, f"afdet_cuda_{name}")
            function.restype = c_int32
            function.argtypes = arguments

    def detect_workspace(self, spec: ModelSpec, dtype: str, batch: int) -> int:
        """Bytes of workspace that :meth:`detect` needs; errors as there."""
        size = c_size_t()
        params = DecodeParams.of(spec)
        status = self._library.afdet_cuda_detect_workspace(params, DTYPES[dtype], batch, size)
        check_status(status, "sizing the decoder's workspace")
        return size.value

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
        """Queues decode + NMS.

        Args:
            heads: Addresses of cls of each level, then reg of each level, 16-byte aligned.
            spec: Gives thresholds, scale and sizes.
            dtype: ``"float32"`` or ``"float16"``.
            batch: N.
            outputs: Addresses of num_detections, boxes, scores, classes; see :class:`Outputs`.
            workspace: Address, 256-byte aligned.
            workspace_bytes: At least :meth:`detect_workspace`.
            stream: A cudaStream_t.

        Raises:
            InvalidValueError, NativeError: If an argument is refused or a launch fails.
        """
        params = DecodeParams.of(spec)
        addresses = (c_void_p * len(heads))(*heads)
        places = DetectionsOut(*outputs)
        status = self._library.afdet_cuda_detect(
            params, addresses, DTYPES[dtype], batch, places, workspace, workspace_bytes, stream
        )
        check_status(status, "queueing the decoder")

    def check_frames(self, frames: Sequence[FrameDescriptor], spec: ModelSpec) -> None:
        """Raises NativeError if a frame descriptor, on its way to the device, is out of range."""
        array = (FrameDescriptor * len(frames))(*frames)
        status = self._library.afdet_cuda_check_frames(InputParams.of(spec), array, len(frames))
        check_status(status, "checking the frames")

    def letterbox(
        self, frames: int, count: int, spec: ModelSpec, output: int, dtype: str, stream: int = 0
    ) -> None:
        """Queues the letterbox: frames of any sizes to one network input.

        Args:
            frames: Device address of ``count`` :class:`FrameDescriptor`, checked before.
            count: Frames.
            spec: Gives size, padding and normalisation.
            output: Address of [count, 3, spec.height, spec.width], 16-byte aligned.
            dtype: Of the output.
            stream: A cudaStream_t.

        Raises:
            NativeError: If an argument is refused or the launch fails.
        """
        status = self._library.afdet_cuda_letterbox(
            InputParams.of(spec), frames, count, output, DTYPES[dtype], stream
        )
        check_status(status, "queueing the letterbox")

    def set_order(self, seed: int) -> None:
        """Emulation only: threads and blocks run in order (0), reversed (1) or shuffled."""
        function = self._library.afdet_emulated_set_order
        function.restype = None
        function.argtypes = (c_uint32,)
        function(seed)


@cache
def host() -> HostLibrary:
    """The CPU library; raises NativeMissingError if it is not there."""
    return HostLibrary(find("afdet_host"))


@cache
def cuda() -> CudaLibrary:
    """The CUDA library; raises NativeMissingError if it or the CUDA driver is not there."""
    return CudaLibrary(find("afdet_cuda"))


@cache
def emulated() -> CudaLibrary:
    """The CUDA kernels on the CPU; raises NativeMissingError if they are not there."""
    return CudaLibrary(find("afdet_emulated"))


def plugin_build_info() -> str:
    """How the TensorRT plugin was built: TensorRT's version, toolkit and architectures.

    Raises NativeMissingError if it is not there.
    """
    _, build_info = _open(find("afdet_plugin"), "afdet_plugin")
    return build_info


def file_name(name: str) -> str:
    """A library's file name on this system."""
    if sys.platform == "win32":
        return f"{name}.dll"
    return f"lib{name}.dylib" if sys.platform == "darwin" else f"lib{name}.so"


def folders() -> list[Path]:
    """Where libraries are looked for before the system's own places."""
    listed = os.environ.get(LIBRARY_PATH_VARIABLE, "").split(os.pathsep)
    package = [Path(__file__).parent / "lib"]
    # An editable install leaves the sources where they are and the libraries in site-packages.
    package.append(Path(sysconfig.get_path("platlib")) / "trt_afdet" / "lib")
    return [Path(folder) for folder in listed if folder] + package


def find(name: str) -> str:
    """The path of a native library, such as ``"afdet_host"``.

    Raises NativeMissingError if it is in none of the folders and the system does not know it.
    """
    file = file_name(name)
    for folder in folders():
        if (folder / file).is_file():
            return str((folder / file).absolute())
    try:
        ctypes.CDLL(file)
    except OSError:
        hint = f"install trt-afdet where a C++ compiler is, or set {LIBRARY_PATH_VARIABLE}"
        raise NativeMissingError(f"the native library {file} was not found", hint=hint) from None
    return file


def _open(path: str, prefix: str) -> tuple[ctypes.CDLL, str]:
    """A library, and how it was built."""
    try:
        library = ctypes.CDLL(path)
        version = getattr(library, f"{prefix}_abi_version")()
    except OSError as error:
        what, hint = "a native library cannot be loaded", "see `trt-afdet doctor`"
        raise NativeMissingError(what, got=error, hint=hint) from error
    except AttributeError as error:
        what = "a file is not the native library it should be"
        raise NativeMissingError(what, got=path) from error
    if version != ABI_VERSION:
        what = f"{path} has interface version {version}, this trt-afdet needs {ABI_VERSION}"
        raise NativeMissingError(what, hint="reinstall trt-afdet")
    build_info = getattr(library, f"{prefix}_build_info")
    build_info.restype = c_char_p
    return library, build_info().decode()
