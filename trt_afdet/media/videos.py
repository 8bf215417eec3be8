"""The one reader of video files: every frame that can be decoded, upright, at its own time.

* Only formats of videos are opened (:data:`FORMATS`). FFmpeg reads much more: it paints text as a
  film, and follows playlists to other files.
* The film is read, not a cover picture or a thumbnail beside it.
* Damage is passed over and counted. A file that was cut off is told by its structure, never by the
  number of frames that its header promises: edit lists, variable rates and sloppy writers make
  that number wrong in whole files.
* A frame's position counts from the first frame and never goes back, also where recordings were
  joined. Frames that are lost in a damaged file do not make the later ones come earlier: where an
  AVI, which stores no times, has its index, that counts the lost ones.
* The display matrix is applied, mirrored ones too. Pixels stay as stored where they are not square.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trt_afdet.errors import CorruptFileError
from trt_afdet.media.content import HEAD, check_is_file, looks_like, picture_format
from trt_afdet.media.pictures import read_picture, turn
from trt_afdet.media.pyav import load_av, open_input

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

Image = npt.NDArray[np.uint8]

#: FFmpeg's names of the formats that are opened.
FORMATS = (
    "mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "m4v", "h264", "hevc", "vvc", "av1",
    "obu", "ivf", "flv", "live_flv", "asf", "ogg", "mxf", "gxf", "nut", "dv", "rm", "wtv", "dhav",
    "yuv4mpegpipe", "mjpeg", "mjpeg_2000", "gif", "vc1", "h263", "h261", "swf", "cavsvideo",
)  # fmt: skip
_JITTER = 5  # Frames by which times may be out of order in a sloppy file.
_LEAST_STEP = 1e-4  # Seconds between frames that the file puts at one time.
_JOIN = 5  # Packets by which a join may follow its sign.
_MOST_FAILURES = 100  # In a row; then the end of a damaged file counts as reached.
_UNSPECIFIED = 2  # FFmpeg's number of the colour space that is not said.
_CHUNK_HEADER = 8  # Bytes in front of a chunk of AVI.
_STEP = 1 / 25  # Seconds between frames where nothing says more.


@dataclass(frozen=True)
class VideoInfo:
    """The header of a video; None where it does not say.

    Attributes:
        width, height: Pixels as shown; 0 if only the frames will tell.
        fps, fastest: Frames per second on average, and where they come fastest.
        total: About how many frames it has.
    """

    width: int
    height: int
    fps: float | None
    fastest: float | None
    total: int | None
    codec: str


class Converter:
    """Turns decoded frames into pictures. Used by one thread; frames may differ in size."""

    def __init__(self) -> None:
        load_av()
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> Image:
        """BGR uint8 [H, W, 3], upright if the file says which way up it is.

        Raises CorruptFileError if FFmpeg cannot convert the frame's pixels.
        """
        try:
            converted = self._reformatter.reformat(frame, format="bgr24", threads=1)
        except (OSError, ValueError):
            # FFmpeg knows no way from colour spaces such as YCgCo and from reserved numbers.
            frame.colorspace = _UNSPECIFIED
            try:
                converted = self._reformatter.reformat(frame, format="bgr24", threads=1)
            except (OSError, ValueError) as error:
                what = "FFmpeg cannot convert the frame's pixels"
                raise CorruptFileError(what, got=frame.format.name) from error
        image = np.asarray(converted.to_ndarray(), np.uint8)
        data: Any = frame.side_data.get("DISPLAYMATRIX")
        if data is None or len(bytes(data)) < 36:
            return image
        # Rows of the matrix are what stored x, stored y and 1 contribute to x, y and the scale.
        # Turns that are not multiples of 90 degrees go to the nearest.
        xx, yx, _, xy, yy, *_ = struct.unpack("=9i", bytes(data)[:36])
        swapped = abs(xy) > abs(xx)
        return turn(image, swapped, (xy if swapped else xx) < 0, (yx if swapped else yy) < 0)


class Video(AbstractContextManager["Video"]):
    """An opened video file. Used by one thread.

    Args:
        path: The file.
        threads: Of the decoder; 0: as many as it likes.
        hwaccel: PyAV's way to a hardware decoder.
        interrupted: Ends the reading early when it is set.

    Attributes:
        info: Its header.
        damaged: Places that could not be decoded so far.
        cut_off: Whether its end is missing.

    Raises MissingFileError, or CorruptFileError if it is no video or too damaged to be opened.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int = 0,
        hwaccel: Any = None,
        interrupted: threading.Event | None = None,
    ) -> None:
        av = load_av()
        self.path = Path(path)
        self.damaged = 0
        self._interrupted = interrupted or threading.Event()
        self._container: Any = None
        self._convert = Converter()
        head = _head(self.path)
        self.cut_off = is_cut_off(self.path, head)
        # A film may name other files and addresses as its parts.
        options = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}
        try:
            # The prefix keeps a colon in a path from being read as a protocol.
            self._container = open_input(f"file:{self.path}", options=options, hwaccel=hwaccel)
        except (av.error.FFmpegError, OSError, RuntimeError, ValueError) as error:
            if hwaccel is not None and not isinstance(error, av.error.InvalidDataError):
                raise
            raise self._refused(head, error) from None
        try:
            self._stream = self._choose_stream()
            self.info = self._look(threads)
        except BaseException:
            self.close()
            raise
        self._frames = self._decode()
        # FFmpeg makes up the other times of AVI, and errs where frames are stored out of order.
        self._has_dts_only = self._container.format.name == "avi"
        self._count = self._entry = 0
        self._shown = self._whole = False
        self._unshown: CorruptFileError | None = None
        self._raw = self._position = self._offset = 0.0
        self._step = 1 / self.info.fps if self.info.fps else _STEP

    def _refused(self, head: bytes, error: BaseException) -> CorruptFileError:
        av = load_av()
        like = looks_like(head)
        if isinstance(error, OSError) and not isinstance(error, av.error.FFmpegError):
            got = f"{self.path}: {error.strerror or error}"
            return CorruptFileError("the video cannot be read", got=got)
        if like is None and self.cut_off:
            return self._without_index()
        hint = "is it damaged, or of a format that is not a video's?"
        if like is not None:
            hint = f"it looks like {like}" + (f"; {_HINTS[like]}" if like in _HINTS else "")
        what = "neither a picture nor a video that can be read"
        return CorruptFileError(what, got=self.path, hint=hint)

    def _without_index(self) -> CorruptFileError:
        what = "the video is cut off and cannot be read"
        return CorruptFileError(what, got=self.path, hint="its index is gone")

    def _choose_stream(self) -> Any:
        """The film: no cover picture, decodable, marked as default, and the largest of those."""
        streams = self._container.streams
        # A Flag in PyAV 17, an IntFlag later: only `value` is a number in both.
        films = [s for s in streams.video if not int(s.disposition.value) & _PICTURES]

        def rank(stream: Any) -> tuple[bool, int, int]:
            context = stream.codec_context
            area = (context.width or 0) * (context.height or 0)
            return bool(int(stream.disposition.value) & 1), area, -stream.index

        if decodable := [s for s in films if s.codec_context is not None]:
            return max(decodable, key=rank)
        if self.cut_off and not streams:
            raise self._without_index()
        if streams.video and len(films) == len(streams.video):
            raise CorruptFileError("FFmpeg cannot decode the video's codec", got=self.path)
        hint = "it has sound only" if streams.audio else None
        hint = "it has a cover picture only" if streams.video else hint
        raise CorruptFileError("the file holds no video", got=self.path, hint=hint)

    def _look(self, threads: int) -> VideoInfo:
        stream, context = self._stream, self._stream.codec_context
        context.thread_type = "AUTO"
        context.thread_count = threads
        rate = stream.average_rate or stream.guessed_rate
        fps = float(rate) if rate and 0 < rate <= 1000 else None
        base = stream.base_rate
        fastest = float(base) if base and fps and fps < base <= 120 else fps
        seconds = None
        if stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        elif self._container.duration:
            seconds = self._container.duration / load_av().time_base
        total = stream.frames or (round(seconds * fps) if seconds and fps else 0)
        size = context.width or 0, context.height or 0
        return VideoInfo(*size, fps, fastest, total or None, context.name or "")

    def __iter__(self) -> Iterator[tuple[Image, float]]:
        """Each frame as BGR uint8 [H, W, 3], with its position in seconds."""
        return iter(self.read, None)

    def read(self) -> tuple[Image, float] | None:
        """The next frame as BGR uint8 [H, W, 3], and its position in seconds; None at the end.

        Raises CorruptFileError at the end if there was no frame at all.
        """
        while (frame := self._next()) is not None:
            try:
                image = self._convert(frame)
            except CorruptFileError as error:
                self.damaged += 1
                self._unshown = error
                continue
            self._shown = True
            return image, self._position
        if not self._shown and self._unshown is not None:
            raise CorruptFileError(self._unshown.what, got=f"{self.path}: {self._unshown.got}")
        return None

    def skip(self) -> bool:
        """Passes over a frame, which is cheaper than to read it; False at the end."""
        return self._next() is not None

    def _next(self) -> VideoFrame | None:
        frame = next(self._frames, None)
        if frame is None:
            if self._count == 0 and not self._interrupted.is_set():
                raise CorruptFileError("the video has no frame that can be decoded", got=self.path)
            return None
        self._take_time(frame)
        # A recording may begin between key frames: earlier broken frames are not damage.
        if not frame.is_corrupt:
            self._whole = True
        elif self._whole:
            self.damaged += 1
        return frame

    def _take_time(self, frame: VideoFrame) -> None:
        """Puts a frame behind the last one, at its own time if that is possible."""
        raw = frame.time
        if self._has_dts_only and frame.dts is not None and frame.time_base:
            raw = float(frame.dts * frame.time_base)
        if raw is None:
            raw = self._raw + self._step if self._count else 0.0
        if self._count == 0:
            self._raw, self._offset = raw, -raw
        else:
            if raw < self._raw - _JITTER * self._step:
                # Here another recording begins, or the file's clock was set back.
                self._offset = self._position + self._step - raw
                self._raw = raw
            self._raw = max(self._raw, raw)
            self._position = max(raw + self._offset, self._position + _LEAST_STEP)
        self._count += 1

    def _decode(self) -> Iterator[VideoFrame]:
        av = load_av()
        packets = self._container.demux(self._stream)
        failures = 0
        latest, incomplete, lost = None, 0, 0
        while not self._interrupted.is_set():
            try:
                packet = next(packets, None)
                failures = 0
            except av.error.FFmpegError:
                # A damaged container: the next packet may be whole. The iterator has ended.
                self.damaged += 1
                failures += 1
                given_up = failures > _MOST_FAILURES
                packets = iter(()) if given_up else self._container.demux(self._stream)
                continue
            if packet is not None and packet.dts is not None:
                if self._has_dts_only:
                    before, lost = lost, self._lost(packet, lost)
                    packet.dts += lost
                    self.damaged += lost > before
                # Just before a place where recordings were joined, a packet seems incomplete.
                if latest is not None and packet.dts < latest:
                    incomplete = 0
                elif incomplete:
                    incomplete -= 1
                    self.damaged += incomplete == 0
                if packet.is_corrupt:
                    incomplete = _JOIN
                latest = packet.dts
            try:
                # An empty packet at the end flushes the decoder.
                yield from self._stream.codec_context.decode(packet)
            except av.error.EOFError:
                return
            except av.error.FFmpegError:
                self.damaged += 1
            if packet is None:
                return

    def _lost(self, packet: Any, lost: int) -> int:
        """How many frames of an AVI were lost before a packet, by its index; ``lost`` before it.

        FFmpeg counts the packets that it finds. Where entries of the index are lost instead, that
        count is the higher one.
        """
        entries = self._stream.index_entries
        place = packet.pos - _CHUNK_HEADER
        while self._entry < len(entries) and entries[self._entry].pos < place:
            self._entry += 1
        if self._entry < len(entries) and entries[self._entry].pos == place:
            return max(lost, entries[self._entry].timestamp - packet.dts)
        return lost

    @property
    def fault(self) -> str:
        """At the end: the damage of the file, such as "is cut off: ..."; empty if nothing."""
        if self.cut_off:
            return "is cut off: the end of the file is missing"
        places = "1 place" if self.damaged == 1 else f"{self.damaged} places"
        return f"is damaged: {places} could not be decoded" if self.damaged else ""

    def close(self) -> None:
        """Closes the file; closing twice is fine."""
        container, self._container = self._container, None
        self._frames = iter(())
        if container is not None:
            container.close()

    def __exit__(self, *_: object) -> None:
        self.close()


