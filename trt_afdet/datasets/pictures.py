"""Reading picture and video files: whole or not at all, and without chatter on stderr."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from trt_afdet.errors import CorruptFileError, MissingFileError

if TYPE_CHECKING:
    import cv2

#: JPEG markers: start of picture, start of scan, end of picture.
_SOI, _SOS, _EOI = b"\xff\xd8", 0xDA, b"\xff\xd9"
_PNG = b"\x89PNG\r\n\x1a\n"


def quiet_opencv() -> None:
    """Keeps OpenCV and FFmpeg from writing to stderr; what fails is reported as an error.

    To be called before any video is opened: FFmpeg's level is read once.
    """
    import cv2

    # -8 is FFmpeg's "quiet".
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def open_video(path: Path) -> cv2.VideoCapture:
    """OpenCV's reader of a video file, opened or not; quiet about what is wrong with the file."""
    import cv2

    quiet_opencv()
    return cv2.VideoCapture(str(path))


def read_picture(path: Path) -> npt.NDArray[np.uint8]:
    """A picture as BGR uint8 [H, W, 3].

    Raises:
        MissingFileError: If there is no such file.
        CorruptFileError: If it is empty, cut off, or no picture.
    """
    import cv2

    if not path.is_file():
        raise MissingFileError("no such picture", got=str(path))
    data = path.read_bytes()
    if not data:
        raise CorruptFileError("picture is empty", got=str(path))
    if jpeg_is_cut_off(data) or (data.startswith(_PNG) and b"IEND" not in data):
        # OpenCV decodes what is there of a JPEG and paints the rest grey; its libraries' messages
        # go to stderr, past Python.
        raise CorruptFileError("picture is cut off", got=str(path))
    frame = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if frame is None:
        raise CorruptFileError("picture cannot be decoded", got=str(path))
    return np.asarray(frame, np.uint8)


def jpeg_is_cut_off(data: bytes) -> bool:
    """Whether a JPEG lacks its end marker; False for other formats.

    The header's segments are skipped by their lengths, because a thumbnail in one of them has an
    end marker of its own. In the scans after it, byte stuffing keeps the marker unique.
    """
    if not data.startswith(_SOI):
        return False
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # A fill byte.
            position += 1
            continue
        if marker == _SOS:
            return data.find(_EOI, position) < 0
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return True
