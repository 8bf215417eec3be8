"""Every list of file name endings there is, lower case with the dot."""

from __future__ import annotations

#: What counts as a picture in a folder or a list. A single file is known by its content.
#: HEIC is among them so that such a picture is named as unreadable instead of left out unseen.
PICTURE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif",
    ".tiff", ".gif", ".avif", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".heic", ".heif",
)  # fmt: skip

#: What counts as a video.
VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".divx", ".mpg",
    ".mpeg", ".m2v", ".vob", ".ts", ".mts", ".m2ts", ".flv", ".f4v", ".wmv", ".asf", ".ogv",
    ".ogm", ".mxf", ".mjpeg", ".mjpg", ".dav", ".h264", ".264", ".h265", ".265", ".hevc", ".ivf",
    ".obu", ".y4m", ".nut", ".dv", ".rm", ".rmvb", ".wtv",
)  # fmt: skip

#: What :func:`trt_afdet.media.write_picture` writes.
WRITABLE_PICTURES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".ppm",
)  # fmt: skip

#: What :class:`trt_afdet.media.VideoWriter` writes.
WRITABLE_VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".gif")
