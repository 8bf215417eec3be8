"""Finding files as people have them: other cases, other suffixes, links, hidden files."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from trt_afdet.datasets.checks import Report
from trt_afdet.media import PICTURE_SUFFIXES

#: Folders that tools leave beside data, apart from hidden ones.
_NOT_DATA = {"__macosx", "@eadir", "__pycache__", "$recycle.bin", "thumbs"}

_ALIASES = (
    ("train", "training", "trainval"),
    ("val", "valid", "validation", "dev"),
    ("test", "testing"),
)
SPLITS = ("train", "val", "test")
SPLIT_NAMES = {name for names in _ALIASES for name in names}


def split_names(split: str) -> tuple[str, ...]:
    """The split's name and its synonyms, such as ``val`` and ``valid``."""
    low = split.lower()
    group = next((names for names in _ALIASES if low in names and low != "trainval"), ())
    return (split, *(name for name in group if name != low))


def first(found: Iterable[Path | None]) -> Path | None:
    """The first that was found at all."""
    return next(filter(None, found), None)


def fold(name: str) -> str:
    """A name without its case and its way of writing accents (macOS splits them in two)."""
    return unicodedata.normalize("NFC", name).lower()


def same_name(name: str, names: tuple[str, ...]) -> str | None:
    """The class that a name means: itself, or the only one that differs by case alone."""
    if name in names:
        return name
    same = [n for n in names if fold(n) == fold(name)]
    return same[0] if len(same) == 1 else None


def is_hidden(name: str) -> bool:
    """AppleDouble files (``._a.jpg``), ``.ipynb_checkpoints`` and the like."""
    return name.startswith(".") or name.lower() in _NOT_DATA


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES and not is_hidden(path.name)


def _unread(error: OSError) -> str:
    return f"folders that cannot be read ({error.strerror or error})"


def exists(path: Path) -> bool:
    """Whether it is there; False for a name that no system takes."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    return exists(path) and path.is_file()


class Folders:
    """Listings of folders, read once each; ``report`` is told of those that cannot be read."""

    def __init__(self, report: Report | None = None) -> None:
        self.report = report
        self.names = cache(self._names)
        self.stems = cache(self._stems)

    def _names(self, folder: Path) -> dict[str, list[str]]:
        """Actual names by folded name."""
        found: dict[str, list[str]] = {}
        try:
            for name in sorted(entry.name for entry in os.scandir(folder)):
                if not is_hidden(name):
                    found.setdefault(fold(name), []).append(name)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            if self.report is not None:
                self.report.add(_unread(error), str(folder))
        return found

    def _stems(self, folder: Path) -> dict[str, list[str]]:
        """Names of pictures by stem."""
        found: dict[str, list[str]] = {}
        for name in chain.from_iterable(self.names(folder).values()):
            if is_picture(Path(name)) and (folder / name).is_file():
                found.setdefault(Path(name).stem, []).append(name)
        return found

    def find(self, folder: Path, relative: str) -> Path | None:
        """A file or folder below ``folder``, whatever the case of its name."""
        if relative and exists(folder / relative):
            return folder / relative
        place = folder
        for part in PurePosixPath(relative).parts:
            if part in ("..", "/", "."):
                place = place / part
                continue
            names = self.names(place).get(fold(part), [])
            if len(names) != 1 and part not in names:
                return None
            place = place / (part if part in names else names[0])
        return place if exists(place) else None

    def find_folder(self, folder: Path, relative: str) -> Path | None:
        found = self.find(folder, relative)
        return found if found is not None and found.is_dir() else None

    def find_file(self, folder: Path, relative: str) -> Path | None:
        found = self.find(folder, relative)
        return found if found is not None and found.is_file() else None

    def find_tail(self, folder: Path, relative: str) -> Path | None:
        """As :meth:`find`; leading folders that are not there are left out, one by one."""
        relative = relative.replace("\\", "/")
        parts = [p for p in PurePosixPath(relative).parts if p not in ("/", ".", "..")]
        if parts and parts[0].endswith(":"):
            del parts[0]
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        return first(self.find_file(folder, tail) for tail in tails)

    def picture(self, folder: Path, stem: str) -> Path | None:
        """The picture of that stem, of any format and case; also where one name is URL-quoted."""
        names = self.stems(folder).get(stem)
        if not names:
            low = fold(stem)
            stems = [(fold(s), found) for s, found in self.stems(folder).items()]
            names = [n for s, found in stems if s == low for n in found]
            if not names:
                low = unquote(low)
                names = [n for s, found in stems if unquote(s) == low for n in found]
            if len(names) != 1:
                return None
        return folder / names[0]


def walk_files(folder: Path, report: Report) -> Iterator[Path]:
    """Files below a folder in order, links followed, without hidden ones."""
    seen: set[str] = set()

    def unread(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            report.add(_unread(error), str(error.filename))

    for place, folders, names in os.walk(folder, onerror=unread, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # A link to a folder above itself.
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(n for n in folders if not is_hidden(n))
        for name in sorted(names):
            path = Path(place) / name
            if is_hidden(name):
                continue
            if path.is_file():
                yield path
            elif is_picture(path):
                report.add("links to pictures that are missing", str(path))


def walk_pictures(folder: Path, report: Report) -> list[Path]:
    return sorted(p for p in walk_files(folder, report) if is_picture(p))
