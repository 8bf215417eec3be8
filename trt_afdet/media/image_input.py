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

Frame = npt.NDArray[np.uint8]

_CHANNELS = (1, 3, 4)
_LONGEST_PATH = 4096
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

    Raises:
        InvalidValueError: If this has no order, or is what ``capture.read()`` returns.
    """
    if isinstance(given, (dict, set, frozenset)):
        raise InvalidValueError(
            "pictures come as a list",
            got=type(given).__name__,
            hint="list(...) gives them an order",
        )
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], (bool, np.bool_)):
        raise InvalidValueError(
            "a pair of a flag and a picture is what capture.read() returns",
            hint="ok, frame = capture.read(), then detector(frame)",
        )
    return iter(given)


def to_frame(given: object, *, rgb: bool = False) -> Frame:
    """One picture as BGR uint8 [H, W, 3], contiguous; see the module.

    Args:
        given: The picture.
        rgb: An array is RGB or RGBA, not BGR or BGRA.

    Raises:
        InvalidValueError: If it is none, or has more than one meaning.
        MissingFileError, CorruptFileError: If it names a file that cannot be read.
    """
    if given is None:
        raise InvalidValueError(
            "there is no picture",
            got="None",
            hint="cv2.imread and capture.read() give None where they cannot read: check the path",
        )
    if isinstance(given, (str, os.PathLike)):
        return _from_path(given)
    if isinstance(given, memoryview) and given.ndim > 1:
        return _from_array(np.asarray(given))
    if isinstance(given, (bytes, bytearray, memoryview)):
        return _from_bytes(bytes(given), "bytes")
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
        raise InvalidValueError(
            "a VideoCapture is not a picture",
            hint="ok, frame = capture.read(), then detector(frame)",
        )
    if hasattr(given, "shape") and hasattr(given, "dtype") and not isinstance(given, np.generic):
        shape = f"{str(given.dtype).removeprefix('torch.')} {list(given.shape)}"
        raise InvalidValueError(
            "a tensor may be RGB or BGR and of any range: give a uint8 array [height, width, 3] "
            "in BGR",
            got=f"{home}.{kind} {shape}",
            hint="RGB in 0..1: (tensor.permute(1, 2, 0) * 255).byte().cpu().numpy()[..., ::-1]",
        )
    image = getattr(given, "image", None)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(given, (int, float, np.number)) and not isinstance(given, bool):
        whole = isinstance(given, (int, np.integer)) and given >= 0
        raise InvalidValueError(
            "a number is not a picture",
            got=given,
            hint=f"cameras: trt-afdet run /dev/video{given}" if whole else None,
        )
    if hasattr(type(given), "__array__") or hasattr(given, "__array_interface__"):
        try:
            return _from_array(np.asarray(given))
        except AfdetError:
            raise
        except Exception as error:
            raise InvalidValueError("the object gives no array", got=error) from error
    if isinstance(given, (list, tuple)):
        raise InvalidValueError(
            f"a {kind} within a list is not a picture",
            hint="pictures come as one list; pixels as np.array(rows, np.uint8)",
        )
    raise InvalidValueError(
        "a picture is an array, a path or a PIL image",
        got=f"{home}.{kind}".removeprefix("builtins."),
    )


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


def _from_bytes(data: bytes, name: str) -> Frame:
    from trt_afdet.media import decode_picture

    return decode_picture(data, name)


def _from_file(given: Any) -> Frame:
    """The rest of an open file."""
    name = getattr(given, "name", None)
    shown = name if isinstance(name, str) else type(given).__name__
    try:
        data = given.read()
    except Exception as error:  # Objects that behave like files may raise anything.
        text = isinstance(error, UnicodeError)
        raise InvalidValueError(
            "the file cannot be read",
            got=f"{shown}: {'it is open as text' if text else error}",
            hint="open(path, 'rb'), or give the path" if text else None,
        ) from error
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InvalidValueError(
            "the file is open as text" if isinstance(data, str) else "the object reads no bytes",
            got=shown,
            hint="open(path, 'rb'), or give the path",
        )
    if not data:
        raise InvalidValueError(
            "there is nothing left to read", got=shown, hint="file.seek(0) goes back to its start"
        )
    return _from_bytes(bytes(data), shown)


def _from_path(given: str | os.PathLike[Any]) -> Frame:
    from trt_afdet.media import VIDEO_SUFFIXES, read_picture

    text = os.fsdecode(given)
    if not text.strip():
        raise InvalidValueError("a picture's path is empty", got=repr(text))
    if text.startswith("data:") or len(text) > _LONGEST_PATH:
        raise InvalidValueError(
            "a text this long is not a path",
            got=f"{text[:40]}..., {len(text)} characters",
            hint="encoded pictures: base64.b64decode(text.partition(',')[2])",
        )
    if "://" in text:
        raise InvalidValueError(
            "an address is not a picture", hint="`trt-afdet run ADDRESS` detects on cameras"
        )
    path = Path(text)
    if os.path.isdir(path):  # noqa: PTH112  # Path.is_dir raises where a folder is closed to us.
        raise InvalidValueError(
            "a folder is not a picture",
            got=path,
            hint="detector(sorted(Path(folder).glob('*.jpg')))",
        )
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
        raise InvalidValueError(
            "masked pixels have no value", hint="array.filled(0) gives them one"
        )
    array = np.asarray(given)
    shown = f"{array.dtype} {list(array.shape)}"
    if array.dtype == object and array.shape == () and array.item() is None:
        return to_frame(None)
    if array.size == 0:
        raise InvalidValueError("the picture is empty", got=shown)
    if array.ndim == 1 and array.dtype == np.uint8 and _is_encoded(array):
        return _from_bytes(array.tobytes(), "an encoded picture")
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
        raise InvalidValueError(
            "a frame must be BGR uint8 of shape [height, width, 3]", got=shown, hint=hint
        )
    if array.dtype != np.uint8:
        array = _to_bytes(array, shown)
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    # Views (turned, mirrored, RGB[..., ::-1]) become what OpenCV and the GPU can read.
    return np.ascontiguousarray(array[:, :, :3])


def _is_encoded(array: npt.NDArray[Any]) -> bool:
    from trt_afdet.media.content import HEAD, picture_format

    return picture_format(array[:HEAD].tobytes()) is not None


def _to_bytes(array: npt.NDArray[Any], shown: str) -> Frame:
    """Whole numbers of other types; everything else is refused."""
    kind = array.dtype.kind
    if kind == "f":
        top = np.nanmax(array) if np.isfinite(array).any() else 0
        scale = "frame * 255" if top <= 1 else "frame"
        raise InvalidValueError(
            "a float picture may mean 0..1 or 0..255: give uint8",
            got=shown,
            hint=f"({scale}).round().clip(0, 255).astype(np.uint8)",
        )
    if kind == "u" and array.dtype.itemsize == 2:  # In any order of bytes.
        raise InvalidValueError(
            "a picture of 16 bits may use 10, 12 or 16 of them: give uint8",
            got=shown,
            hint="16 bits: (frame >> 8).astype(np.uint8); or cv2.imread without IMREAD_UNCHANGED",
        )
    if kind in "iu":
        if array.min() < 0 or array.max() > 255:
            raise InvalidValueError(
                "pixels must be within 0..255", got=f"{shown}, {array.min()}..{array.max()}"
            )
        return array.astype(np.uint8)
    hint = "(mask * 255).astype(np.uint8)" if kind == "b" else None
    raise InvalidValueError("a frame must be BGR uint8 [height, width, 3]", got=shown, hint=hint)
