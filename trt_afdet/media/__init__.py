"""The one reader of pictures, the one reader of videos, the one writer; every suffix list."""

from __future__ import annotations

from trt_afdet.media.pictures import PictureInfo, decode_picture, probe_picture, read_picture
from trt_afdet.media.suffixes import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from trt_afdet.media.videos import (
    MediaFrame,
    PictureSource,
    Source,
    VideoSource,
    VideoWriter,
    open_source,
    open_video,
    write_picture,
)

__all__ = [
    "PICTURE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "MediaFrame",
    "PictureInfo",
    "PictureSource",
    "Source",
    "VideoSource",
    "VideoWriter",
    "decode_picture",
    "open_source",
    "open_video",
    "probe_picture",
    "read_picture",
    "write_picture",
]
