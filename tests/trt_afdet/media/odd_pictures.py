"""Pictures as people have them, made on the spot."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, TiffImagePlugin

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


def by_ffmpeg(codec: str, pixels: str) -> bytes:
    """A file of FFmpeg's."""
    context: Any = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, pixels
    context.time_base = Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(base(), format="bgr24").reformat(format=pixels)
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


def exif_as(kind: int, count: int, value: bytes) -> bytes:
    """A JPEG whose EXIF orientation is of a type of its own."""
    entry = struct.pack("<HHI", 0x0112, kind, count) + value.ljust(4, b"\0")
    block = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + bytes(4)
    return with_segment(encoded("JPEG", quality=95), block)


def with_segment(jpeg: bytes, block: bytes) -> bytes:
    """A JPEG with an APP1 segment put first."""
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


def xmp() -> bytes:
    """XMP that says how to turn."""
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf='
        b'"http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:tiff='
        b'"http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )


def top_down() -> bytes:
    """A BMP whose first row comes first."""
    data = bytearray(encoded("BMP"))
    start, row = struct.unpack_from("<I", data, 10)[0], WIDTH * 3
    rows = [bytes(data[start + row * n : start + row * (n + 1)]) for n in range(HEIGHT)]
    data[start:] = b"".join(reversed(rows))
    struct.pack_into("<i", data, 22, -HEIGHT)
    return bytes(data)


def png(depth: int, colour: int, rows: list[bytes]) -> bytes:
    """A PNG of plain rows."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def raw_preview(dng: bool) -> bytes:
    """A TIFF as cameras write it: the first picture is a preview."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if dng:
        tags.tagtype[50706], tags[50706] = 1, b"\1\4\0\0"
    else:
        tags.tagtype[254], tags[254] = 4, 1
    return encoded("TIFF", tiffinfo=tags)


def whole() -> dict[str, bytes]:
    """Files that are read, all of the same picture, by name."""
    rgb = Image.fromarray(base()[..., ::-1])
    jpeg, progressive = encoded("JPEG", quality=95), encoded("JPEG", quality=95, progressive=True)
    deep = base().astype(np.uint16)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
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
        **{
            f"{name}.jpg": encoded("JPEG", quality=95, subsampling=name)
            for name in ("4:4:4", "4:2:2", "4:2:0", "4:1:1")
        },
        "440.jpg": opencv(".jpg", base(), cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x121111),
        "phone.mpo": encoded("MPO", quality=95, save_all=True, append_images=[rgb.resize((8, 8))]),
        "profile.jpg": encoded("JPEG", quality=95, icc_profile=profile),
        "profile.png": encoded("PNG", icc_profile=profile),
        "xmp.jpg": with_segment(jpeg, b"http://ns.adobe.com/xap/1.0/\0" + xmp()),
        "xmp.webp": encoded("WEBP", lossless=True, xmp=xmp()),
        "float_exif.jpg": exif_as(11, 1, struct.pack("<f", 6.0)),
        "nine_exif.jpg": exif_as(3, 1, b"\x09"),
        "text_exif.jpg": exif_as(2, 2, b"6"),
        "cut_exif.jpg": with_segment(jpeg, b"Exif\0\0II*\0\x08\0"),
        "packbits.tif": encoded("TIFF", compression="packbits"),
        "deflate.tif": encoded("TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tif": encoded("TIFF", compression="jpeg", quality=95),
        "big.tif": encoded("TIFF", big_tiff=True),
        "cmyk.tif": encoded("TIFF", rgb.convert("CMYK")),
        "lab.tif": encoded("TIFF", rgb.convert("LAB")),
        "alpha.tif": encoded("TIFF", rgb.convert("RGBA")),
        "ycbcr.tif": by_ffmpeg("tiff", "yuv444p"),
        "16.tif": by_ffmpeg("tiff", "rgb48le"),
        "16.png": by_ffmpeg("png", "rgb48be"),
        "16.ppm": by_ffmpeg("ppm", "rgb48be"),
        "565.bmp": by_ffmpeg("bmp", "rgb565le"),
        "alpha.bmp": by_ffmpeg("bmp", "bgra"),
        "top_down.bmp": top_down(),
        "interlaced.gif": encoded("GIF", rgb.quantize(256), interlace=True),
        "alpha.webp": encoded("WEBP", rgb.convert("RGBA"), lossless=True),
        "alpha.avif": encoded("AVIF", rgb.convert("RGBA"), quality=100),
        "animated.avif": encoded("AVIF", quality=100, **frames),
        "tiles.jp2": encoded("JPEG2000", tile_size=(16, 16)),
        "stream.j2k": encoded("JPEG2000", no_jp2=True),
        "ascii.ppm": b"P3 48 32 255\n" + " ".join(map(str, base()[..., ::-1].ravel())).encode(),
        "jpeg_inside.png": jpeg,
        "png_inside.JPG": encoded("PNG"),
        "no_suffix": jpeg,
    }


