"""The one reader of pictures: whole or not at all, upright, and without chatter on stderr.

Pillow decodes. On the JPEG files that cameras and datasets hold it gives the same pixels as OpenCV,
and unlike it prints nothing, turns no error into half a picture, and reads CMYK, AVIF and 16 bits.

| what | becomes |
|---|---|
| EXIF orientation | the picture as it is shown, turned or mirrored; XMP's is not looked at |
| several pictures in a file (GIF, APNG, WebP, TIFF, MPO) | the first |
| transparency | the colours as stored, without a background |
| grey, palette, CMYK | BGR |
| more than 8 bits a channel | 8 bits: the range that is used, rounded up to a power of two |

The last rule makes 12 bits stored in 16 a normal picture: the highest value of the picture needs N
bits, and the upper 8 of those N are kept. A picture that uses all 16 loses its lower 8.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import io
import logging
import re
import struct
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from trt_afdet.errors import CorruptFileError, MissingDependencyError, MissingFileError
from trt_afdet.media.content import HEAD, check_is_file, looks_like, picture_format
from trt_afdet.support.packages import missing

MOST_PIXELS = 1 << 30  #: Of the largest picture that is decoded: 3 GiB.

#: How Pillow's plugin of a format, such as ``JpegImagePlugin.JpegImageFile``, spells it.
_SPELLED = {
    "JPEG": "Jpeg", "PNG": "Png", "GIF": "Gif", "WEBP": "WebP", "TIFF": "Tiff", "BMP": "Bmp",
    "AVIF": "Avif", "PPM": "Ppm", "JPEG2000": "Jpeg2K",
}  # fmt: skip
#: A marker of a JPEG that ends a scan: no stuffed byte, no restart, no fill byte.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_SOS, _EOI = 0xDA, 0xD9
_PIXELS_PER_BYTE = 1024  # A JPEG needs a bit for every 64 pixels at the least.
#: Markers that say how a JPEG is coded; those of progressive and of lossless ones.
_FRAMES = tuple(marker for marker in range(0xC0, 0xD0) if marker not in (0xC4, 0xC8, 0xCC))
_PROGRESSIVE, _LOSSLESS = (0xC2, 0xC6, 0xCA, 0xCE), (0xC3, 0xC7, 0xCB, 0xCF)
#: Pillow's messages and their meaning.
_REASONS = (
    ("12-bit layers", "it is a JPEG of 12 bits"),
    ("unknown pixel mode", "it is a TIFF of an unusual kind of pixels, such as 32 bits a colour"),
    ("exceeds limit", "Pillow's limit for this format is lower than 2^30 pixels"),
)
#: Bits that change a picture whose data are missing. Each may happen to say what was there.
_NOISE = (bytes(range(1, 255, 3)), b"\xdb\x6d\xb6" * 50, b"\x92\x49\x24" * 50, bytes(150))

_ORIENTATION = 0x0112
#: Tags of TIFF: what kind of picture this is, its first bit for a preview; and DNG's version.
_SUBFILE, _DNG = 254, 50706

# Keeps Pillow's log from stderr where nobody has asked for logs.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class PictureInfo:
    """The header of a picture: its size as shown, EXIF's orientation, and ``JPEG``, ``PNG``, ..."""

    width: int
    height: int
    orientation: int
    format: str


def probe_picture(path: str | Path) -> PictureInfo:
    """Size, orientation and format of a picture, from its header alone.

    Raises MissingFileError or CorruptFileError if that cannot be read.
    """
    path = Path(path)
    with _reading(path), _open_file(path) as file:
        name = _format(path, file.read(HEAD))
        file.seek(0)
        picture = _open(path, name, file)
        width, height = picture.size
        late = name == "PNG" and "exif" not in picture.info
        orientation = _late_png_orientation(file) if late else _orientation(picture)
    # Pillow turns a TIFF itself, and says its size so.
    if orientation > 4 and name != "TIFF":
        width, height = height, width
    return PictureInfo(width, height, orientation, name)