#: FFmpeg's flags of streams that are not films: cover, timed thumbnails, still picture.
_PICTURES = 0x0400 | 0x0800 | 0x100000
#: What to do with files that look like something else.
_HINTS = {
    "a list of pictures": "give a folder or a pattern of pictures",
    "a list of videos": "give one of them",
    "a playlist": "give the video itself, or the address of the stream",
    "an audio file": "it holds no video",
}


class FrameReader(AbstractContextManager["FrameReader"]):
    """Pictures, and frames of videos by number; cheap as long as the numbers rise."""

    def __init__(self) -> None:
        self._video: Video | None = None
        self._next = 0

    def read(self, path: str | Path, number: int | None) -> Image:
        """A frame of a video, or with None a picture, as BGR uint8 [H, W, 3].

        Raises CorruptFileError if it cannot be read, or the video not that far.
        """
        path = Path(path)
        if number is None:
            return read_picture(path)
        if self._video is None or path != self._video.path or number < self._next:
            self.close()
            self._video, self._next = Video(path), 0
        while self._next < number and self._video.skip():
            self._next += 1
        found = self._video.read() if self._next == number else None
        if found is None:
            what = f"the video ends before frame {number}"
            raise CorruptFileError(what, got=f"{path}: {self._next} frames")
        self._next += 1
        return found[0]

    def close(self) -> None:
        if self._video is not None:
            self._video.close()
        self._video = None

    def __exit__(self, *_: object) -> None:
        self.close()