def grey() -> dict[str, bytes]:
    """Files of the same picture without colours."""
    picture = Image.fromarray(base()[..., ::-1]).convert("L")
    values = np.asarray(picture)
    deep = [np.stack([row * 257, row * 0 + 9], 1).tobytes() for row in values.astype(">u2")]
    return {
        "grey.jpg": encoded("JPEG", picture, quality=95),
        "grey.png": encoded("PNG", picture),
        "grey_alpha.png": encoded("PNG", picture.convert("LA")),
        "grey_12_in_16.png": opencv(".png", values.astype(np.uint16) << 4),
        "grey_16.tif": opencv(".tif", values.astype(np.uint16) << 8),
        "grey_alpha_16.png": png(16, 4, deep),
        "grey_4.png": png(4, 0, [(row[::2] | row[1::2] >> 4).tobytes() for row in values & 0xF0]),
        "grey_alpha.tif": encoded("TIFF", picture.convert("LA")),
        "grey_int.tif": encoded("TIFF", picture.convert("I")),
        "grey.jp2": encoded("JPEG2000", picture),
        "ascii.pgm": b"P2 48 32 255\n" + " ".join(map(str, values.ravel())).encode(),
        "16.pgm": by_ffmpeg("pgm", "gray16be"),
        "grey_float.tif": opencv(".tif", values.astype(np.float32) / 255),
    }


def bits() -> dict[str, bytes]:
    """Files of one picture in black and white."""
    picture = Image.fromarray(black_and_white())
    return {
        "bits.png": encoded("PNG", picture),
        "bits.bmp": encoded("BMP", picture),
        "bits.pbm": encoded("PPM", picture),
        "bits.gif": encoded("GIF", picture),
        **{
            f"{kind}.tif": encoded("TIFF", picture, compression=kind)
            for kind in ("raw", "group3", "group4", "packbits", "tiff_lzw")
        },
    }


def black_and_white() -> npt.NDArray[np.bool_]:
    """True for white."""
    return cv2.cvtColor(base(), cv2.COLOR_BGR2GRAY) > 110


def broken() -> dict[str, tuple[bytes, str]]:
    """Files that are refused, and what is said of them."""
    jpeg, progressive = encoded("JPEG", quality=95), encoded("JPEG", quality=95, progressive=True)
    grey = encoded("JPEG", Image.new("RGB", (480, 320), (128, 128, 128)))
    png, tif, webp = encoded("PNG"), encoded("TIFF"), encoded("WEBP", lossless=True)
    end, frame = b"\xff\xd9", jpeg.index(b"\xff\xc0")
    size = (20_000 - 1).to_bytes(3, "little")
    too_large = webp[:12] + b"VP8X" + struct.pack("<I", 10) + bytes(4) + size * 2 + webp[12:]
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
        "lossless.jpg": (by_ffmpeg("ljpeg", "yuvj444p"), "lossless JPEG"),
        "jpegls.jpg": (by_ffmpeg("jpegls", "bgr24"), "JPEG-LS"),
        "12_bits.jpg": (jpeg[: frame + 4] + b"\x0c" + jpeg[frame + 5 :], "12 bits"),
        "three_floats.tif": (opencv(".tif", base().astype(np.float32)), "kind of pixels"),
        "preview.nef": (raw_preview(dng=False), "camera raw"),
        "raw.dng": (raw_preview(dng=True), "camera raw"),
        "a.cr3": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(50), "camera raw"),
        "a.exr": (by_ffmpeg("exr", "gbrpf32le"), "OpenEXR"),
        "a.hdr": (by_ffmpeg("hdr", "gbrpf32le"), "Radiance"),
        "a.qoi": (by_ffmpeg("qoi", "rgb24"), "QOI"),
        "a.pam": (by_ffmpeg("pam", "rgb24"), "PAM"),
        "a.pfm": (by_ffmpeg("pfm", "gbrpf32le"), "PFM"),
        "a.pcx": (by_ffmpeg("pcx", "rgb24"), "PCX"),
        "a.ico": (encoded("ICO"), "an icon"),
        "a.tga": (by_ffmpeg("targa", "bgr24"), "begins like none of JPEG"),
        "too_large.webp": (too_large, "too large"),
        "zip.png": (b"PK\x03\x04" + bytes(50), "a zip archive"),
        "zeros.jpg": (bytes(5000), "zeros"),
    }