def read_picture(path: str | Path) -> npt.NDArray[np.uint8]:
    """A picture as BGR uint8 [H, W, 3], upright. The module docstring covers special formats.

    Raises:
        MissingFileError: If there is no such file.
        CorruptFileError: If it is empty, cut off, damaged, too large, or no picture.
    """
    path = Path(path)
    with _reading(path):
        with _open_file(path) as file:
            head = file.read(HEAD)
            name = _format(path, head)
            data = head + file.read()
        return decode_picture(data, path, name)


def decode_picture(
    data: bytes, path: str | Path = "picture", name: str | None = None
) -> npt.NDArray[np.uint8]:
    """As :func:`read_picture`, of a file's bytes; ``name`` is its format if that is known."""
    path = Path(path)
    with _reading(path):
        name = name or _format(path, data[:HEAD])
        if name == "JPEG":
            return _decode_jpeg(path, data)
        picture = _open(path, name, io.BytesIO(data))
        deep = _deep_colours(path, name, data, picture) if name in ("PNG", "TIFF") else None
        if deep is not None:
            return _turn(deep, _orientation(picture))
        picture.load()
        return _turn(_bgr(picture), _orientation(picture))


def _decode_jpeg(path: Path, data: bytes) -> npt.NDArray[np.uint8]:
    """A JPEG, whose decoder silently paints missing parts grey."""
    end, frame, refined = _jpeg_end(data)
    if frame in _LOSSLESS:
        # Decoders differ in whether they can, and in the colours they make of it.
        raise CorruptFileError("lossless JPEG cannot be read", got=path, hint="convert it to PNG")
    progressive = frame in _PROGRESSIVE
    if progressive and not refined:
        raise CorruptFileError("picture is cut off", got=path)
    # Without an end marker the decoder wants more data; it may have all the same.
    scans, whole = data[:end], end is not None
    picture = _open(path, "JPEG", io.BytesIO(scans + b"\xff\xd9"))
    if picture.width * picture.height > _PIXELS_PER_BYTE * len(data):
        raise CorruptFileError("picture is cut off", got=path)
    image = _bgr(picture)
    # What follows the last scan does not matter if it is complete, and shows if it is not. Only a
    # picture that ends in the grey of missing data needs a look, or one without an end marker.
    corner = image[-4:, -4:]
    grey = picture.mode == "CMYK" or (abs(corner.astype(int) - 128) <= 1).all()
    tries = len(_NOISE) if grey or not whole else 2 * progressive
    for noise in _NOISE[:tries]:
        again = _bgr(_open(path, "JPEG", io.BytesIO(scans + noise + b"\xff\xd9")))
        if not np.array_equal(image, again):
            raise CorruptFileError("picture is cut off", got=path)
    return _turn(image, _orientation(picture))


