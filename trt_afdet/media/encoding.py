"""Encoding video, for files and restreams."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from trt_afdet.errors import InvalidValueError
from trt_afdet.media.pyav import load_av
from trt_afdet.support.suggest import nearest

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

CLOCK = 60_000  #: Ticks of a video's clock per second; MPEG-4 has 16 bits for it.
#: In this order; the first that FFmpeg has. H.264 plays everywhere.
CODECS = ("libx264", "libopenh264", "mpeg4")
KEY_INTERVAL = 2.0  #: Seconds between frames where players jump to: what a cut costs.


def choose_codec(wanted: str | None) -> str:
    """The wanted encoder, or the best that is there; raises InvalidValueError if it is missing."""
    available = {name for name in load_av().codecs_available if _encodes_video(name)}
    if wanted is not None and wanted not in available:
        hint = nearest(wanted, available) or f"there is {', '.join(sorted(available))}"
        raise InvalidValueError("FFmpeg has no such encoder", got=wanted, hint=hint)
    found = wanted or next((name for name in CODECS if name in available), None)
    if found is None:
        raise InvalidValueError("FFmpeg has none of the encoders", hint=", ".join(CODECS))
    return found


def _encodes_video(name: str) -> bool:
    with suppress(ValueError):
        return bool(load_av().codec.Codec(name, "w").type == "video")
    return False


class Encoder:
    """Puts frames of one size into a container, each at its own time.

    Args:
        container: Open for writing.
        codec: Of :func:`choose_codec`.
        size: Width and height of the frames, pixels.
        quality: 0 (best) to 51, for encoders that know it; None for the bit rate.
        bitrate: Bits per second.
        live: No frame is held back in the encoder, which makes larger files.
        rate: Frames per second, about.
        clock: Ticks of the video's clock per second.
        pixels: FFmpeg's pixel format.
    """

    def __init__(
        self,
        container: OutputContainer,
        codec: str,
        size: tuple[int, int],
        *,
        quality: int | None = None,
        bitrate: int | None = None,
        live: bool = True,
        rate: Fraction | int = 30,
        clock: Fraction | int = CLOCK,
        pixels: str = "yuv420p",
    ) -> None:
        self._container = container
        self._clock = Fraction(clock)
        self._tick = max(1, round(self._clock / rate))
        options = {}
        if codec == "libx264":
            # No frame waits in the encoder: written frames are safe, and restreams are prompt.
            prompt = {"tune": "zerolatency"} if live else {}
            options = {"preset": "veryfast", **prompt}
            if quality is not None:
                options["crf"] = str(quality)
        # The rate only guides the encoder; the times of the frames are exact.
        stream: VideoStream = container.add_stream(codec, rate=rate, options=options)  # type: ignore[assignment]
        even = pixels.startswith("yuv")  # Shared colours need even sides.
        stream.width, stream.height = (side + side % 2 * even for side in size)
        stream.pix_fmt = pixels
        stream.codec_context.time_base = stream.time_base = 1 / self._clock
        stream.codec_context.gop_size = 600  # Key frames are asked for by time, see encode().
        stream.codec_context.max_b_frames = 0
        if bitrate is not None:
            stream.codec_context.bit_rate = bitrate
        self._stream = stream
        self._last = -1
        self._last_key: int | None = None

    def has_room(self, seconds: float) -> bool:
        """Whether a frame at that time would be written within a tick of it."""
        return round(seconds * self._clock) >= self._last

    def encode(self, image: npt.NDArray[np.uint8], seconds: float) -> None:
        """Adds a BGR uint8 [H, W, 3] frame, ``seconds`` after the beginning of the video.

        Time never goes back: a frame that would is put just behind the last one.
        """
        av = load_av()
        height, width = image.shape[:2]
        if (width, height) != (self._stream.width, self._stream.height):
            below, right = self._stream.height - height, self._stream.width - width
            edge = cv2.BORDER_REPLICATE
            image = cv2.copyMakeBorder(image, 0, below, 0, right, edge)  # type: ignore[assignment]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
        frame.pts = max(round(seconds * self._clock), self._last + 1)
        frame.time_base = 1 / self._clock
        # Of the last frame: the others last until the next one.
        frame.duration = self._tick
        if self._last_key is None or frame.pts - self._last_key >= KEY_INTERVAL * self._clock:
            self._last_key = frame.pts
            frame.pict_type = av.video.frame.PictureType.I
        self._last = frame.pts
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def finish(self) -> None:
        """Writes the frames that the encoder still holds."""
        for packet in self._stream.encode(None):
            self._container.mux(packet)
