"""A continuous clip: a camera that walks through a map like a person, with boxes per frame."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from afdet_train.doom.camera import Shot, summon_near
from afdet_train.doom.classes import CLASS_OF_ACTOR, CLASSES
from afdet_train.doom.dataset import annotations_of, categories, write_json
from afdet_train.doom.film import objects_of, sequence
from afdet_train.doom.maps import WAD, maps_of
from afdet_train.doom.rules import inside_and_open, keep, measure
from afdet_train.doom.world import (
    SETTLE_TICS,
    World,
    check_resolution,
    open_world,
    require_vizdoom,
)
from trt_afdet.errors import InvalidValueError, MissingDependencyError, RunError, WriteError
from trt_afdet.media import count_frames

#: Frames per second of the file. The game runs at 35 tics per second; one tic is one frame.
FPS = 30
#: Constant rate factor of H.264: about half a megabyte a second at 640x480.
QUALITY = 25
#: Number of walks to try; the one that shows most is filmed.
_CANDIDATES = 10
#: Groups of objects added near the path, and their distance from it in map units.
_GROUPS = 30
_GROUP_RADIUS = 700.0
#: Walking: map units per tic, largest turn and look per tic in degrees.
_SPEED = 7.0
_TURN = 2.2
_LOOK = 0.8
#: Distance at which a goal is reached; tics without progress before the walk abandons a goal.
_REACHED = 130.0
_PATIENCE = 20
_GOAL_RANGE = (200.0, 1100.0)


@dataclass
class _Walker:
    """Steers one walk: goals are visible objects, turns are smooth."""

    world: World
    rng: np.random.Generator
    goal: tuple[float, float] | None = None
    turn: float = 0.0
    pitch: float = 0.0
    idle: int = 0

    def _pick_goal(self, x: float, y: float, heading: float) -> tuple[float, float] | None:
        """A visible object, preferably ahead."""
        objects = [o for o in self.world.state.objects if o.name in CLASS_OF_ACTOR]
        points = np.array([(o.position_x, o.position_y) for o in objects]).reshape(-1, 2)
        distance = np.hypot(points[:, 0] - x, points[:, 1] - y)
        near = np.flatnonzero((distance > _GOAL_RANGE[0]) & (distance < _GOAL_RANGE[1]))
        if not len(near):
            return None
        near = near[self.world.sees(x, y, points[near])]
        if not len(near):
            return None
        off = np.degrees(np.arctan2(points[near, 1] - y, points[near, 0] - x)) - heading
        off = np.abs((off + 180) % 360 - 180)
        weight = np.exp(-off / 25.0) + 1e-6
        chosen = int(self.rng.choice(near, p=weight / weight.sum()))
        return float(points[chosen, 0]), float(points[chosen, 1])

    def step(self) -> None:
        """One tic: turn a little towards the goal, walk on."""
        eye = self.world.camera()
        if self.goal is None or self.idle > _PATIENCE:
            self.goal, self.idle = self._pick_goal(eye.x, eye.y, eye.angle), 0
        wanted = 0.0
        walk = 0.0
        if self.goal is not None:
            dx, dy = self.goal[0] - eye.x, self.goal[1] - eye.y
            if math.hypot(dx, dy) < _REACHED:
                self.goal = None
            wanted = (math.degrees(math.atan2(dy, dx)) - eye.angle + 180) % 360 - 180
            # A person slows down to turn.
            walk = _SPEED * max(0.15, 1 - abs(wanted) / 70)
        else:
            wanted = 40.0
        target = float(np.clip(wanted * 0.12, -_TURN, _TURN))
        self.turn += 0.2 * (target - self.turn)
        look = float(np.clip(-3.0 - self.pitch, -_LOOK, _LOOK)) * 0.2
        self.pitch += look
        self.world.walk(self.turn, look, walk)
        now = self.world.camera()
        moved = math.hypot(now.x - eye.x, now.y - eye.y)
        self.idle = self.idle + 1 if moved < 0.25 * _SPEED and abs(wanted) < 30 else 0


def _start(world: World, rng: np.random.Generator) -> bool:
    """Stand at a free place with a visible object, and add objects around it."""
    for _ in range(40):
        objects = [o for o in world.state.objects if o.name in CLASS_OF_ACTOR]
        anchor = objects[int(rng.integers(len(objects)))]
        x, y = anchor.position_x, anchor.position_y
        spot = world.place_near(x, y, rng.uniform(350, 900, 12), rng)
        if spot is None:
            continue
        angle = math.degrees(math.atan2(y - spot[1], x - spot[0]))
        world.teleport(*spot, angle, 0.0, SETTLE_TICS)
        if not world.standing():
            continue
        for i in range(_GROUPS):
            summon_near(world, i % len(CLASSES), rng, (x, y, _GROUP_RADIUS))
        world.teleport(*spot, angle, 0.0, 3 * SETTLE_TICS)
        return True
    return False


def _walk(
    map_name: str, seed: np.random.SeedSequence, frames: int, resolution: str, scratch: Path
) -> Iterator[tuple[Shot, bool]]:
    """The frames of one walk, each with whether its view is open; empty without a start place."""
    rng = np.random.default_rng(seed)
    with open_world(
        map_name,
        seed=int(rng.integers(1, 2**31)),
        skill=4,
        awake=False,
        resolution=resolution,
        folder=scratch,
    ) as world:
        if not _start(world, rng):
            return
        walker = _Walker(world, rng)
        for _ in range(frames):
            walker.step()
            state = world.state
            found = measure(state.labels, state.labels_buffer, state.screen_buffer, world.camera())
            boxes = tuple(b for _, b in found if keep(b))
            good = inside_and_open(state.screen_buffer, state.depth_buffer, [b for _, b in found])
            yield Shot(state.screen_buffer.copy(), boxes), good


def work_units(frames: int) -> int:
    """How many frames `film_clip` processes, and reports, for a clip of `frames`."""
    return frames * (_CANDIDATES + 1)


def _score(walk: Iterator[tuple[Shot, bool]], frames: int) -> float:
    """The score of a walk: frames with objects, classes of objects, movement, open views."""
    total, count = 0.0, 0
    kinds: set[int] = set()
    last: np.ndarray | None = None
    for shot, good in walk:
        count += 1
        small = shot.image[::10, ::10].astype(np.float32)
        change = 0.0 if last is None else float(np.abs(small - last).mean())
        last = small
        clear = [b for b in shot.boxes if b.xywh[3] >= 30]
        kinds.update(b.class_id for b in clear)
        total += min(len(clear), 5) / 5 + 0.5 * bool(clear)
        total += min(change, 8.0) / 16 - (0.0 if good else 2.0)
    return -math.inf if count < frames else total / frames + 0.1 * len(kinds)


class _Encoder:
    """Writes H.264 with PyAV."""

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        try:
            import av
        except ImportError as error:
            raise MissingDependencyError(
                "a clip needs PyAV", hint='pip install "trt-afdet[doom]"'
            ) from error
        self._frame = av.VideoFrame
        self._container = av.open(str(path), "w")
        self._stream: Any = self._container.add_stream("libx264", rate=FPS)
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "yuv420p"
        # One thread: the same frames give the same bytes.
        self._stream.options = {"crf": str(QUALITY), "preset": "slow", "threads": "1"}

    def write(self, image: np.ndarray) -> None:
        frame = self._frame.from_ndarray(image, format="bgr24")
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def release(self) -> None:
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()


def _shrink(shot: Shot, size: tuple[int, int]) -> Shot:
    """The shot at another (width, height), without boxes below the size limit."""
    import cv2

    height, width = shot.image.shape[:2]
    if (width, height) == size:
        return shot
    sx, sy = size[0] / width, size[1] / height
    boxes = []
    for b in shot.boxes:
        x, y, w, h = b.xywh
        x0, y0 = math.floor(x * sx), math.floor(y * sy)
        x1, y1 = math.ceil((x + w) * sx), math.ceil((y + h) * sy)
        xywh = (x0, y0, min(x1, size[0]) - x0, min(y1, size[1]) - y0)
        boxes.append(replace(b, xywh=xywh, area=max(1, round(b.area * sx * sy))))
    image = cv2.resize(shot.image, size, interpolation=cv2.INTER_AREA)
    return Shot(image, tuple(b for b in boxes if keep(b)))


def film_clip(
    video: Path,
    split: str,
    frames: int,
    seed: int,
    resolution: str = "800x600",
    scale: float = 1.0,
    force: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Film one walk through a map of a split; write `video` and its boxes beside it.

    Args:
        video: ``*.mp4``; the boxes, COCO with one image per frame, go to ``*.json``.
        split: The split to choose a map from.
        frames: Number of frames, at `FPS` per second.
        seed: The same seed gives the same walk.
        resolution: ``WxH``, one of `world.RESOLUTIONS`.
        scale: Size of the clip relative to `resolution`, at most 1.
        force: Replace existing files.
        on_progress: Called with the number of frames done, out of `work_units`.

    Returns:
        The COCO dictionary as written.
    """
    maps = maps_of(split)
    if not 0.1 <= scale <= 1.0:
        raise InvalidValueError("--video-scale is out of range", got=scale, hint="0.1 to 1")
    # Codecs need even sides.
    width, height = (2 * round(side * scale / 2) for side in check_resolution(resolution))
    size = (width, height)
    truth_path = video.with_suffix(".json")
    if video.suffix != ".mp4":
        raise InvalidValueError("the clip must end in .mp4", got=video)
    if frames < 1:
        raise InvalidValueError("--frames is too small", got=frames, hint="at least 1")
    existing = [p for p in (video, truth_path) if p.exists()]
    if existing and not force:
        raise InvalidValueError("the clip exists already", got=existing[0], hint="add --force")
    require_vizdoom()
    try:
        video.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"cannot write to {video.parent}", got=error) from error
    scratch = Path(tempfile.mkdtemp(prefix="afdet-doom-"))
    part = video.with_name(f".{video.stem}.part.mp4")
    home = Path.cwd()
    try:
        os.chdir(scratch)  # ViZDoom writes its settings into the working directory.
        trials = []
        for i in range(_CANDIDATES):
            walk = (maps[i % len(maps)], sequence(split, seed, 3, i))
            trials.append((_score(_walk(*walk, frames, "640x480", scratch), frames), -i, walk))
            if on_progress:
                on_progress(frames)
        best, _, chosen = max(trials, key=lambda t: t[:2])
        if best == -math.inf:
            raise RunError("no walk could be filmed", got=split, hint="try another --seed")
        writer = _Encoder(home / part, size)
        found = []
        try:
            for full, _ in _walk(*chosen, frames, resolution, scratch):
                shot = _shrink(full, size)
                writer.write(shot.image)
                found.append(objects_of(shot))
                if on_progress:
                    on_progress(1)
        finally:
            writer.release()
    except BaseException:
        (home / part).unlink(missing_ok=True)
        raise
    finally:
        os.chdir(home)
        shutil.rmtree(scratch, ignore_errors=True)
    truth = {
        "info": {
            "description": f"A walk through Freedoom ({WAD}), filmed with ViZDoom",
            "split": split,
            "seed": seed,
            "map": chosen[0],
            "fps": FPS,
        },
        "images": [
            {
                "id": index,
                "frame_index": index,
                "file_name": video.name,
                "width": width,
                "height": height,
            }
            for index in range(len(found))
        ],
        "annotations": annotations_of(found),
        "categories": categories(),
    }
    count = count_frames(part)
    if count != frames:
        part.unlink(missing_ok=True)
        raise WriteError(f"cannot write video {video}", got=f"{count} of {frames} frames")
    part.replace(video)
    write_json(truth_path, truth)
    return truth
