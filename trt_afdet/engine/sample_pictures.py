"""Pictures to calibrate with and to verify on: a folder, a dataset or a video."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trt_afdet.datasets import Dataset, Report, dataset_splits, open_dataset
from trt_afdet.datasets.find import split_names, walk_pictures
from trt_afdet.datasets.index import ProgressLike
from trt_afdet.errors import AfdetError, CorruptFileError, InvalidValueError, MissingFileError
from trt_afdet.media import PICTURE_SUFFIXES, FrameReader, count_frames, is_video_file
from trt_afdet.support.files import file_sha256

Frame = npt.NDArray[np.uint8]


@dataclass
class Pictures:
    """Pictures of a folder, a dataset or a video; what cannot be read is skipped.

    Attributes:
        source: The given text.
        files: The picture of each item; of a video's frames, the video.
        frames: The frame's number, or None for a picture.
        truth: The dataset, whose records go with the items, where boxes are known.
        skipped: What could not be read so far, and why.
    """

    source: str
    files: tuple[Path, ...]
    frames: tuple[int | None, ...]
    truth: Dataset | None = None
    skipped: dict[int, AfdetError] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[tuple[int, Frame]]:
        """Index and BGR uint8 [H, W, 3] of every readable item, in order."""
        with FrameReader() as videos:
            for index, (path, number) in enumerate(zip(self.files, self.frames, strict=True)):
                try:
                    frame = videos.read(path, number)
                    if self.truth is not None:
                        self.truth.records[index].check_size(frame)
                except (CorruptFileError, MissingFileError) as error:
                    self.skipped[index] = error
                else:
                    yield index, frame

    def shown(self, progress: ProgressLike | None, doing: str) -> Iterable[tuple[int, Frame]]:
        """The same, showing how far it is."""
        return self if progress is None else progress(self, len(self), doing)

    def truth_for(self, names: tuple[str, ...]) -> Dataset | None:
        """The truth with a model's classes; see :meth:`Dataset.for_model`."""
        return None if self.truth is None else self.truth.for_model(names)

    def choose(self, indices: Iterable[int]) -> Pictures:
        """Some of the items."""
        wanted = list(indices)
        truth = self.truth
        if truth is not None:
            truth = dataclasses.replace(truth, records=tuple(truth.records[i] for i in wanted))
        files = tuple(self.files[i] for i in wanted)
        return Pictures(self.source, files, tuple(self.frames[i] for i in wanted), truth)

    def _evenly(self, count: int) -> list[int]:
        return np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int).tolist()

    def spread(self, count: int) -> Pictures:
        """At most ``count`` items, evenly over the whole."""
        return self if count >= len(self) else self.choose(self._evenly(count))

    def split(self, held_out: int) -> tuple[Pictures, Pictures]:
        """The items without, and with only, ``held_out`` of them, evenly over the whole."""
        held = sorted(set(self._evenly(held_out)))
        return self.choose(i for i in range(len(self)) if i not in held), self.choose(held)

    def digest(self) -> str:
        """SHA-256 over the contents of the items, in order; names and places do not count."""
        total = hashlib.sha256()
        known = {p: file_sha256(p) if p.is_file() else "missing" for p in set(self.files)}
        for path, number in zip(self.files, self.frames, strict=True):
            total.update(f"{known[path]} {number}\n".encode())
        return total.hexdigest()


def open_pictures(source: str | Path, *, split: str = "train") -> Pictures:
    """The pictures of a dataset, of a folder (and its subfolders), or of a video.

    Args:
        source: A dataset in any format that :func:`open_dataset` reads, a folder, a video.
        split: The one to take where a dataset has several.

    Raises:
        MissingFileError: If there is no such thing.
        InvalidValueError: If it holds no picture.
        CorruptFileError: If the annotations or the video cannot be read.
    """
    path = Path(source)
    if path.is_file() and path.suffix.lower() not in (".json", ".yaml", ".yml", ".data"):
        if not is_video_file(path):
            return Pictures(str(path), (path,), (None,))
        # The length in a container is a guess.
        count = count_frames(path)
        return Pictures(str(path), (path,) * count, tuple(range(count)))
    if (truth := _truth(source, path, split)) is not None:
        frames = tuple(record.frame_index for record in truth.records)
        return Pictures(str(source), tuple(r.path for r in truth.records), frames, truth)
    if not (found := walk_pictures(path, Report())):
        looked = f"looked for {', '.join(PICTURE_SUFFIXES)}"
        raise InvalidValueError("the folder holds no picture", got=path, hint=looked)
    return Pictures(str(path), tuple(found), (None,) * len(found))


def _truth(source: str | Path, path: Path, split: str) -> Dataset | None:
    """The dataset; None if the folder holds pictures without annotations."""
    try:
        splits = dataset_splits(source)
    except MissingFileError as error:
        if path.is_dir():
            return None
        if path.exists():
            raise
        raise MissingFileError(
            "no such pictures", got=source, hint="give a folder, a dataset or a video"
        ) from error
    chosen = next((name for name in split_names(split) if name in splits), splits[0])
    return open_dataset(source, chosen, need_labels=False)