def _jpeg_end(data: bytes) -> tuple[int | None, int, bool]:
    """How a JPEG ends.

    Returns:
        Where its end marker stands (None if it has none), the marker that says how it is coded (0
        if it has none), and whether its scans bring every coefficient to its full precision, which
        those of a progressive one may fail to do.
    """
    position, frame, end = 2, 0, None
    missing: dict[int, npt.NDArray[np.int64]] = {}  # Bits that each coefficient still lacks.

    def next_marker() -> int:
        found = _MARKER.search(data, position)
        return found.start() if found else len(data)

    while end is None and position + 2 <= len(data):
        if data[position] != 0xFF:  # Bytes that belong to nothing; decoders skip them.
            position = next_marker()
            continue
        marker = data[position + 1]
        if marker == 0xFF:  # A fill byte.
            position += 1
        elif marker == _EOI:
            end = position
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            position += 2
        else:  # By its length: a thumbnail in a header's segment has an end marker of its own.
            length = int.from_bytes(data[position + 2 : position + 4], "big")
            segment = data[position + 4 : position + 2 + length]
            position += 2 + length
            if marker in _FRAMES:
                frame = marker
            if marker in _PROGRESSIVE and len(segment) > 5:
                missing = {part: np.ones(64, np.int64) for part in segment[6::3]}
            if marker == _SOS:
                if frame in _PROGRESSIVE and len(segment) >= 4:
                    first, last, bits = segment[-3:]
                    for part in segment[1:-3:2]:
                        if part in missing:
                            missing[part][first : last + 1] = bits & 15
                position = next_marker()
    return end, frame, not any(lacks.any() for lacks in missing.values())


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Every failure as one line; Pillow's warnings stay away from stderr."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (CorruptFileError, MissingFileError, MissingDependencyError):
            raise
        except MemoryError:
            raise CorruptFileError("picture does not fit into memory", got=path) from None
        except OSError as error:
            if error.errno is not None:  # The file system's, not Pillow's.
                got = f"{path}: {error.strerror}"
                raise CorruptFileError("picture cannot be read", got=got) from error
            cut = "truncated" in str(error) or "broken" in str(error)
            what = "picture is cut off" if cut else "picture cannot be decoded"
            raise CorruptFileError(what, got=path) from error
        except Exception as error:  # Damaged files make Pillow raise nearly anything.
            large = type(error).__name__ == "DecompressionBombError"
            what = "picture is too large" if large else "picture cannot be decoded"
            reason = next((reason for text, reason in _REASONS if text in str(error)), None)
            raise CorruptFileError(what, got=path, hint=reason) from error


def _open_file(path: Path) -> IO[bytes]:
    check_is_file(path, "picture")
    return path.open("rb")


def _format(path: Path, head: bytes) -> str:
    """The format of a file's first bytes; raises CorruptFileError if they are no picture's."""
    if not head:
        raise CorruptFileError("picture is empty", got=path)
    name = picture_format(head)
    if name is None:
        like = looks_like(head)
        hint = "it begins like none of JPEG, PNG, WebP, AVIF, TIFF, BMP, GIF, PPM and JPEG 2000"
        hint = f"it looks like {like}" if like else hint
        raise CorruptFileError("picture cannot be decoded", got=path, hint=hint)
    if name == "HEIC":
        hint = "convert them to JPEG"
        raise CorruptFileError("HEIC pictures cannot be read", got=path, hint=hint)
    return name


def _open(path: Path, name: str, file: IO[bytes]) -> Any:
    """Pillow's picture, its header read.

    Its plugins are called directly: ``Image.open`` tries formats that are not wanted here, and its
    limit of pixels belongs to the whole process.
    """
    try:
        plugin = importlib.import_module(f"PIL.{_SPELLED[name]}ImagePlugin")
    except ImportError as error:
        raise missing(error) from error
    if name == "AVIF" and not getattr(plugin, "SUPPORTED", False):
        hint = "pip install --upgrade pillow"
        raise CorruptFileError("this Pillow cannot read AVIF", got=path, hint=hint)
    if name == "TIFF":
        _quiet_libtiff()
    picture = getattr(plugin, f"{_SPELLED[name]}ImageFile")(file, str(path))
    if name == "TIFF" and (picture.tag_v2.get(_SUBFILE, 0) & 1 or _DNG in picture.tag_v2):
        hint = "convert them to TIFF or JPEG"
        raise CorruptFileError("camera raw files cannot be read", got=path, hint=hint)
    width, height = picture.size
    if width * height > MOST_PIXELS:
        got = f"{path}: {width}x{height}"
        raise CorruptFileError("picture is too large", got=got, hint="at most 2^30 pixels")
    return picture


@functools.cache
def _quiet_libtiff() -> None:
    """Keeps libtiff from writing to stderr; Pillow still raises its errors."""
    from PIL import _imaging  # noqa: F401  # Loads the library.

    with contextlib.suppress(OSError, AttributeError):
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
        for path in set(re.findall(r"/\S.*libtiff.*\.so\S*", maps)):
            library = ctypes.CDLL(path)
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)


