"""The letterbox kernel against trt_afdet.preprocess: on the CPU by its emulation, and on a GPU."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.paths import ROOT
from tests.skips import skip_test
from trt_afdet import native
from trt_afdet.errors import MissingDependencyError
from trt_afdet.geometry import Letterbox
from trt_afdet.preprocess import letterbox, preprocess
from trt_afdet.spec import ModelSpec

Image = npt.NDArray[np.uint8]

BGR, NV12 = 0, 1
BT601_LIMITED, BT601_FULL, BT709_LIMITED, BT709_FULL = range(4)

FRAME_ERROR = 12

SPEC = ModelSpec(name="t", class_names=("a",), height=128, width=256)


class Plane(NamedTuple):
    """Rows of bytes in memory that ends with the last one of them.

    Attributes:
        memory: uint8 [offset + (rows - 1) * pitch + row bytes].
        offset: Of the first row.
        pitch: Bytes from one row to the next.
    """

    memory: Image
    offset: int
    pitch: int

    @classmethod
    def of(cls, rows: Image, offset: int, gap: int) -> Plane:
        """Of uint8 [rows, bytes]; what is between the rows is noise."""
        height, width = rows.shape
        pitch = width + gap
        size = offset + (height - 1) * pitch + width
        memory = np.random.default_rng(size).integers(0, 256, size, np.uint8)
        view = np.lib.stride_tricks.as_strided(memory[offset:], rows.shape, (pitch, 1))
        view[:] = rows
        return cls(memory, offset, pitch)


class Source(NamedTuple):
    """A frame in memory, and the same as BGR uint8 [H, W, 3]."""

    planes: list[Plane]
    format: int
    color: int
    image: Image


def bgr_source(image: Image, offset: int = 0, gap: int = 0) -> Source:
    plane = Plane.of(image.reshape(len(image), -1), offset, gap)
    return Source([plane], BGR, 0, image)


def nv12_source(image: Image, offset: int = 0, gap: int = 0, color: int = BT601_LIMITED) -> Source:
    """Of uint8 [3 * H / 2, W]: luma, then chroma."""
    height = len(image) * 2 // 3
    luma, chroma = image[:height], image[height:]
    planes = [Plane.of(luma, offset, gap), Plane.of(chroma, offset // 2, gap * 2)]
    bgr = np.asarray(cv2.cvtColor(image, cv2.COLOR_YUV2BGR_NV12), np.uint8)
    return Source(planes, NV12, color, bgr)


def noise(height: int, width: int, *channels: int) -> Image:
    rng = np.random.default_rng(height * 65537 + width)
    return rng.integers(0, 256, (height, width, *channels), np.uint8)


class Machine(Protocol):
    """Where the kernel runs: its library, and its memory.

    Attributes:
        library: The C ABI.
    """

    library: native.CudaLibrary

    def put(self, memory: Image) -> int:
        """Copies to memory that starts at a multiple of 16; its address."""
        ...

    def get(self, address: int, size: int) -> Image: ...

    def free(self) -> None: ...


class Emulation:
    def __init__(self) -> None:
        self.library = native.emulated()
        self._kept: list[Image] = []

    def put(self, memory: Image) -> int:
        # As the system gave it, without a byte more: a sanitizer sees what is read around it.
        copy = memory.copy()
        address = int(copy.ctypes.data)
        assert address % 16 == 0
        self._kept.append(copy)
        return address

    def get(self, address: int, size: int) -> Image:
        return np.array((ctypes.c_uint8 * size).from_address(address), np.uint8)

    def free(self) -> None:
        self._kept.clear()


class Gpu:
    def __init__(self) -> None:
        from trt_afdet.runtime.device import Resources
        from trt_afdet.runtime.devices import open_device

        self.library = native.cuda()
        self._device = open_device()
        self._make = lambda: Resources(self._device)
        self._resources = self._make()

    def put(self, memory: Image) -> int:
        with self._device.active():
            address = self._resources.memory(memory.size)
            self._device.copy_in(address, np.ascontiguousarray(memory), 0)
            self._device.synchronize(0)
        return address

    def get(self, address: int, size: int) -> Image:
        result = np.empty(size, np.uint8)
        with self._device.active():
            self._device.copy_out(result, address, 0)
            self._device.synchronize(0)
        return result

    def free(self) -> None:
        self._resources.close()
        self._resources = self._make()


@pytest.fixture(scope="module", params=[Emulation, pytest.param(Gpu, marks=pytest.mark.gpu)])
def machine(request: pytest.FixtureRequest) -> Machine:
    return open_machine(request.param)


@pytest.fixture(scope="module")
def emulation() -> Emulation:
    return open_machine(Emulation)


def open_machine(kind: Callable[[], Any]) -> Any:
    try:
        return kind()
    except (MissingDependencyError, native.NativeError) as error:
        skip_test(error, "make native-host; for CUDA a GPU and make gpu-check")


def as_bytes(frames: ctypes.Array[native.FrameDescriptor]) -> Image:
    return np.frombuffer(bytes(frames), np.uint8)


def describe(machine: Machine, source: Source, spec: ModelSpec) -> native.FrameDescriptor:
    """Copies a frame to the machine."""
    height, width = source.image.shape[:2]
    box = Letterbox.fit(height, width, spec.height, spec.width)
    addresses = [machine.put(plane.memory) + plane.offset for plane in source.planes]
    pitches = [plane.pitch for plane in source.planes]
    return native.FrameDescriptor(
        planes=(ctypes.c_void_p * 2)(*addresses),
        pitches=(ctypes.c_int32 * 2)(*pitches),
        height=height,
        width=width,
        format=source.format,
        color=source.color,
        top=box.top,
        left=box.left,
        box_height=box.height,
        box_width=box.width,
    )


GUARD = 64


def run(
    machine: Machine, sources: Sequence[Source], spec: ModelSpec, dtype: str = "float32"
) -> npt.NDArray[Any]:
    """Frames to the network input [N, 3, H, W]; what lies around it must stay as it was."""
    try:
        frames = [describe(machine, source, spec) for source in sources]
        machine.library.check_frames(frames, spec)
        array = (native.FrameDescriptor * len(frames))(*frames)
        shape = (len(frames), 3, spec.height, spec.width)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        output = machine.put(np.full(size + 2 * GUARD, 0xA5, np.uint8)) + GUARD
        descriptors = machine.put(as_bytes(array))
        machine.library.letterbox(descriptors, len(frames), spec, output, dtype)
        memory = machine.get(output - GUARD, size + 2 * GUARD)
    finally:
        machine.free()
    assert (memory[:GUARD] == 0xA5).all()
    assert (memory[-GUARD:] == 0xA5).all()
    return memory[GUARD:-GUARD].view(dtype).reshape(shape)


def pixels(images: npt.NDArray[Any], spec: ModelSpec) -> Image:
    """The 8-bit canvases [N, H, W, 3], BGR, that were normalised to [N, 3, H, W]."""
    values = images.astype(np.float64).transpose(0, 2, 3, 1)
    levels = np.rint((values * np.array(spec.std) + np.array(spec.mean)) * 255)
    return levels[..., :: -1 if spec.color_order == "RGB" else 1].astype(np.uint8)


def check(machine: Machine, sources: Sequence[Source], spec: ModelSpec, dtype: str) -> None:
    """Every pixel equals the Python preprocessing's, to the bit before normalisation."""
    got = run(machine, sources, spec, dtype)
    want, _ = preprocess([source.image for source in sources], spec)
    np.testing.assert_array_equal(pixels(got, spec), pixels(want, spec))
    if dtype == "float32":
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    else:
        np.testing.assert_allclose(got, want.astype(np.float16), rtol=2**-10, atol=1e-6)


