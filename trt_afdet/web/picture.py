"""A camera's frame as it travels to a browser: a JPEG and the boxes that belong to it."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from trt_afdet.errors import RunError
from trt_afdet.support.files import TEXT_ERRORS
from trt_afdet.web.hub import Slot

#: Widths in pixels that pictures are sent in: few, so that viewers share what was encoded.
WIDTHS = (160, 320, 480, 640, 960, 1280, 1920)
#: Most boxes sent with a picture, the best ones.
MOST_BOXES = 300


@dataclass(frozen=True)
class Packet:
    """An encoded frame.

    Attributes:
        serial: Of the frame, see :class:`trt_afdet.web.hub.Slot`.
        made: When it was encoded, seconds of the caller's clock.
        data: 4 bytes big-endian length of the header, the header (JSON), the JPEG.
    """

    serial: int
    made: float
    data: bytes


def fitting_width(wanted: int) -> int:
    """The width that is sent to one who wants so many pixels."""
    return next((width for width in WIDTHS if width >= wanted), WIDTHS[-1])


def jpeg(slot: Slot, width: int, quality: int) -> bytes:
    """The frame as a JPEG, made smaller (never larger) to the width."""
    image = slot.result.frame.image
    tall, wide = image.shape[:2]
    if wide > width:
        size = (width, max(1, round(tall * width / wide)))
        # Below a half every pixel still counts with the cheap one, at a third of the time.
        cheap = wide < 2 * width
        how = cv2.INTER_LINEAR if cheap else cv2.INTER_AREA
        image = cv2.resize(image, size, interpolation=how)  # type: ignore[assignment]
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RunError("a frame cannot be encoded as JPEG", got=f"{wide} x {tall}")
    return data.tobytes()


def encode(slot: Slot, width: int, quality: int, now: float) -> Packet:
    """A frame with its boxes, for a browser."""
    header = json.dumps(_header(slot), ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", TEXT_ERRORS
    )
    data = b"".join((struct.pack(">I", len(header)), header, jpeg(slot, width, quality)))
    return Packet(slot.serial, now, data)


def _header(slot: Slot) -> dict[str, Any]:
    frame, detections = slot.result.frame, slot.result.detections[:MOST_BOXES]
    tall, wide = frame.image.shape[:2]
    scale = np.array([wide, tall, wide, tall], np.float32)
    boxes = np.clip(detections.xyxy / scale, -1, 2).round(4).tolist()
    return {
        "camera": slot.camera,
        "sequence": frame.sequence,
        "time": round(frame.wall_time, 3),
        "size": [wide, tall],
        "boxes": [
            {
                "box": box,
                "name": name,
                "confidence": round(confidence, 3),
                **({} if track is None else {"track": track}),
            }
            for box, name, confidence, track in zip(
                boxes,
                detections.names,
                detections.confidence.tolist(),
                detections.tracks,
                strict=True,
            )
        ],
    }
