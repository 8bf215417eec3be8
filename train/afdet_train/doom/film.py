"""Films a split in several processes: fixed chunks of frames, each with its own seed."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from afdet_train.doom.camera import Shot, take_shot
from afdet_train.doom.classes import CLASSES
from afdet_train.doom.maps import SPLITS, maps_of
from afdet_train.doom.rules import EMPTY_SHARE
from afdet_train.doom.world import open_world
from trt_afdet.errors import RunError, WriteError

#: Frames of one visit to a map. A different value gives different pictures.
CHUNK = 25
JPEG_QUALITY = 90
#: Shares of the visits at skill levels 1 to 5, and with monsters that notice the camera.
_SKILLS = (0.1, 0.15, 0.25, 0.4, 0.1)
_AWAKE = 0.3
#: Restarts of a map without a good picture, before an error.
_RESTARTS = 8


@dataclass(frozen=True)
class Job:
    """One chunk of a run."""

    split: str
    seed: int
    chunk: int
    frames: int
    resolution: str
    images: Path
    scratch: Path


#: Class id, x, y, w, h, visible area.
Object = tuple[int, int, int, int, int, int]


def objects_of(shot: Shot) -> tuple[Object, ...]:
    return tuple((b.class_id, *b.xywh, b.area) for b in shot.boxes)


@dataclass(frozen=True)
class Frame:
    """One written picture and its objects."""

    file_name: str
    map_name: str
    objects: tuple[Object, ...]


def sequence(split: str, seed: int, *key: int) -> np.random.SeedSequence:
    """The seed of one part of a run; it differs between splits with the same `seed`."""
    return np.random.SeedSequence([seed, list(SPLITS).index(split), *key])


def map_of_chunk(split: str, seed: int, chunk: int) -> str:
    """The map of a chunk: chunks cycle through the split's maps, in a new order each round."""
    maps = maps_of(split)
    turn, place = divmod(chunk, len(maps))
    order = np.random.default_rng(sequence(split, seed, 1, turn)).permutation(len(maps))
    return maps[int(order[place])]


def film_chunk(job: Job) -> list[Frame]:
    """Film one chunk, write its JPEGs, and return their objects."""
    map_name = map_of_chunk(job.split, job.seed, job.chunk)
    rng = np.random.default_rng(sequence(job.split, job.seed, 2, job.chunk))
    frames: list[Frame] = []
    counts = np.zeros(len(CLASSES))
    for _ in range(_RESTARTS):
        skill = 1 + int(rng.choice(len(_SKILLS), p=_SKILLS))
        awake = bool(rng.random() < _AWAKE)
        with open_world(
            map_name,
            seed=int(rng.integers(1, 2**31)),
            skill=skill,
            awake=awake,
            resolution=job.resolution,
            folder=job.scratch,
        ) as world:
            while len(frames) < job.frames:
                shot = take_shot(world, counts, bool(rng.random() < EMPTY_SHARE), rng)
                if shot is None:
                    break
                index = job.chunk * CHUNK + len(frames)
                name = f"{job.split}_{job.seed}_{index:06d}.jpg"
                _write_jpeg(job.images / name, shot.image)
                for box in shot.boxes:
                    counts[box.class_id] += 1
                frames.append(Frame(name, map_name, objects_of(shot)))
        if len(frames) == job.frames:
            return frames
    raise RunError(
        "no picture could be taken", got=map_name, hint="try another --seed, and report this one"
    )


def _write_jpeg(path: Path, image: np.ndarray) -> None:
    import cv2

    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    try:
        if not ok:
            raise OSError("JPEG encoding failed")
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise WriteError(f"cannot write {path}", got=error, hint="is the disk full?") from error


def _start_worker(scratch: str) -> None:
    """Prepare a worker: its own folder, one thread, Ctrl-C ignored."""
    import cv2

    # Ctrl-C reaches every process of the terminal; only the parent reacts. Doom inherits this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    os.chdir(tempfile.mkdtemp(dir=scratch))


def film(
    images: Path, split: str, frames: int, seed: int, workers: int, resolution: str
) -> Iterator[list[Frame]]:
    """Film `frames` pictures of a split into folder `images`; yield chunks in order.

    The pictures depend only on the split, seed, frame index and resolution, not on `workers`.
    """
    scratch = Path(tempfile.mkdtemp(prefix="afdet-doom-"))
    jobs = [
        Job(split, seed, c, min(CHUNK, frames - c * CHUNK), resolution, images, scratch)
        for c in range(-(-frames // CHUNK))
    ]
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(str(scratch),),
    )
    try:
        yield from pool.map(film_chunk, jobs)
    except BrokenProcessPool as error:
        raise RunError(
            "a worker died", got=str(error), hint="is there enough memory? try fewer --workers"
        ) from error
    finally:
        # Wait for chunks in progress (a second or two) and drop the rest.
        pool.shutdown(cancel_futures=True)
        shutil.rmtree(scratch, ignore_errors=True)