sides = st.one_of(st.integers(1, 40), st.integers(1, 700), st.sampled_from([128, 256, 512, 2160]))
layouts = st.tuples(st.integers(0, 9), st.integers(0, 9))


@st.composite
def bgr_sources(draw: st.DrawFn) -> Source:
    height, width = draw(st.tuples(sides, sides) | st.sampled_from([(3, 3840), (2160, 5)]))
    return bgr_source(noise(height, width, 3), *draw(layouts))


@st.composite
def nv12_sources(draw: st.DrawFn) -> Source:
    height, width = draw(st.tuples(sides, sides) | st.sampled_from([(2, 1920), (1080, 1)]))
    return nv12_source(noise(height * 3, width * 2), *draw(layouts))


specs = st.builds(
    SPEC.replace,
    height=st.sampled_from([128, 256]),
    width=st.sampled_from([128, 384]),
    pad_value=st.integers(0, 255),
    color_order=st.sampled_from(["RGB", "BGR"]),
    mean=st.tuples(*[st.floats(0, 1)] * 3),
    std=st.tuples(*[st.floats(0.1, 1)] * 3),
)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sources=st.lists(bgr_sources() | nv12_sources(), min_size=1, max_size=4),
    spec=specs,
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_frames_of_any_size_and_format_in_one_launch(
    machine: Machine, sources: list[Source], spec: ModelSpec, dtype: str
) -> None:
    check(machine, sources, spec, dtype)


