"""Converts whatever a caller may give as a picture, if it has one meaning, to a BGR uint8 array.

| given | taken as |
|---|---|
| uint8 [H, W, 3] | BGR, as OpenCV has it |
| uint8 [H, W], [H, W, 1] | grey |
| uint8 [H, W, 4] | BGRA; the colours as stored |
| other whole numbers within 0..255 | the same as uint8 |
| a path (str, Path) | the picture, upright |
| an encoded picture: bytes, an open file, uint8 [N] | the picture, upright |
| a PIL image | the picture, upright; any mode of 8 bits |
| ``av.VideoFrame``, ``cv2.UMat``, a ``memoryview`` of rows and columns | its pixels |
| an object with ``__array__`` or such an ``image`` | its pixels |

What has more than one meaning is refused with the way out: floats (0..1 or 0..255?), 16 bits (how
many are used?), channels first, tensors (RGB or BGR?).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_afdet.errors import AfdetError, InvalidValueError
from trt_afdet.media.content import HEAD, picture_format
from trt_afdet.media.pictures import decode_picture, read_picture
from trt_afdet.media.suffixes import VIDEO_SUFFIXES

Frame = npt.NDArray[np.uint8]

_CHANNELS = (1, 3, 4)
_LONGEST_PATH = 4096
_BINARY_HINT = "open(path, 'rb'), or give the path"
_CAPTURE_HINT = "ok, frame = capture.read(), then detector(frame)"
_VIDEO_HINT = "for frame, found in detector.stream(path), or `trt-afdet detect`"


def is_one(given: object) -> bool:
    """Whether this is meant as one picture, not as several."""
    if isinstance(given, np.ndarray):
        # Pictures of many sizes become an array of objects.
        return given.ndim != 4 and not (given.dtype == object and given.ndim == 1 and given.size)
    if isinstance(given, (list, tuple)):
        return False
    # An iterator of frames; a picture of PIL and a tensor have a length or a shape, or none of it.
    return not isinstance(given, Iterable) or _single(given)


def several(given: Any) -> Iterator[Any]:
    """The pictures of a list, a tuple, a batch [N, H, W, 3], a generator.

    Raises InvalidValueError if this has no order, or is what ``capture.read()`` returns.
    """
    if isinstance(given, (dict, set, frozenset)):
        what, hint = "pictures come as a list", "list(...) gives them an order"
        raise InvalidValueError(what, got=type(given).__name__, hint=hint)
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], (bool, np.bool_)):
        what = "a pair of a flag and a picture is what capture.read() returns"
        raise InvalidValueError(what, hint=_CAPTURE_HINT)
    return iter(given)


def to_frame(given: object, *, rgb: bool = False) -> Frame:
    """One picture as BGR uint8 [H, W, 3], contiguous; see the module. ``rgb``: arrays are RGB(A).

    Raises:
        InvalidValueError: If it is none, or has more than one meaning.
        MissingFileError, CorruptFileError: If it names a file that cannot be read.
    """
    if given is None:
        hint = "cv2.imread and capture.read() give None where they cannot read: check the path"
        raise InvalidValueError("there is no picture", got="None", hint=hint)
    if isinstance(given, (str, os.PathLike)):
        return _from_path(given)
    if isinstance(given, memoryview) and given.ndim > 1:
        return _from_array(np.asarray(given))
    if isinstance(given, (bytes, bytearray, memoryview)):
        return decode_picture(bytes(given), "bytes")
    if isinstance(given, np.ndarray):
        if rgb and given.ndim == 3 and given.shape[2] in (3, 4):
            given = given[..., [2, 1, 0]]
        return _from_array(given)
    if _is_file(given):
        return _from_file(given)
    kind, home = type(given).__name__, type(given).__module__.partition(".")[0]
    if _is_pil(given):
        return _from_pil(given)
    if home == "av" and kind == "VideoFrame":
        return np.ascontiguousarray(given.to_ndarray(format="bgr24"))  # type: ignore[attr-defined]
    if home == "cv2" and kind == "UMat":
        return _from_array(given.get())  # type: ignore[attr-defined]
    if home == "cv2" and kind == "VideoCapture":
        raise InvalidValueError("a VideoCapture is not a picture", hint=_CAPTURE_HINT)
    if hasattr(given, "shape") and hasattr(given, "dtype") and not isinstance(given, np.generic):
        shape = f"{str(given.dtype).removeprefix('torch.')} {list(given.shape)}"
        what = "a tensor may be RGB or BGR and of any range: give a uint8 array"
        hint = "RGB in 0..1: (tensor.permute(1, 2, 0) * 255).byte().cpu().numpy()[..., ::-1]"
        got = f"{home}.{kind} {shape}"
        raise InvalidValueError(f"{what} [height, width, 3] in BGR", got=got, hint=hint)
    image = getattr(given, "image", None)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(given, (int, float, np.number)) and not isinstance(given, bool):
        whole = isinstance(given, (int, np.integer)) and given >= 0
        camera = f"cameras: trt-afdet run /dev/video{given}" if whole else None
        raise InvalidValueError("a number is not a picture", got=given, hint=camera)
    if hasattr(type(given), "__array__") or hasattr(given, "__array_interface__"):
        try:
            return _from_array(np.asarray(given))
        except AfdetError:
            raise
        except Exception as error:
            raise InvalidValueError("the object gives no array", got=error) from error
    if isinstance(given, (list, tuple)):
        hint = "pictures come as one list; pixels as np.array(rows, np.uint8)"
        raise InvalidValueError(f"a {kind} within a list is not a picture", hint=hint)
    what, got = "a picture is an array, a path or a PIL image", f"{home}.{kind}"
    raise InvalidValueError(what, got=got.removeprefix("builtins."))


def _single(given: object) -> bool:
    """Whether something that can be iterated is one picture all the same."""
    return (
        isinstance(given, (str, bytes, bytearray, memoryview, os.PathLike))
        or _is_pil(given)
        or _is_file(given)
        or (hasattr(given, "shape") and hasattr(given, "dtype"))
        or isinstance(getattr(given, "image", None), np.ndarray)
        or type(given).__module__.partition(".")[0] in ("cv2", "av")
    )


def _is_file(given: object) -> bool:
    """Whether this is an open file; VideoCapture and modules read as well."""
    both = hasattr(given, "read") and hasattr(given, "seek")
    return isinstance(given, io.IOBase) or (both and not isinstance(given, type))


def _is_pil(given: object) -> bool:
    # Without importing Pillow: who gives a picture of it has it.
    return any(kind.__module__ == "PIL.Image" for kind in type(given).__mro__)


def _from_file(given: Any) -> Frame:
    """The rest of an open file."""
    name = getattr(given, "name", None)
    shown = name if isinstance(name, str) else type(given).__name__
    try:
        data = given.read()
    except Exception as error:  # Objects that behave like files may raise anything.
        text = isinstance(error, UnicodeError)
        got = f"{shown}: {'it is open as text' if text else error}"
        hint = _BINARY_HINT if text else None
        raise InvalidValueError("the file cannot be read", got=got, hint=hint) from error
    if not isinstance(data, (bytes, bytearray, memoryview)):
        text = isinstance(data, str)
        what = "the file is open as text" if text else "the object reads no bytes"
        raise InvalidValueError(what, got=shown, hint=_BINARY_HINT)
    if not data:
        hint = "file.seek(0) goes back to its start"
        raise InvalidValueError("there is nothing left to read", got=shown, hint=hint)
    return decode_picture(bytes(data), shown)


def _from_path(given: str | os.PathLike[Any]) -> Frame:
    text = os.fsdecode(given)
    if not text.strip():
        raise InvalidValueError("a picture's path is empty", got=repr(text))
    if text.startswith("data:") or len(text) > _LONGEST_PATH:
        got = f"{text[:40]}..., {len(text)} characters"
        hint = "encoded pictures: base64.b64decode(text.partition(',')[2])"
        raise InvalidValueError("a text this long is not a path", got=got, hint=hint)
    if "://" in text:
        hint = "`trt-afdet run ADDRESS` detects on cameras"
        raise InvalidValueError("an address is not a picture", hint=hint)
    path = Path(text)
    if os.path.isdir(path):  # noqa: PTH112  # Path.is_dir raises where a folder is closed to us.
        hint = "detector(sorted(Path(folder).glob('*.jpg')))"
        raise InvalidValueError("a folder is not a picture", got=path, hint=hint)
    if path.suffix.lower() in VIDEO_SUFFIXES and path.suffix.lower() != ".gif":
        raise InvalidValueError("a video is not a picture", got=path, hint=_VIDEO_HINT)
    return read_picture(path)


def _from_pil(given: Any) -> Frame:
    from PIL import ImageOps

    try:
        picture = ImageOps.exif_transpose(given)
        if picture.mode == "F" or picture.mode.startswith("I"):
            return _from_array(np.asarray(picture))
        colours = np.asarray(picture.convert("RGBA" if "A" in picture.getbands() else "RGB"))
    except AfdetError:
        raise
    except Exception as error:  # A lazy picture is decoded here, and may be damaged or closed.
        raise InvalidValueError("the PIL image cannot be decoded", got=error) from error
    return _from_array(colours[..., [2, 1, 0]])


def _from_array(given: npt.NDArray[Any]) -> Frame:
    plain = type(given) is np.ndarray and given.dtype == np.uint8 and given.flags.c_contiguous
    if plain and given.ndim == 3 and given.shape[2] == 3 and given.size:
        return given  # As it is: pinned memory stays pinned.
    if isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):
        hint = "array.filled(0) gives them one"
        raise InvalidValueError("masked pixels have no value", hint=hint)
    array = np.asarray(given)
    shown = f"{array.dtype} {list(array.shape)}"
    if array.dtype == object and array.shape == () and array.item() is None:
        return to_frame(None)
    if array.size == 0:
        raise InvalidValueError("the picture is empty", got=shown)
    if array.ndim == 1 and array.dtype == np.uint8 and picture_format(array[:HEAD].tobytes()):
        return decode_picture(array.tobytes(), "an encoded picture")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in _CHANNELS:
        hint = "cv2.imread and cv2.VideoCapture return such frames"
        if array.ndim == 3 and array.shape[0] in _CHANNELS:
            hint = "channels come last: array.transpose(1, 2, 0)"
        elif array.ndim == 4:
            hint = "a batch is given alone, not in a list"
        elif array.ndim == 1:
            hint = "raw pixels: array.reshape(height, width, 3)"
        what = "a frame must be BGR uint8 of shape [height, width, 3]"
        raise InvalidValueError(what, got=shown, hint=hint)
    if array.dtype != np.uint8:
        array = _to_bytes(array, shown)
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    # Views (turned, mirrored, RGB[..., ::-1]) become what OpenCV and the GPU can read.
    return np.ascontiguousarray(array[:, :, :3])


def _to_bytes(array: npt.NDArray[Any], shown: str) -> Frame:
    """Whole numbers of other types; everything else is refused."""
    kind = array.dtype.kind
    if kind == "f":
        top = np.nanmax(array) if np.isfinite(array).any() else 0
        scale = "frame * 255" if top <= 1 else "frame"
        what = "a float picture may mean 0..1 or 0..255: give uint8"
        hint = f"({scale}).round().clip(0, 255).astype(np.uint8)"
        raise InvalidValueError(what, got=shown, hint=hint)
    if kind == "u" and array.dtype.itemsize == 2:  # In any order of bytes.
        what = "a picture of 16 bits may use 10, 12 or 16 of them: give uint8"
        hint = "16 bits: (frame >> 8).astype(np.uint8); or cv2.imread without IMREAD_UNCHANGED"
        raise InvalidValueError(what, got=shown, hint=hint)
    if kind in "iu":
        if array.min() < 0 or array.max() > 255:
            got = f"{shown}, {array.min()}..{array.max()}"
            raise InvalidValueError("pixels must be within 0..255", got=got)
        return array.astype(np.uint8)
    mask = "(mask * 255).astype(np.uint8)" if kind == "b" else None
    raise InvalidValueError("a frame must be BGR uint8 [height, width, 3]", got=shown, hint=mask)
