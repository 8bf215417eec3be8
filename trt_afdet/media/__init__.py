"""The one reader of pictures, the one reader of videos, the one writer; every suffix list."""

from __future__ import annotations

from trt_afdet.media.inputs import InputFrame, Inputs, open_inputs
from trt_afdet.media.pictures import PictureInfo, decode_picture, probe_picture, read_picture
from trt_afdet.media.suffixes import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from trt_afdet.media.videos import FrameReader, Video, VideoInfo, count_frames, is_video_file
from trt_afdet.media.writing import VideoWriter, write_picture

__all__ = [
    "PICTURE_SUFFIXES", "VIDEO_SUFFIXES", "FrameReader", "InputFrame", "Inputs", "PictureInfo",
    "Video", "VideoInfo", "VideoWriter", "count_frames", "decode_picture", "is_video_file",
    "open_inputs", "probe_picture", "read_picture", "write_picture",
]  # fmt: skip