def count_frames(path: str | Path) -> int:
    """How many frames of a video can be decoded; errors as of :class:`Video`."""
    with Video(path) as video:
        return sum(1 for _ in iter(video.skip, False))


def is_video_file(path: str | Path) -> bool:
    """Whether a file is to be read as a video rather than as a picture, told by its content.

    A GIF of several pictures is a video. What is neither is called a video: opening it says why it
    is not.
    """
    path = Path(path)
    head = _head(path)
    name = picture_format(head)
    if name == "JPEG":  # JPEGs one after another.
        return path.suffix.lower() in (".mjpeg", ".mjpg")
    if name == "GIF":
        from PIL import GifImagePlugin

        damage = (OSError, SyntaxError, ValueError, IndexError, EOFError, struct.error)
        with suppress(*damage), GifImagePlugin.GifImageFile(path) as picture:
            return bool(picture.is_animated)
    return name is None


def _head(path: Path) -> bytes:
    check_is_file(path, "video")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise CorruptFileError("cannot be read", got=f"{path}: {error.strerror}") from error
    if not head:
        raise CorruptFileError("the file is empty (0 bytes)", got=path)
    return head


def is_cut_off(path: Path, head: bytes) -> bool:
    """Whether the structure of a file goes on beyond its end."""
    size = path.stat().st_size
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp"):
        return _mp4_is_cut(path, size)
    if head[:4] == b"\x1aE\xdf\xa3":
        return _matroska_is_cut(head, size)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        end = int.from_bytes(head[4:8], "little") + 8
        return end > size and end < 0xFFFFFFFF
    for step, at in ((188, 0), (192, 4)):
        if len(head) > at + step and head[at] == 0x47 and head[at + step] == 0x47:
            return size % step != 0
    return False


def _mp4_is_cut(path: Path, size: int) -> bool:
    """Whether a box reaches beyond the end, or there is no index."""
    position, index = 0, False
    with path.open("rb") as file:
        while position + 8 <= size:
            file.seek(position)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            index = index or header[4:8] == b"moov"
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            elif length == 0:  # To the end of the file.
                return not index
            if length < 8:
                return False  # Damaged, or padding; not cut.
            position += length
    return position > size or not index


def _matroska_is_cut(head: bytes, size: int) -> bool:
    length, position = _ebml_size(head, 4)
    position += length or 0
    if length is None or head[position : position + 4] != b"\x18\x53\x80\x67":
        return False
    length, position = _ebml_size(head, position + 4)
    return length is not None and position + length > size


def _ebml_size(data: bytes, position: int) -> tuple[int | None, int]:
    """A size of Matroska at a position (None if it is unknown), and where it ends."""
    if position >= len(data) or data[position] == 0:
        return None, position
    width = 9 - data[position].bit_length()
    raw = int.from_bytes(data[position : position + width], "big")
    value = raw & ((1 << 7 * width) - 1)
    return None if value == (1 << 7 * width) - 1 else value, position + width
