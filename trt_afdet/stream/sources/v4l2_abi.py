"""The kernel's interface to cameras (linux/videodev2.h): structures and calls."""

from __future__ import annotations

import ctypes as c
import errno
import fcntl

CAPTURE = 1  # V4L2_BUF_TYPE_VIDEO_CAPTURE
MEMORY_MMAP = 1
CAP_CAPTURE, CAP_STREAMING, CAP_DEVICE_CAPS = 0x1, 0x04000000, 0x80000000
DISCRETE = 1  # Of V4L2_FRMSIZE_TYPE and V4L2_FRMIVAL_TYPE.
TIME_PER_FRAME = 0x1000
TIMESTAMP_MASK, TIMESTAMP_MONOTONIC = 0xE000, 0x2000
FLAG_ERROR = 0x40

_u8, _u32 = c.c_uint8, c.c_uint32


def _words(names: str) -> list[tuple[str, type[c.c_uint32]]]:
    """Fields of 32 bits."""
    return [(name, _u32) for name in names.split()]


class Capability(c.Structure):
    _fields_ = (
        ("driver", c.c_char * 16), ("card", c.c_char * 32), ("bus_info", c.c_char * 32),
        *_words("version capabilities device_caps"), ("reserved", _u32 * 3),
    )  # fmt: skip


class FormatDescription(c.Structure):
    _fields_ = (
        *_words("index type flags"), ("description", c.c_char * 32),
        *_words("pixelformat mbus_code"), ("reserved", _u32 * 3),
    )  # fmt: skip


class FrameSize(c.Structure):
    """``values``: width, height; or least, most and step of the width, then of the height."""

    _fields_ = (*_words("index pixel_format type"), ("values", _u32 * 6), ("reserved", _u32 * 2))


class FrameInterval(c.Structure):
    """``values``: numerator, denominator; or least, most and step as such pairs."""

    _fields_ = (
        *_words("index pixel_format width height type"),
        ("values", _u32 * 6), ("reserved", _u32 * 2),
    )  # fmt: skip


class PixFormat(c.Structure):
    _fields_ = _words(
        "width height pixelformat field bytesperline sizeimage colorspace priv flags ycbcr_enc "
        "quantization xfer_func"
    )


class _FormatUnion(c.Union):
    # One of the kernel's members holds pointers, which decides the alignment.
    _fields_ = (("pix", PixFormat), ("raw", _u8 * 200), ("align", c.c_void_p))


class Format(c.Structure):
    _fields_ = (("type", _u32), ("fmt", _FormatUnion))


class _CaptureParameters(c.Structure):
    _fields_ = (
        *_words("capability capturemode numerator denominator extendedmode readbuffers"),
        ("reserved", _u32 * 4),
    )


class _ParametersUnion(c.Union):
    _fields_ = (("capture", _CaptureParameters), ("raw", _u8 * 200))


class StreamParameters(c.Structure):
    _fields_ = (("type", _u32), ("parm", _ParametersUnion))


class RequestBuffers(c.Structure):
    _fields_ = (*_words("count type memory capabilities"), ("flags", _u8), ("reserved", _u8 * 3))


class _BufferPlace(c.Union):
    _fields_ = (("offset", _u32), ("userptr", c.c_ulong))


class Buffer(c.Structure):
    _fields_ = (
        *_words("index type bytesused flags field"),
        ("seconds", c.c_long), ("microseconds", c.c_long), ("timecode", _u32 * 4),
        *_words("sequence memory"), ("m", _BufferPlace), *_words("length reserved2 request_fd"),
    )  # fmt: skip


def _request(direction: int, number: int, argument: type[c.c_int] | type[c.Structure]) -> int:
    return direction << 30 | c.sizeof(argument) << 16 | ord("V") << 8 | number


_WRITE, _READ, _BOTH = 1, 2, 3
QUERYCAP = _request(_READ, 0, Capability)
ENUM_FMT = _request(_BOTH, 2, FormatDescription)
G_FMT = _request(_BOTH, 4, Format)
S_FMT = _request(_BOTH, 5, Format)
REQBUFS = _request(_BOTH, 8, RequestBuffers)
QUERYBUF = _request(_BOTH, 9, Buffer)
QBUF = _request(_BOTH, 15, Buffer)
DQBUF = _request(_BOTH, 17, Buffer)
STREAMON = _request(_WRITE, 18, c.c_int)
STREAMOFF = _request(_WRITE, 19, c.c_int)
G_PARM = _request(_BOTH, 21, StreamParameters)
S_PARM = _request(_BOTH, 22, StreamParameters)
ENUM_FRAMESIZES = _request(_BOTH, 74, FrameSize)
ENUM_FRAMEINTERVALS = _request(_BOTH, 75, FrameInterval)


def call(fd: int, request: int, argument: c.Structure | c.c_int) -> bool:
    """Makes a call; False if there is no such item, or the driver cannot do that."""
    while True:
        try:
            fcntl.ioctl(fd, request, argument, True)
            return True
        except InterruptedError:
            continue
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOTTY):
                return False
            raise


def fourcc(text: str) -> int:
    """The number of a pixel format such as ``MJPG``."""
    return int.from_bytes(text.encode("ascii", "replace").ljust(4)[:4], "little")


def fourcc_text(number: int) -> str:
    """The name of a pixel format; of big-endian ones without that bit."""
    return (number & 0x7FFFFFFF).to_bytes(4, "little").decode("ascii", "replace").strip()
