"""Pictures as people have them, made on the spot."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

WIDTH, HEIGHT = 48, 32


def base() -> npt.NDArray[np.uint8]:
    """A smooth picture, BGR, another colour in each corner."""
    small = np.array([[[20, 40, 200], [200, 30, 30]], [[30, 180, 40], [220, 210, 200]]], np.uint8)
    return np.asarray(cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR), np.uint8)


def encoded(kind: str, picture: Any = None, **options: Any) -> bytes:
    """A file of Pillow's."""
    file = io.BytesIO()
    picture = Image.fromarray(base()[..., ::-1]) if picture is None else picture
    picture.save(file, kind, **options)
    return file.getvalue()


def opencv(suffix: str, image: npt.NDArray[Any], *options: int) -> bytes:
    """A file of OpenCV's."""
    return bytes(cv2.imencode(suffix, image, options)[1].tobytes())


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def exif(orientation: int) -> Image.Exif:
    """EXIF data that say how to turn."""
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def huge_png() -> bytes:
    """A PNG that claims to have 40000x40000 pixels."""
    header = struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def whole() -> dict[str, bytes]:
    """Files that are read, all of the same picture, by name."""
    rgb = Image.fromarray(base()[..., ::-1])
    jpeg, progressive = encoded("JPEG", quality=95), encoded("JPEG", quality=95, progressive=True)
    deep = base().astype(np.uint16)
    frames: dict[str, Any] = {"save_all": True, "append_images": [Image.new("RGB", rgb.size)]}
    return {
        "baseline.jpg": jpeg,
        "progressive.jpg": progressive,
        "restart.jpg": opencv(".jpg", base(), cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        "no_end.jpg": jpeg[:-2],
        "progressive_no_end.jpg": progressive[:-2],
        "trailing.jpg": jpeg + b"something else" * 100,
        "cmyk.jpg": encoded("JPEG", rgb.convert("CMYK"), quality=95),
        "plain.png": encoded("PNG"),
        "palette.png": encoded("PNG", rgb.quantize(256)),
        "alpha.png": encoded("PNG", rgb.convert("RGBA")),
        "deep.png": opencv(".png", deep * 257),
        "12_in_16.png": opencv(".png", deep << 4),
        "10_in_16.tif": opencv(".tif", deep << 2),
        "deep.tif": opencv(".tif", deep << 8),
        "lzw.tif": encoded("TIFF", compression="tiff_lzw"),
        "animated.gif": encoded("GIF", rgb.quantize(256), **frames),
        "animated.webp": encoded("WEBP", lossless=True, **frames),
        "animated.png": encoded("PNG", **frames),
        "pages.tif": encoded("TIFF", **frames),
        "plain.webp": encoded("WEBP", lossless=True),
        "plain.avif": encoded("AVIF", quality=100),
        "plain.bmp": encoded("BMP"),
        "plain.ppm": encoded("PPM"),
        "plain.jp2": encoded("JPEG2000"),
        "jpeg_inside.png": jpeg,
        "no_suffix": jpeg,
    }


def grey() -> dict[str, bytes]:
    """Files of the same picture without colours."""
    picture = Image.fromarray(base()[..., ::-1]).convert("L")
    values = np.asarray(picture)
    return {
        "grey.jpg": encoded("JPEG", picture, quality=95),
        "grey.png": encoded("PNG", picture),
        "grey_alpha.png": encoded("PNG", picture.convert("LA")),
        "grey_12_in_16.png": opencv(".png", values.astype(np.uint16) << 4),
        "grey_16.tif": opencv(".tif", values.astype(np.uint16) << 8),
        "grey_float.tif": opencv(".tif", values.astype(np.float32) / 255),
    }


def broken() -> dict[str, tuple[bytes, str]]:
    """Files that are refused, and what is said of them."""
    jpeg, progressive = encoded("JPEG", quality=95), encoded("JPEG", quality=95, progressive=True)
    grey = encoded("JPEG", Image.new("RGB", (480, 320), (128, 128, 128)))
    png, tif, webp = encoded("PNG"), encoded("TIFF"), encoded("WEBP", lossless=True)
    end = b"\xff\xd9"
    return {
        "empty.jpg": (b"", "empty"),
        "half.jpg": (jpeg[: len(jpeg) * 3 // 4], "cut off"),
        "half_with_end.jpg": (jpeg[: len(jpeg) * 3 // 4] + end, "cut off"),
        "half_progressive.jpg": (progressive[: len(progressive) * 3 // 4], "cut off"),
        "half_progressive_with_end.jpg": (progressive[: len(progressive) * 3 // 4] + end, "cut"),
        "half_grey_with_end.jpg": (grey[: len(grey) * 3 // 4] + end, "cut off"),
        "header_only.jpg": (jpeg[: jpeg.index(b"\xff\xda") + 14] + end, "cut off"),
        "half.png": (png[: len(png) // 2], "cut off"),
        "half.tif": (tif[: len(tif) // 2], "cut off|decoded"),
        "half.webp": (webp[: len(webp) // 2], "decoded"),
        "huge.png": (huge_png(), "too large"),
        "text.png": (b"hello", "a text file"),
        "page.jpg": (b"<!DOCTYPE html><p>404", "an HTML page"),
        "drawing.png": (b'<?xml version="1.0"?><svg/>', "an SVG"),
        "pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\n", "LFS pointer"),
        "phone.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50), "HEIC"),
        "zip.png": (b"PK\x03\x04" + bytes(50), "a zip archive"),
        "zeros.jpg": (bytes(5000), "zeros"),
    }
