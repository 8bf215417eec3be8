"""Encodes a camera's newest frame as JPEG, with its boxes as JSON for the WebSocket."""

from __future__ import annotations

import json
import struct
from typing import NamedTuple

import cv2
import numpy as np

from trt_afdet.errors import RunError
from trt_afdet.support.files import TEXT_ERRORS
from trt_afdet.web.results import LatestResult

#: Widths in pixels that pictures are sent in: few, so that browsers share encoded pictures.
WIDTHS = (160, 320, 480, 640, 960, 1280, 1920)
#: Most boxes sent with a picture, the best ones.
MOST_BOXES = 300


class EncodedFrame(NamedTuple):
    """A frame for browsers."""

    serial: int  # Of the result, see LatestResult.
    made: float  # When it was encoded, seconds of the caller's clock.
    data: bytes  # 4 bytes big-endian length of the header, the header (JSON), the JPEG.


def fitting_width(wanted: int) -> int:
    """The smallest of :data:`WIDTHS` that is at least ``wanted`` pixels, or the largest."""
    return next((width for width in WIDTHS if width >= wanted), WIDTHS[-1])


def encode_jpeg(latest: LatestResult, width: int, quality: int) -> bytes:
    """The frame as a JPEG, reduced (never enlarged) to the width in pixels."""
    image = latest.result.frame.image
    wide, tall = latest.size
    if wide > width:
        # INTER_AREA takes three times as long, and shows only below a half of the size.
        how = cv2.INTER_LINEAR if wide < 2 * width else cv2.INTER_AREA
        size = (width, max(1, round(tall * width / wide)))
        image = cv2.resize(image, size, interpolation=how)  # type: ignore[assignment]
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RunError("a frame cannot be encoded as JPEG", got=f"{wide} x {tall}")
    return data.tobytes()


def encode_frame(latest: LatestResult, width: int, quality: int, now: float) -> EncodedFrame:
    """A frame with its boxes, for browsers."""
    frame, found = latest.result.frame, latest.result.detections[:MOST_BOXES]
    boxes = np.clip(found.xyxy / np.array(latest.size * 2, np.float32), -1, 2).round(4).tolist()
    rows = zip(boxes, found.names, found.confidence.tolist(), found.tracks, strict=True)
    header = {
        "camera": latest.camera,
        "sequence": frame.sequence,
        "time": round(frame.wall_time, 3),
        "size": latest.size,
        "boxes": [
            {"box": box, "name": name, "confidence": round(confidence, 3)}
            | ({} if track is None else {"track": track})
            for box, name, confidence, track in rows
        ],
    }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
    head = text.encode("utf-8", TEXT_ERRORS)
    data = b"".join((struct.pack(">I", len(head)), head, encode_jpeg(latest, width, quality)))
    return EncodedFrame(latest.serial, now, data)
