"""What a detector takes as a picture or an option, and what it refuses in one line."""

from __future__ import annotations

import copy
import io
import mmap
import os
import pickle
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from tests.trt_afdet.onnx_models import save_model
from tests.trt_afdet.runtime.rigs import scene
from trt_afdet.errors import AfdetError, InvalidValueError, RunError
from trt_afdet.media.image_input import is_one, several, to_frame
from trt_afdet.runtime.detector import Detector, class_ids
from trt_afdet.support.arguments import count, fraction

BGR = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
GREY = BGR[:, :, 0].copy()
READ_ONLY = BGR.copy()
READ_ONLY.flags.writeable = False


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def png(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "one.png"
    cv2.imwrite(str(path), BGR)
    return path


def grey(plane: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.repeat(plane[:, :, None], 3, axis=2)


def turned() -> Image.Image:
    """A JPEG as phones write it: EXIF says that it is turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(BGR[:, :, ::-1]).save(buffer, "PNG", exif=exif)
    return Image.open(io.BytesIO(buffer.getvalue()))


PNG = cv2.imencode(".png", BGR)[1].tobytes()


def _temporary() -> Any:
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115
    file.write(PNG)
    file.seek(0)
    return file


def _mapped() -> mmap.mmap:
    mapped = mmap.mmap(-1, len(PNG))
    mapped[:] = PNG
    return mapped


class Wrapped:
    """What gives an array of itself, or fails to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def __array__(self, dtype: Any = None, copy: Any = None) -> npt.NDArray[np.uint8]:
        if self.error is not None:
            raise self.error
        return BGR


RGBA = np.dstack([BGR[:, :, ::-1], GREY])

#: Given, and the frame that it is.
TAKEN: dict[str, tuple[Callable[[], Any], npt.NDArray[np.uint8]]] = {
    "BGR": (lambda: BGR, BGR),
    "read-only": (lambda: READ_ONLY, BGR),
    "grey [H, W]": (lambda: GREY, grey(GREY)),
    "grey [H, W, 1]": (lambda: GREY[:, :, None], grey(GREY)),
    "BGRA": (lambda: np.dstack([BGR, GREY]), BGR),
    "RGB view": (lambda: BGR[:, :, ::-1], np.ascontiguousarray(BGR[:, :, ::-1])),
    "mirrored": (lambda: BGR[:, ::-1], np.ascontiguousarray(BGR[:, ::-1])),
    "upside down": (lambda: BGR[::-1], np.ascontiguousarray(BGR[::-1])),
    "every second": (lambda: BGR[::2, ::2], np.ascontiguousarray(BGR[::2, ::2])),
    "transposed": (lambda: BGR.transpose(1, 0, 2), np.ascontiguousarray(BGR.transpose(1, 0, 2))),
    "Fortran order": (lambda: np.asfortranarray(BGR), BGR),
    "int64 of 0..255": (lambda: BGR.astype(np.int64), BGR),
    "int16 of 0..255": (lambda: BGR.astype(np.int16), BGR),
    "masked array": (lambda: np.ma.masked_array(BGR), BGR),  # type: ignore[no-untyped-call]
    "PIL RGB": (lambda: Image.fromarray(BGR[:, :, ::-1]), BGR),
    "PIL L": (lambda: Image.fromarray(GREY), grey(GREY)),
    "PIL RGBA": (lambda: Image.fromarray(RGBA), BGR),
    "PIL P": (lambda: Image.fromarray(GREY).convert("P"), grey(GREY)),
    "PIL 1": (lambda: Image.fromarray(GREY > 127), grey(((GREY > 127) * 255).astype(np.uint8))),
    "PIL turned by EXIF": (turned, np.ascontiguousarray(np.rot90(BGR, -1))),
    "cv2.UMat": (lambda: cv2.UMat(BGR), BGR),
    "an object with an image": (lambda: SimpleNamespace(image=BGR), BGR),
    "encoded": (lambda: cv2.imencode(".png", BGR)[1].tobytes(), BGR),
    "bytearray": (lambda: bytearray(cv2.imencode(".png", BGR)[1].tobytes()), BGR),
    "uint8 [N] of an encoded picture": (lambda: cv2.imencode(".png", BGR)[1].ravel(), BGR),
    "memoryview": (lambda: memoryview(PNG), BGR),
    "memoryview of rows": (lambda: memoryview(BGR)[::-1], BGR[::-1]),
    "BytesIO": (lambda: io.BytesIO(PNG), BGR),
    "temporary file": (_temporary, BGR),
    "mmap": (_mapped, BGR),
    "__array__": (lambda: Wrapped(), BGR),
    "int32, big-endian": (lambda: BGR.astype(">i4"), BGR),
    "broadcast": (lambda: np.broadcast_to(BGR[:1], BGR.shape), np.repeat(BGR[:1], 24, axis=0)),
    "matrix": (lambda: np.asmatrix(GREY), grey(GREY)),
    "mask of nothing": (
        lambda: np.ma.masked_array(BGR, mask=np.zeros(BGR.shape, bool)),  # type: ignore[no-untyped-call]
        BGR,
    ),
    "one pixel": (lambda: BGR[:1, :1], BGR[:1, :1]),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_has_one_meaning_is_taken(name: str) -> None:
    make, want = TAKEN[name]
    picture = make()
    assert is_one(picture)
    frame = to_frame(picture)
    assert frame.dtype == np.uint8
    assert frame.flags.c_contiguous
    np.testing.assert_array_equal(frame, want)


def test_cmyk_and_pyav_frames_have_their_colours() -> None:
    import av

    plain = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    cmyk = Image.fromarray(plain[:, :, ::-1]).convert("CMYK")
    assert np.abs(to_frame(cmyk).astype(int) - plain).max() <= 2
    frame = av.VideoFrame.from_ndarray(plain, format="bgr24")
    np.testing.assert_array_equal(to_frame(frame), plain)


def test_paths_of_every_kind(png: Path) -> None:
    for path in (png, str(png)):
        np.testing.assert_array_equal(to_frame(path), BGR)


class Tensor:
    """What tensors of any framework show of themselves."""

    shape = (3, 24, 32)
    dtype = "torch.float32"

    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


Tensor.__module__ = "torch"

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "None": (lambda: cv2.imread("/nowhere.png"), "cv2.imread and capture.read"),
    "None in an array": (lambda: np.array(None), "there is no picture"),
    "float 0..1": (lambda: BGR / 255, r"\(frame \* 255\)"),
    "float 0..255": (lambda: BGR.astype(np.float32), r"\(frame\)\.round"),
    "float of NaN": (lambda: np.full((4, 4, 3), np.nan), "float picture"),
    "uint16": (lambda: BGR.astype(np.uint16), "16 bits"),
    "PIL I;16": (lambda: Image.fromarray(GREY.astype(np.uint16)), "16 bits"),
    "PIL F": (lambda: Image.fromarray(GREY.astype(np.float32)), "float picture"),
    "bool": (lambda: BGR > 127, r"mask \* 255"),
    "int of -1": (lambda: BGR.astype(np.int16) - 1, r"within 0\.\.255"),
    "int of 256": (lambda: BGR.astype(np.int32) + 256, r"within 0\.\.255"),
    "channels first": (lambda: BGR.transpose(2, 0, 1).copy(), r"transpose\(1, 2, 0\)"),
    "two channels": (lambda: BGR[:, :, :2], r"\[height, width, 3\]"),
    "five channels": (lambda: np.dstack([BGR, BGR[:, :, :2]]), r"\[height, width, 3\]"),
    "one dimension": (lambda: BGR.ravel(), r"\[height, width, 3\]"),
    "a batch in a list": (lambda: BGR[None], "given alone"),
    "empty": (lambda: BGR[:0], "empty"),
    "no width": (lambda: BGR[:, :0], "empty"),
    "empty list of an array": (lambda: np.array([]), "empty"),
    "objects": (lambda: np.full((2, 2, 3), "x", object), r"\[height, width, 3\]"),
    "texts": (lambda: np.full((2, 2, 3), "x"), r"\[height, width, 3\]"),
    "complex": (lambda: np.full((2, 2, 3), 1j), r"\[height, width, 3\]"),
    "tensor": (Tensor, "permute"),
    "VideoCapture": (lambda: cv2.VideoCapture(), r"capture\.read\(\)"),
    "a number": (lambda: 0, "/dev/video0"),
    "True": (lambda: True, "array, a path or a PIL image"),
    "an object": (object, "array, a path or a PIL image"),
    "an address": (lambda: "rtsp://10.0.0.5/x", "trt-afdet run"),
    "an empty path": (lambda: "", "path is empty"),
    "a folder": (lambda: Path("/"), "folder"),
    "a video": (lambda: "clip.mp4", "detector.stream"),
    "a missing file": (lambda: "/nowhere/x.jpg", "no such picture"),
    "no picture": (lambda: b"<html>", "HTML"),
    "another mask": (
        lambda: np.ma.masked_array(BGR, mask=BGR > 99),  # type: ignore[no-untyped-call]
        "masked",
    ),
    "uint16, big-endian": (lambda: np.zeros((4, 4, 3), ">u2"), "16 bits"),
    "raw pixels": (lambda: BGR.ravel(), "reshape"),
    "__array__ that raises": (lambda: Wrapped(KeyError("no\nway")), "gives no array"),
    "a list": (lambda: [BGR], "list within a list"),
    "pixels in lists": (lambda: BGR.tolist(), r"np\.array"),
    "an open text file": (lambda: io.StringIO("x"), "'rb'"),
    "a text file of bytes": (lambda: io.TextIOWrapper(io.BytesIO(PNG), "utf-8"), "'rb'"),
    "a file at its end": (io.BytesIO, "seek"),
    "a closed file": (lambda: _closed_file(), "closed"),
    "a file to write": (lambda: open(os.devnull, "wb"), "not readable|read"),  # noqa: PTH123, SIM115
    "a module": (lambda: os, "array, a path or a PIL image"),
    "a class": (lambda: io.BytesIO, "array, a path or a PIL image"),
    "a NumPy number": (lambda: np.int64(3), "/dev/video3"),
    "half a camera": (lambda: 1.5, r"not a picture \(got 1\.5\)$"),
    "a data address": (lambda: "data:image/png;base64,AAAA", "base64"),
    "a long text": (lambda: "x" * 5000, "not a path"),
    "a path with a zero": (lambda: "a\0b.png", "no such picture"),
    "a path with a break": (lambda: "a\nb.png", "no such picture"),
    "a path of odd bytes": (lambda: "\udcff.png", "no such picture"),
    "a pattern": (lambda: "*.png", "no such picture"),
    "a closed PIL image": (lambda: _closed(), "PIL image"),
}


def _closed_file() -> io.BytesIO:
    file = io.BytesIO(PNG)
    file.close()
    return file


def _closed() -> Image.Image:
    picture = turned()
    picture.close()
    return picture


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_not_is_refused_in_one_line(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(AfdetError, match=message) as caught:
        to_frame(make())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_several_of_all_kinds(model: Path, png: Path) -> None:
    with Detector.load(model) as detector:
        want = [box.xyxy.tolist() for box in detector([BGR, BGR])]
        mixed: list[Any] = [png, str(png), Image.fromarray(BGR[:, :, ::-1]), BGR[:, :, :]]
        for given_ in (mixed, tuple(mixed), (one for one in mixed), iter(mixed), map(str, [png])):
            found = detector(given_)
            assert isinstance(found, list)
            assert all(one.xyxy.tolist() == want[0] for one in found)
        assert len(detector(np.stack([BGR, BGR]))) == 2
        assert len(detector(BGR for _ in range(40))) == 40
        assert detector(iter([])) == []
        for one in (png, str(png), Image.fromarray(BGR[:, :, ::-1]), BGR):
            assert detector(one).xyxy.tolist() == want[0]
        with pytest.raises(InvalidValueError, match=r"cv2\.imread"):
            detector([BGR, None])  # type: ignore[list-item]
        with pytest.raises(InvalidValueError, match=r"ok, frame = capture\.read"):
            detector((True, BGR))  # type: ignore[arg-type]
        for unordered in ({"a": BGR}, {str(png)}):
            with pytest.raises(InvalidValueError, match="list"):
                detector(unordered)  # type: ignore[call-overload]


def test_pictures_of_many_sizes_in_one_array(model: Path) -> None:
    many = np.empty(2, object)
    many[:] = [BGR, BGR[:10]]
    with Detector.load(model) as detector:
        assert len(detector(many)) == 2


def test_what_a_generator_raises_is_the_callers(model: Path) -> None:
    def broken() -> Iterator[Any]:
        yield BGR
        raise KeyError("mine")

    with Detector.load(model) as detector:
        with pytest.raises(KeyError, match="mine"):
            detector(broken())
        assert len(detector([BGR])) == 1


def test_a_detector_is_not_copied(model: Path) -> None:
    with Detector.load(model) as detector:
        for use in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(InvalidValueError, match="open one in each"):
                use(detector)
        with pytest.raises(InvalidValueError, match="what submit returned"):
            detector.collect(None)  # type: ignore[arg-type]


def test_a_detector_used_by_many_threads_while_it_is_closed(model: Path) -> None:
    detector = Detector.load(model)
    want, wrong = detector(BGR).xyxy.tolist(), list[BaseException]()
    used = threading.Semaphore(0)

    def use() -> None:
        try:
            while True:
                assert detector(BGR).xyxy.tolist() == want
                used.release()
        except RunError:
            return
        except BaseException as error:
            wrong.append(error)
            used.release()

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        assert used.acquire(timeout=60)
    detector.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert wrong == []


def test_a_closed_detector_says_so_once_for_everything(model: Path) -> None:
    detector = Detector.load(model)
    detector.close()
    detector.close()
    for use in (detector, detector.submit, lambda frames: detector.__enter__()):
        with pytest.raises(RunError, match="the detector is closed"):
            use([BGR])  # type: ignore[operator]
    with Detector.load(model) as second:
        pass
    with pytest.raises(RunError, match="closed"):
        second(BGR)


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (None, None),
        (0.5, 0.5),
        ("0.5", 0.5),
        (" 0.5 ", 0.5),
        (0, 0),
        (1, 1),
        (np.float32(0.5), 0.5),
        (np.array(0.5), 0.5),
        ("5e-1", 0.5),
    ],
)
def test_shares(value: Any, want: Any) -> None:
    assert fraction("conf", value) == want


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (50, r"for 50 percent: 0\.5"),
        ("50", r"for 50 percent: 0\.5"),
        (1.5, "percent"),
        (-0.1, "0..1"),
        (True, r"number \(got True"),
        ("0,5", "point"),
        ("50%", "number"),
        ("", "number"),
        ("x", "number"),
        (float("nan"), "finite"),
        (float("inf"), "finite"),
        ([0.5], "number"),
        (1j, "number"),
        (101, "0..1"),
    ],
)
def test_no_shares(value: Any, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        fraction("conf", value)


@pytest.mark.parametrize(
    ("value", "want"), [(None, None), (5, 5), ("5", 5), (5.0, 5), (np.int64(5), 5)]
)
def test_counts(value: Any, want: Any) -> None:
    assert count("max_detections", value) == want


@pytest.mark.parametrize("value", [0, -1, 5.5, "5.5", True, "x", [5], float("inf"), np.bool_(True)])
def test_no_counts(value: Any) -> None:
    with pytest.raises(InvalidValueError, match="max_detections must be"):
        count("max_detections", value)


NAMES = ("imp", "zombie", "7")


@pytest.mark.parametrize(
    ("classes", "want"),
    [
        ("imp", [0]),
        (1, [1]),
        (["zombie", 0, "0", "imp"], [0, 1]),
        ("7", [2]),
        (("imp",), [0]),
        (np.array([0, 1]), [0, 1]),
        ({"imp", 1}, [0, 1]),
        ((n for n in NAMES), [0, 1, 2]),
        ("1", [1]),
    ],
)
def test_classes(classes: Any, want: list[int]) -> None:
    assert class_ids(classes, NAMES) == want


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("Imp", "did you mean 'imp'"),
        ("zombi", "did you mean 'zombie'"),
        ("car", "it has imp, zombie"),
        (3, "got 3"),
        (-1, "got -1"),
        ([True], "got True"),
        ([1.5], "got 1.5"),
        ([None], "got None"),
        ([], "at least one"),
        ("imp,zombie", "several classes are a list"),
        ({"imp": 1}, "names or ids"),
        (1.0, "names or ids"),
        (b"imp", "names or ids"),
    ],
)
def test_no_classes(classes: Any, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        class_ids(classes, NAMES)


@pytest.mark.parametrize("path", [None, "", 5, b"model.onnx", ["model.onnx"]])
def test_no_path_of_a_model(path: Any) -> None:
    with pytest.raises(InvalidValueError, match="named by its path"):
        Detector.load(path)


def test_a_path_in_place_of_a_backend(model: Path) -> None:
    with Detector(str(model)) as detector, Detector.load(model) as loaded:
        assert detector.names == loaded.names


def test_nothing_opens_the_shipped_model() -> None:
    with Detector() as detector:
        assert detector.names[0] == "zombieman"


@pytest.mark.parametrize("device", ["gpu", "cuda:x", True, 1.5, ""])
def test_a_device_that_is_none(model: Path, device: Any) -> None:
    with pytest.raises(InvalidValueError, match='a device is a number, "cuda:1" or "cpu"'):
        Detector(model, device=device)


def test_a_gpu_that_onnx_runtime_cannot_use(model: Path) -> None:
    with pytest.raises(InvalidValueError, match="no such execution provider"):
        Detector(model, device=1)
    with Detector(model, device="cpu") as detector:
        assert detector.names


def test_rgb_by_name(model: Path) -> None:
    bgr = scene(3)
    rgb = np.ascontiguousarray(bgr[..., ::-1])
    with Detector(conf=0.2) as detector:
        want = detector(bgr)
        assert detector(rgb, rgb=True).to_json() == want.to_json()
        assert detector([rgb, rgb], rgb=True)[1].to_json() == want.to_json()


ANY_ARRAY = arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5).flatmap(
    lambda shape: st.sampled_from(
        ("u1", "u2", "i4", "i8", "f2", "f4", "f8", "?", "c8", "O", "U3", "M8[s]")
    ).map(lambda kind: np.zeros(shape, kind))
)
ANYTHING = st.one_of(
    ANY_ARRAY,
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=40),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(), st.none(), max_size=2),
)


@settings(max_examples=2000, deadline=None)
@given(ANYTHING)
def test_anything_is_a_frame_or_one_line(thing: Any) -> None:
    said = ""
    frames = []
    try:
        frames = [to_frame(thing)] if is_one(thing) else [to_frame(one) for one in several(thing)]
    except AfdetError as error:
        said = str(error)
    assert said.splitlines() in ([], [said])
    for frame in frames:
        assert frame.dtype == np.uint8
        assert frame.ndim == 3
        assert frame.shape[2] == 3
        assert frame.size