@pytest.mark.parametrize(
    ("height", "width"),
    [(1080, 1920), (480, 640), (2160, 3840), (1, 1), (1, 4096), (4096, 1), (719, 1283), (31, 7919)],
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_sizes_of_cameras_and_extremes(
    machine: Machine, height: int, width: int, dtype: str
) -> None:
    spec = SPEC.replace(height=512, width=512)
    sources = [bgr_source(noise(height, width, 3))]
    if height % 2 == width % 2 == 0:
        sources.append(nv12_source(noise(height * 3 // 2, width)))
    check(machine, sources, spec, dtype)


def test_a_frame_of_the_inputs_size_is_copied(machine: Machine) -> None:
    image = noise(SPEC.height, SPEC.width, 3)
    for offset in range(5):
        got = run(machine, [bgr_source(image, offset, gap=offset * 3)], SPEC)
        np.testing.assert_array_equal(pixels(got, SPEC)[0], image)


def test_every_column_of_every_size(emulation: Emulation) -> None:
    """Where a column lies is computed in float32 pairs: it must round as OpenCV's float64 does."""
    for width in [*range(129, 700, 7), *range(1000, 8000, 173), 16383, 40001, 65536]:
        check(emulation, [bgr_source(noise(2, width, 3))], SPEC, "float32")


def test_colors_are_converted_as_opencv_does(machine: Machine) -> None:
    """All of Y and U, with every 15th V."""
    spec = SPEC.replace(height=512, width=512)
    y = np.repeat(np.arange(256, dtype=np.uint8), 2)
    luma = np.tile(y, (512, 1))
    for v in range(0, 256, 15):
        u = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 256, axis=1)
        chroma = np.stack([u, np.full_like(u, v)], axis=2).reshape(256, 512)
        source = nv12_source(np.concatenate([luma, chroma]))
        got = run(machine, [source], spec)
        np.testing.assert_array_equal(pixels(got, spec)[0], source.image)


@pytest.mark.parametrize(
    ("color", "red", "blue", "limited"),
    [
        (BT601_LIMITED, 0.299, 0.114, True),
        (BT601_FULL, 0.299, 0.114, False),
        (BT709_LIMITED, 0.2126, 0.0722, True),
        (BT709_FULL, 0.2126, 0.0722, False),
    ],
)
def test_colors_follow_their_standards(
    machine: Machine, color: int, red: float, blue: float, limited: bool
) -> None:
    """From the definition: Y = Kr R + Kg G + Kb B, U = (B - Y) / (2 - 2 Kb), V alike."""
    spec = SPEC.replace(height=256, width=256)
    image = noise(384, 256)
    got = pixels(run(machine, [nv12_source(image, color=color)], spec), spec)[0]

    chroma = image[256:].reshape(128, 128, 2).repeat(2, axis=0).repeat(2, axis=1).astype(float)
    y = (np.maximum(image[:256].astype(float) - 16, 0) / 219) if limited else image[:256] / 255
    u, v = ((chroma - 128) / (224 if limited else 255)).transpose(2, 0, 1)
    b = y + 2 * (1 - blue) * u
    r = y + 2 * (1 - red) * v
    g = (y - red * r - blue * b) / (1 - red - blue)
    want = np.clip(np.stack([b, g, r], axis=-1) * 255, 0, 255)
    # OpenCV's coefficients of BT.601 limited have three digits.
    assert np.abs(got - want).max() <= (1.1 if color == BT601_LIMITED else 0.51)


def test_the_order_of_threads_changes_nothing(emulation: Emulation) -> None:
    sources = [bgr_source(noise(90, 77, 3), 1, 2), nv12_source(noise(300, 150))]
    results = []
    try:
        for seed in (0, 0, 1, 2, 3):
            emulation.library.set_order(seed)
            results.append(run(emulation, sources, SPEC, "float16"))
    finally:
        emulation.library.set_order(0)
    for result in results[1:]:
        np.testing.assert_array_equal(result.view(np.uint16), results[0].view(np.uint16))


def test_a_placement_other_than_the_centre_is_followed(machine: Machine) -> None:
    """The descriptor says where, even across the groups of columns that a thread writes."""
    image = noise(50, 60, 3)
    for top, left, height, width in [(0, 0, 50, 60), (77, 195, 51, 61), (3, 1, 1, 1), (5, 6, 9, 2)]:
        frame = describe(machine, bgr_source(image), SPEC)
        frame.top, frame.left, frame.box_height, frame.box_width = top, left, height, width
        machine.library.check_frames([frame], SPEC)
        output = machine.put(np.zeros(3 * SPEC.height * SPEC.width * 4, np.uint8))
        address = machine.put(as_bytes((native.FrameDescriptor * 1)(frame)))
        machine.library.letterbox(address, 1, SPEC, output, "float32")
        memory = machine.get(output, 3 * SPEC.height * SPEC.width * 4)
        machine.free()
        want = np.full((SPEC.height, SPEC.width, 3), SPEC.pad_value, np.uint8)
        want[top : top + height, left : left + width] = cv2.resize(image, (width, height))
        got = memory.view(np.float32).reshape(1, 3, SPEC.height, SPEC.width)
        np.testing.assert_array_equal(pixels(got, SPEC)[0], want)


# Placement


def functions(emulation: Emulation) -> ctypes.CDLL:
    """The bare functions, for what no wrapper would pass."""
    return ctypes.CDLL(emulation.library.path)


@settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    size=st.tuples(st.integers(1, 65536), st.integers(1, 65536))
    | st.tuples(st.integers(1, 600), st.integers(1, 600)),
    side=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_placement_equals_pythons(
    emulation: Emulation, size: tuple[int, int], side: tuple[int, int]
) -> None:
    spec = SPEC.replace(height=side[0] * 128, width=side[1] * 128)
    frame = native.FrameDescriptor(height=size[0], width=size[1])
    params = native.InputParams.of(spec)
    place = functions(emulation).afdet_cuda_place_frames
    assert place(ctypes.byref(params), ctypes.byref(frame), 1) == 0
    box = Letterbox.fit(*size, spec.height, spec.width)
    got = (frame.top, frame.left, frame.box_height, frame.box_width)
    assert got == (box.top, box.left, box.height, box.width)


def test_placement_rounds_halves_to_even(emulation: Emulation) -> None:
    place = functions(emulation).afdet_cuda_place_frames
    params = native.InputParams.of(SPEC.replace(height=128, width=128))
    halves = 0
    for height in range(1, 512):
        frame = native.FrameDescriptor(height=height, width=512 if height % 4 == 2 else 256)
        assert place(ctypes.byref(params), ctypes.byref(frame), 1) == 0
        box = Letterbox.fit(height, frame.width, 128, 128)
        assert (frame.box_height, frame.box_width) == (box.height, box.width)
        halves += (height * 128 / frame.width) % 1 == 0.5
    assert halves > 100


# What is refused


def good_frame(format: int = BGR) -> native.FrameDescriptor:
    return native.FrameDescriptor(
        planes=(ctypes.c_void_p * 2)(4096, 8192),
        pitches=(ctypes.c_int32 * 2)(300, 100),
        height=80,
        width=100,
        format=format,
        color=0,
        top=0,
        left=10,
        box_height=128,
        box_width=160,
    )


@pytest.mark.parametrize("format", [BGR, NV12])
@pytest.mark.parametrize(
    "changes",
    [
        {"planes": (ctypes.c_void_p * 2)(None, 8192)},
        {"height": 0},
        {"height": -80},
        {"height": 65538},
        {"width": 0},
        {"width": 2**31 - 2},
        {"pitches": (ctypes.c_int32 * 2)(99, 100)},
        {"pitches": (ctypes.c_int32 * 2)(-300, 100)},
        {"format": 2},
        {"format": -1},
        {"top": -1},
        {"top": 1},
        {"left": -1},
        {"left": 97},
        {"left": 2**31 - 1},
        {"box_height": 0},
        {"box_height": 129},
        {"box_width": 0},
        {"box_width": 2**31 - 1},
    ],
)
def test_frames_that_cannot_be(emulation: Emulation, format: int, changes: dict[str, Any]) -> None:
    good = good_frame(format)
    emulation.library.check_frames([good], SPEC)
    bad = good_frame(format)
    for name, value in changes.items():
        setattr(bad, name, value)
    with pytest.raises(native.NativeError, match="frame"):
        emulation.library.check_frames([good, bad], SPEC)


@pytest.mark.parametrize(
    "changes",
    [
        {"planes": (ctypes.c_void_p * 2)(4096, None)},
        {"height": 81},
        {"width": 99},
        {"pitches": (ctypes.c_int32 * 2)(300, 99)},
        {"color": 4},
        {"color": -1},
    ],
)
def test_nv12_frames_that_cannot_be(emulation: Emulation, changes: dict[str, Any]) -> None:
    bad = good_frame(NV12)
    for name, value in changes.items():
        setattr(bad, name, value)
    with pytest.raises(native.NativeError, match="frame"):
        emulation.library.check_frames([bad], SPEC)
    bad.format = BGR
    if bad.pitches[0] >= 3 * bad.width:
        emulation.library.check_frames([bad], SPEC)


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"struct_size": 47}, 2),
        ({"height": 0}, 4),
        ({"height": 65537}, 4),
        ({"width": -128}, 4),
        ({"width": 130}, 4),
        ({"pad_value": -1}, 13),
        ({"pad_value": 256}, 13),
        ({"mean": (ctypes.c_float * 3)(0, 0, NAN)}, 13),
        ({"mean": (ctypes.c_float * 3)(-INFINITY, 0, 0)}, 13),
        ({"std": (ctypes.c_float * 3)(1, 0, 1)}, 13),
        ({"std": (ctypes.c_float * 3)(1, 1, NAN)}, 13),
        ({"std": (ctypes.c_float * 3)(INFINITY, 1, 1)}, 13),
    ],
)
def test_parameters_that_cannot_be(
    emulation: Emulation, changes: dict[str, Any], status: int
) -> None:
    params = native.InputParams.of(SPEC)
    for name, value in changes.items():
        setattr(params, name, value)
    frame = good_frame()
    library = functions(emulation)
    memory = (ctypes.c_uint64 * 4)()
    for name in ("afdet_cuda_check_frames", "afdet_cuda_place_frames"):
        assert getattr(library, name)(ctypes.byref(params), ctypes.byref(frame), 1) == status
    launch = library.afdet_cuda_letterbox
    assert launch(ctypes.byref(params), ctypes.byref(frame), 1, memory, 0, None) == status


