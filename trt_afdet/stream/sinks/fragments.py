"""Fragmented MP4 that was not written to its end."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

#: The last box of a file that was closed, and its size in bytes.
_LAST = (b"mfro", 16)


def repair(path: Path) -> None:
    """Cuts a torn fragment off a recording, so that every reader likes the file.

    A recording that then holds no frame is deleted; one that was closed is left as it is.

    Raises:
        OSError: If it cannot be read or changed.
    """
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size >= _LAST[1]:
            file.seek(size - _LAST[1] + 4)
            if file.read(4) == _LAST[0]:
                return
        whole = _whole_fragments(file, size)
        if whole:
            file.truncate(whole)
    if not whole:
        path.unlink()


def _whole_fragments(file: BinaryIO, size: int) -> int:
    """Bytes up to the end of the last fragment that is complete; 0 if there is none."""
    end, place, after_moof = 0, 0, False
    while place + 8 <= size:
        file.seek(place)
        length, kind = struct.unpack(">I4s", file.read(8))
        # Longer boxes and boxes "to the end" are not written by this program: damage.
        if length < 8 or place + length > size:
            break
        place += length
        if kind == b"mdat" and after_moof:
            end = place
        after_moof = kind == b"moof"
    return end
