"""Reads the headers of a dataset's pictures once; caches them by file size, time and mode."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_afdet.errors import AfdetError, MissingDependencyError
from trt_afdet.media import probe_picture, read_picture

#: Passes items on and shows how far it is: (items, total, description) -> items.
ProgressLike = Callable[[Iterable[Any], int, str], Iterable[Any]]

_VERSION = 2


@dataclass(frozen=True)
class Look:
    """A picture's header as shown, or why it cannot be used; ``decoded`` if more was looked at."""

    width: int = 0
    height: int = 0
    orientation: int = 1
    fault: str = ""
    decoded: bool = False


def _look_at(path: Path, decode: bool) -> Look:
    try:
        info = probe_picture(path)
        if decode:
            read_picture(path)
    except MissingDependencyError:
        raise
    except AfdetError as error:
        return Look(fault=error.what, decoded=decode)
    return Look(info.width, info.height, info.orientation, decoded=decode)


def look_at_all(
    paths: list[Path], name: str, *, decode: bool, progress: ProgressLike | None = None
) -> dict[Path, Look]:
    """Looks at every picture; reuses the result for a file of the same size, time and mode.

    The cache is a file of the dataset's ``name`` in the user's cache folder.
    """
    digest = hashlib.sha256(str(Path(name).absolute()).encode()).hexdigest()[:24]
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = base if base.is_absolute() else Path("~/.cache").expanduser()
    file = base / "trt-afdet" / "pictures" / f"{digest}.json"
    known = _load(file)
    result: dict[Path, Look] = {}
    stamps: dict[Path, list[int]] = {}
    waiting: list[Path] = []
    for path in dict.fromkeys(paths):
        try:
            stat = path.stat()
        except OSError:
            result[path] = Look(fault="no such picture")
            continue
        stamps[path] = [stat.st_size, stat.st_mtime_ns, stat.st_mode]
        old = known.get(str(path.absolute()))
        if old is not None and old[0] == stamps[path] and (old[1].decoded or not decode):
            result[path] = old[1]
        else:
            waiting.append(path)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        looks: Iterable[Look] = pool.map(lambda p: _look_at(p, decode), waiting)
        if progress is not None and waiting:
            looks = progress(looks, len(waiting), "checking pictures")
        result.update(zip(waiting, looks, strict=True))
    if waiting:
        kept = {str(p.absolute()): (stamps[p], look) for p, look in result.items() if p in stamps}
        _save(file, known | kept)
    return result


def _load(file: Path) -> dict[str, tuple[list[int], Look]]:
    try:
        raw = json.loads(file.read_bytes())
        if raw["version"] != _VERSION:
            return {}
        return {path: (stamp, Look(*look)) for path, (stamp, look) in raw["pictures"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # None yet, or not ours: all is looked at again.


def _save(file: Path, known: dict[str, tuple[list[int], Look]]) -> None:
    rows = {path: [stamp, list(vars(look).values())] for path, (stamp, look) in known.items()}
    with suppress(OSError):  # No place for a memory: the next run looks again.
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({"version": _VERSION, "pictures": rows}))
        temporary.replace(file)