def test_arguments_that_cannot_be(emulation: Emulation) -> None:
    library = functions(emulation)
    params, frame = native.InputParams.of(SPEC), good_frame()
    memory = (ctypes.c_uint64 * 4)()
    start = ctypes.addressof(memory) + -ctypes.addressof(memory) % 16
    p, f = ctypes.byref(params), ctypes.byref(frame)
    for name in ("afdet_cuda_check_frames", "afdet_cuda_place_frames"):
        function = getattr(library, name)
        assert function(None, f, 1) == 1
        assert function(p, None, 1) == 1
        for count in (0, -1, 65536, 2**31 - 1):
            assert function(p, f, count) == 8
    launch = library.afdet_cuda_letterbox
    launch.argtypes = (ctypes.c_void_p,) * 2 + (ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32)
    launch.argtypes += (ctypes.c_void_p,)
    p_address, f_address = ctypes.addressof(params), ctypes.addressof(frame)
    assert launch(None, f_address, 1, start, 0, None) == 1
    assert launch(p_address, None, 1, start, 0, None) == 1
    assert launch(p_address, f_address, 1, None, 0, None) == 1
    assert launch(p_address, f_address, 1, start, 2, None) == 9
    assert launch(p_address, f_address, 1, start, -1, None) == 9
    assert launch(p_address, f_address, 1, start + 8, 0, None) == 14
    assert launch(p_address, f_address + 4, 1, start, 0, None) == 14
    for count in (0, -1, 65536):
        assert launch(p_address, f_address, count, start, 0, None) == 8


