"""Recognises files by their first bytes."""

from __future__ import annotations

import errno
import re
import stat
from pathlib import Path

from trt_afdet.errors import CorruptFileError, MissingFileError
from trt_afdet.media.suffixes import PICTURE_SUFFIXES, VIDEO_SUFFIXES

HEAD = 4096  #: Bytes that are looked at.


def check_is_file(path: Path, what: str) -> None:
    """Checks that there is a file to read; ``what`` it is, such as ``picture``, is for messages.

    Pipes and devices are none: reading them may take for ever. Raises MissingFileError, or
    CorruptFileError if the system does not let us look.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a zero in the name.
        raise MissingFileError(f"no such {what}", got=path) from None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise MissingFileError(f"no such {what}", got=f"{path}: {error.strerror}") from None
        raise CorruptFileError("cannot be read", got=f"{path}: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        raise MissingFileError(f"is a folder, not a {what}", got=path)
    if not stat.S_ISREG(mode):
        what, hint = "is a pipe, socket or device, not a file", "write it to a file first"
        raise MissingFileError(what, got=path, hint=hint)


_AVIF = (b"avif", b"avis")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")

#: How pictures begin.
_PICTURES = {
    "JPEG": re.compile(rb"\xff\xd8\xff(?!\xf7)"),
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "GIF": re.compile(rb"GIF8[79]a"),
    "WEBP": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
    "TIFF": re.compile(rb"II[*+]\0|MM\0[*+]"),
    # "BM" alone begins many a text: the size of the header that follows is one of a few.
    "BMP": re.compile(rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0{3}", re.DOTALL),
    "PPM": re.compile(rb"P[1-6]\s"),
    "JPEG2000": re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
}
#: What files are called, by their first bytes; pictures and videos that are read are below.
_SIGNATURES: dict[str, bytes | tuple[bytes, ...]] = {
    "a PDF": b"%PDF", "a PostScript file": b"%!PS", "a zip archive": b"PK\x03\x04",
    "a gzip archive": b"\x1f\x8b", "a 7z archive": b"7z\xbc\xaf\x27\x1c", "a rar archive": b"Rar!",
    "a bzip2 archive": b"BZh", "an xz archive": b"\xfd7zXZ\0",
    "a zstd archive": b"\x28\xb5\x2f\xfd", "a program": (b"\x7fELF", b"MZ"),
    "an audio file": (b"ID3", b"fLaC", b"#!AMR"), "a MIDI file": b"MThd",
    "a Photoshop file": b"8BPS", "a JPEG-LS picture": b"\xff\xd8\xff\xf7",
    "an OpenEXR picture": b"v/1\x01", "a Radiance HDR picture": b"#?RADIANCE",
    "a QOI picture": b"qoif", "a PAM picture": b"P7\n", "a PFM picture": (b"PF\n", b"Pf\n"),
    "a DDS texture": b"DDS ", "a DPX picture": b"SDPX", "an icon": b"\0\0\1\0",
    "a PCX picture": b"\x0a\x05\x01", "a camera raw file": (b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO"),
    "a FITS file": b"SIMPLE  =", "a JPEG XL picture": (b"\xff\x0a", b"\0\0\0\x0cJXL "),
    "a database": b"SQLite format 3", "an HDF5 file": b"\x89HDF", "a NumPy array": b"\x93NUMPY",
    "a TensorRT engine": b"ftrt", "a pickle of Python (a PyTorch checkpoint)": b"\x80\x02",
    "an ncnn model": b"7767517",
}  # fmt: skip
#: The same with an offset.
_INNER_SIGNATURES = (
    (257, b"ustar", "a tar archive"),
    (4, b"ftypcrx ", "a camera raw file"),
    (128, b"DICM", "a DICOM file"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ORTM", "a model in ONNX Runtime's own format"),
)


def picture_format(head: bytes) -> str | None:
    """The picture format of a file's first bytes, as Pillow calls it (or ``HEIC``); or None."""
    if head[4:8] == b"ftyp":
        # A still picture may name "mif1" first and its codec among the compatible brands.
        size = min(max(int.from_bytes(head[:4], "big"), 16), len(head))
        brands = [head[8:12], *(head[at : at + 4] for at in range(16, size - 3, 4))]
        if brands[0] in (*_AVIF, *_HEIC):
            return "AVIF" if any(brand in _AVIF for brand in brands) else "HEIC"
    return next((name for name, start in _PICTURES.items() if start.match(head)), None)


#: What texts are called, by how they begin.
_TEXTS = {
    r"#extm3u": "a playlist",
    r"<!doctype html|.*<html": "an HTML page",
    r".*<svg": "an SVG drawing",
    r"<": "an XML file",
    r"[{\[]": "a JSON file",
    r"version https://git-lfs": "a Git LFS pointer, not the file itself",
    r"#!": "a script",
}


def what_is(head: bytes) -> str | None:
    """The kind of a file: "a picture (PNG)", "a text file"; None if unknown."""
    if head[4:8] == b"ftyp" and head[8:12] != b"crx ":
        return "a video or picture"
    picture = picture_format(head)
    return f"a picture ({picture})" if picture else looks_like(head)


def looks_like(head: bytes) -> str | None:
    """As :func:`what_is`, for files that are neither pictures nor videos that are read."""
    for offset, start, name in _INNER_SIGNATURES:
        if head.startswith(start, offset):
            return name
    for name, starts in _SIGNATURES.items():
        if head.startswith(starts):
            return name
    if int.from_bytes(head[:8], "little") < 1 << 28 and head[8:9] == b"{":
        return "a .safetensors checkpoint"
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "an audio file"
    if not head.strip(b"\0"):
        return "a file of zeros"
    text = _text(head)
    if text is None:
        return None
    begin = text.lstrip().lower()
    for pattern, name in _TEXTS.items():
        if re.match(pattern, begin[:1000], re.DOTALL):
            return name
    lines = [line.strip() for line in begin.splitlines() if line.strip()]
    for known, name in ((PICTURE_SUFFIXES, "pictures"), (VIDEO_SUFFIXES, "videos")):
        paths = ({Path(line).suffix, Path(line.split("#")[0]).suffix} for line in lines)
        if lines and sum(not found.isdisjoint(known) for found in paths) >= 0.8 * len(lines):
            return f"a list of {name}"
    return "a text file"


def _text(head: bytes) -> str | None:
    """The bytes as text, or None if they are none."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return head[: len(head) // 2 * 2].decode("utf-16")
        except UnicodeDecodeError:
            return None
    if any(byte < 9 or 13 < byte < 27 for byte in head):
        return None
    try:
        return head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start >= len(head) - 3:  # A letter is cut.
            return head[: error.start].decode("utf-8-sig")
    # Latin-1 text has few letters above ASCII.
    return head.decode("latin-1") if sum(byte > 127 for byte in head) < len(head) // 4 else None
