"""Recognises files by their first bytes."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

from trt_afdet.errors import CorruptFileError, MissingFileError
from trt_afdet.media.suffixes import PICTURE_SUFFIXES, VIDEO_SUFFIXES

#: Bytes that are looked at.
HEAD = 4096


def check_is_file(path: Path, what: str) -> None:
    """Checks that there is a file to read.

    Pipes and devices are none: reading them may take for ever.

    Args:
        path: The file.
        what: For messages, such as ``picture``.

    Raises:
        MissingFileError: If there is nothing of this name, or no file.
        CorruptFileError: If the system does not let us look.
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
        raise MissingFileError(
            "is a pipe, socket or device, not a file", got=path, hint="write it to a file first"
        )


_AVIF = (b"avif", b"avis")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")

#: Offset, bytes there, and what such a file is called; pictures and videos that are read are below.
_SIGNATURES = (
    (0, b"%PDF", "a PDF"),
    (0, b"%!PS", "a PostScript file"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!", "a rar archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ\0", "an xz archive"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program"),
    (0, b"ID3", "an audio file"),
    (0, b"fLaC", "an audio file"),
    (0, b"#!AMR", "an audio file"),
    (0, b"MThd", "a MIDI file"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\xff\xd8\xff\xf7", "a JPEG-LS picture"),
    (0, b"v/1\x01", "an OpenEXR picture"),
    (0, b"#?RADIANCE", "a Radiance HDR picture"),
    (0, b"qoif", "a QOI picture"),
    (0, b"P7\n", "a PAM picture"),
    (0, b"PF\n", "a PFM picture"),
    (0, b"Pf\n", "a PFM picture"),
    (0, b"DDS ", "a DDS texture"),
    (0, b"SDPX", "a DPX picture"),
    (0, b"\0\0\1\0", "an icon"),
    (0, b"\x0a\x05\x01", "a PCX picture"),
    (0, b"FUJIFILMCCD-RAW", "a camera raw file"),
    (0, b"IIU\0", "a camera raw file"),
    (0, b"IIRO", "a camera raw file"),
    (4, b"ftypcrx ", "a camera raw file"),
    (0, b"SIMPLE  =", "a FITS file"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (128, b"DICM", "a DICOM file"),
    (0, b"SQLite format 3", "a database"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"ftrt", "a TensorRT engine"),
    (0, b"\x80\x02", "a pickle of Python (a PyTorch checkpoint)"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ORTM", "a model in ONNX Runtime's own format"),
    (0, b"7767517", "an ncnn model"),
)


def picture_format(head: bytes) -> str | None:
    """The picture format of a file's first bytes, as Pillow calls it; ``HEIC`` for HEIC; or None.

    Args:
        head: The first bytes, 32 at least where the file has so many.
    """
    if head[:3] == b"\xff\xd8\xff" and head[3:4] != b"\xf7":
        return "JPEG"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    # "BM" alone begins many a text: the size of the header that follows is one of a few.
    if head[:2] == b"BM" and head[14:18] in _BMP_HEADERS:
        return "BMP"
    if head[4:8] == b"ftyp":
        # A still picture may name "mif1" first and its codec among the compatible brands.
        size = min(max(int.from_bytes(head[:4], "big"), 16), len(head))
        brands = [head[8:12], *(head[at : at + 4] for at in range(16, size - 3, 4))]
        if brands[0] in (*_AVIF, *_HEIC):
            return "AVIF" if any(brand in _AVIF for brand in brands) else "HEIC"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    if head[:12] == b"\0\0\0\x0cjP  \r\n\x87\n" or head[:4] == b"\xff\x4f\xff\x51":
        return "JPEG2000"
    return None


_BMP_HEADERS = tuple(size.to_bytes(4, "little") for size in (12, 16, 40, 52, 56, 64, 108, 124))


def what_is(head: bytes) -> str | None:
    """The kind of a file: "a picture (PNG)", "a text file"; None if unknown."""
    if head[4:8] == b"ftyp" and head[8:12] != b"crx ":
        return "a video or picture"
    picture = picture_format(head)
    return f"a picture ({picture})" if picture else looks_like(head)


def looks_like(head: bytes) -> str | None:
    """As :func:`what_is`, for files that are neither pictures nor videos that are read."""
    for offset, start, name in _SIGNATURES:
        if head.startswith(start, offset):
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
    if begin.startswith("#extm3u"):
        return "a playlist"
    if begin.startswith(("<!doctype html", "<html")) or "<html" in begin[:1000]:
        return "an HTML page"
    if "<svg" in begin[:1000]:
        return "an SVG drawing"
    if begin.startswith("<"):
        return "an XML file"
    if begin.startswith(("{", "[")):
        return "a JSON file"
    if begin.startswith("version https://git-lfs"):
        return "a Git LFS pointer, not the file itself"
    if begin.startswith("#!"):
        return "a script"
    lines = [line.strip() for line in begin.splitlines() if line.strip()]
    listed = [line for line in lines if Path(line.split("#")[0]).suffix in PICTURE_SUFFIXES]
    if lines and len(listed) >= 0.8 * len(lines):
        return "a list of pictures"
    listed = [line for line in lines if Path(line).suffix in VIDEO_SUFFIXES]
    if lines and len(listed) >= 0.8 * len(lines):
        return "a list of videos"
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