def test_a_size_that_cannot_be_is_not_placed(emulation: Emulation) -> None:
    params = native.InputParams.of(SPEC)
    place = functions(emulation).afdet_cuda_place_frames
    for height, width in [(0, 10), (10, 0), (-5, 10), (65537, 10)]:
        frame = native.FrameDescriptor(height=height, width=width)
        assert place(ctypes.byref(params), ctypes.byref(frame), 1) == FRAME_ERROR


# Memory that must not be read


def read_between_forbidden_pages() -> None:
    """Frames that start or end where readable memory does: one byte too many ends the process."""
    page = mmap.PAGESIZE
    area = mmap.mmap(-1, 34 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    libc = ctypes.CDLL(None, use_errno=True)
    for forbidden in (start, start + 33 * page):
        assert libc.mprotect(ctypes.c_void_p(forbidden), ctypes.c_size_t(page), 0) == 0
    machine = Emulation()
    whole = np.frombuffer(area, np.uint8)[page : 33 * page]

    def place(memory: Image, at_end: bool) -> int:
        offset = whole.size - memory.size if at_end else 0
        whole[offset : offset + memory.size] = memory
        return start + page + offset

    for height, width in [(1, 1), (2, 1), (1, 2), (5, 3), (40, 33), (33, 130), (150, 201)]:
        for gap in range(4):
            for at_end in (False, True):
                source = bgr_source(noise(height, width, 3), gap=gap)
                frame = describe(machine, source, SPEC)
                frame.planes[0] = place(source.planes[0].memory, at_end)
                launch_one(machine, frame, source)
            source = nv12_source(noise(height * 3, width * 2), gap=gap)
            for plane in range(2):
                for at_end in (False, True):
                    frame = describe(machine, source, SPEC)
                    frame.planes[plane] = place(source.planes[plane].memory, at_end)
                    launch_one(machine, frame, source)


def launch_one(machine: Machine, frame: native.FrameDescriptor, source: Source) -> None:
    size = 3 * SPEC.height * SPEC.width * 4
    output = machine.put(np.zeros(size, np.uint8))
    address = machine.put(as_bytes((native.FrameDescriptor * 1)(frame)))
    machine.library.letterbox(address, 1, SPEC, output, "float32")
    got = machine.get(output, size).view(np.float32).reshape(1, 3, SPEC.height, SPEC.width)
    want, _ = letterbox(source.image, SPEC.height, SPEC.width, SPEC.pad_value)
    np.testing.assert_array_equal(pixels(got, SPEC)[0], want)
    machine.free()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no mprotect: a run on Linux")
def test_nothing_outside_a_frame_is_read(emulation: Emulation) -> None:
    code = (
        "from tests.trt_afdet import test_letterbox_native as t;"
        "t.read_between_forbidden_pages(); print('done')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | {
            native.LIBRARY_PATH_VARIABLE: str(Path(emulation.library.path).parent),
            "PYTHONPATH": str(ROOT),
        },
    )
    assert (result.returncode, result.stdout.strip()) == (0, "done"), result.stderr