def _orientation(picture: Any) -> int:
    # Where there is no EXIF, Pillow would look into XMP, which hardly any other reader does.
    for name in ("xmp", "XML:com.adobe.xmp"):
        picture.info.pop(name, None)
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # EXIF that cannot be read turns nothing.
        return 1
    return _turns(value)


def _turns(value: object) -> int:
    """EXIF's number, whatever type a sloppy writer gave it; 1 if it is none."""
    if isinstance(value, bytes) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _late_png_orientation(file: IO[bytes]) -> int:
    """The orientation of a PNG whose EXIF may stand behind its pixels, without decoding them."""
    from PIL import Image

    file.seek(8)
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        if kind == b"eXIf":
            exif = Image.Exif()
            exif.load(file.read(min(length, 1 << 20)))
            return _turns(exif.get(_ORIENTATION, 1))
        file.seek(length + 4, io.SEEK_CUR)
    return 1


def _turn(image: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    return turn(image, orientation > 4, orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8))


def turn(
    image: npt.NDArray[np.uint8], swapped: bool, right_left: bool, upside_down: bool
) -> npt.NDArray[np.uint8]:
    """A picture with its axes swapped, then mirrored."""
    image = image.transpose(1, 0, 2) if swapped else image
    return np.ascontiguousarray(image[:: -1 if upside_down else 1, :: -1 if right_left else 1])


def _bgr(picture: Any) -> npt.NDArray[np.uint8]:
    """BGR uint8 [H, W, 3] of a picture of Pillow, as stored."""
    if picture.mode.startswith(("I", "F")):
        return np.repeat(_eight_bits(np.asarray(picture))[..., None], 3, axis=2)
    if picture.mode != "RGB":
        picture = picture.convert("RGB")
    # Pillow swaps the colours as it hands them out. The copy is for those who draw on it.
    data = np.frombuffer(picture.tobytes("raw", "BGR"), np.uint8)
    return data.reshape(picture.height, picture.width, 3).copy()


def _eight_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Values of more than 8 bits as 8 bits; the module says how."""
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
        if values.max(initial=0) <= 1.0:
            values = values * 255.0
        values = values.round().clip(0, (1 << 31) - 1)
    values = values.astype(np.int64).clip(0)
    bits = max(8, int(values.max(initial=0)).bit_length())
    return (values >> (bits - 8)).astype(np.uint8)


def _deep_colours(path: Path, name: str, data: bytes, picture: Any) -> npt.NDArray[np.uint8] | None:
    """BGR of a colour picture of 16 bits a channel; None if the picture is no such one.

    Pillow gives the upper bytes. If they use less than their range, the lower ones are read as
    well: as if they were stored in the other order.
    """
    if not any(";16" in _mode(tile[3]) for tile in picture.tile):
        return None
    high = np.asarray(picture).astype(np.int64)
    if picture.mode not in ("RGB", "RGBA", "RGBX") or int(high[..., :3].max(initial=0)) >= 128:
        return None
    other = _open(path, name, io.BytesIO(data))
    other.tile = [tile._replace(args=_swapped(tile.args)) for tile in other.tile]
    low = np.asarray(other).astype(np.int64)
    return np.ascontiguousarray(_eight_bits(high[..., :3] * 256 + low[..., :3])[..., ::-1])


def _mode(args: Any) -> str:
    return args if isinstance(args, str) else str(args[0]) if args else ""


def _swapped(args: Any) -> Any:
    """The arguments of a tile, with the other order of bytes."""
    swap = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
    mode = _mode(args)
    other = mode[:-1] + swap.get(mode[-1], mode[-1]) if ";16" in mode else mode
    return other if isinstance(args, str) else (other, *args[1:])
