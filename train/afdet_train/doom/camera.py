"""Chooses the camera's pose for one picture: target object, distance, direction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from afdet_train.doom.classes import CLASS_OF_ACTOR, CLASSES
from afdet_train.doom.rules import MIN_BRIGHTNESS, Box, focal, inside_and_open, keep, measure
from afdet_train.doom.world import SETTLE_TICS, World

#: Height of the eye above the floor, in map units.
EYE = 41.0
#: Intended height of the target in pixels of a 600-line frame, drawn log-uniformly.
TARGET_HEIGHT = (20.0, 320.0)
#: Limits of the distance to the target, in map units.
DISTANCE = (72.0, 1500.0)
#: Probability that the target is an object already in the map, and not an added one.
_USE_MAP_OBJECT = 0.5
#: Tries for a picture of the wanted object, then in total, including any other good picture.
_STRICT_TRIES = 12
_ALL_TRIES = 60


@dataclass(frozen=True)
class Shot:
    """A kept picture: (H, W, 3) uint8 BGR, and its boxes."""

    image: np.ndarray
    boxes: tuple[Box, ...]


def pick_class(counts: np.ndarray, rng: np.random.Generator) -> int:
    """A random class index; rarely filmed classes are more likely."""
    weight = 1.0 / (1.0 + counts)
    return int(rng.choice(len(counts), p=weight / weight.sum()))


def summon_near(
    world: World,
    wanted: int,
    rng: np.random.Generator,
    around: tuple[float, float, float] | None = None,
) -> Any | None:
    """Put one to three objects, the first of class `wanted`, in free places.

    `around` is (x, y, radius): only near objects inside this circle; without it, anywhere.
    """
    objects = [o for o in world.state.objects if o.name != "DoomPlayer"]
    if around is not None:
        x, y, radius = around
        objects = [o for o in objects if math.hypot(o.position_x - x, o.position_y - y) < radius]
    if not objects:
        return None
    anchor = objects[int(rng.integers(len(objects)))]
    spot = world.place_near(anchor.position_x, anchor.position_y, rng.uniform(60, 500, 12), rng)
    if spot is None:
        return None
    target = None
    heading = float(rng.uniform(0, 360))
    for i in range(int(rng.integers(1, 4))):
        index = wanted if i == 0 else int(rng.integers(len(CLASSES)))
        actors = CLASSES[index].actors
        world.teleport(*spot, heading + 70.0 * i, 0.0, 2)
        if i == 0 and not world.standing():
            return None
        made = world.summon(actors[int(rng.integers(len(actors)))])
        if i == 0:
            if made is None:
                return None
            there = np.array([[made.position_x, made.position_y]])
            if not world.sees(*spot, there)[0]:
                return None
            target = made
    # Let items fall to the floor and monsters take a step.
    world.step(tics=int(rng.integers(8, 24)))
    now = {o.id: o for o in world.state.objects}
    return now.get(target.id) if target is not None else None


def _choose_target(world: World, wanted: int, rng: np.random.Generator) -> Any | None:
    """An object of class `wanted`, from the map or added."""
    if rng.random() < _USE_MAP_OBJECT:
        own = [o for o in world.state.objects if CLASS_OF_ACTOR.get(o.name) == wanted]
        if own:
            return own[int(rng.integers(len(own)))]
    return summon_near(world, wanted, rng)


def _aim(world: World, target: Any, height: float, rng: np.random.Generator) -> bool:
    """Stand near `target` and look roughly at it; False if every place is blocked."""
    _, fy = focal(800)
    low, high = TARGET_HEIGHT
    wanted = np.exp(rng.uniform(math.log(low), math.log(high), 16))
    distances = np.clip(fy * height / wanted, *DISTANCE)
    spot = world.place_near(target.position_x, target.position_y, distances, rng)
    if spot is None:
        return False
    dx, dy = target.position_x - spot[0], target.position_y - spot[1]
    angle = math.degrees(math.atan2(dy, dx)) + float(rng.uniform(-36, 36))
    # The floor height at the camera is unknown before the move; the target's is close to it.
    rise = math.atan2(height / 2 - EYE, math.hypot(dx, dy))
    pitch = math.degrees(rise) * float(rng.uniform(0.2, 1.0)) + float(rng.normal(0, 4))
    tics = SETTLE_TICS + int(rng.integers(0, 4))
    world.teleport(*spot, angle, float(np.clip(pitch, -28, 28)), tics)
    return world.standing()


def _look_anywhere(world: World, rng: np.random.Generator) -> bool:
    """Stand at a random place in the map and look in a random direction."""
    objects = [o for o in world.state.objects if o.name != "DoomPlayer"]
    anchor = objects[int(rng.integers(len(objects)))]
    spot = world.place_near(anchor.position_x, anchor.position_y, rng.uniform(60, 900, 12), rng)
    if spot is None:
        return False
    world.teleport(*spot, float(rng.uniform(0, 360)), float(rng.normal(0, 5)), SETTLE_TICS)
    return world.standing()


def take_shot(
    world: World, counts: np.ndarray, empty: bool, rng: np.random.Generator
) -> Shot | None:
    """The next picture of a visit; None if all tries fail.

    Args:
        world: The running map.
        counts: (classes,) objects annotated so far; rare classes are preferred.
        empty: Whether to take a picture without objects.
        rng: The visit's random numbers.
    """
    wanted = pick_class(counts, rng)
    for attempt in range(_ALL_TRIES):
        strict = attempt < _STRICT_TRIES
        if not strict:
            wanted = pick_class(counts, rng)
        target_id = None
        if empty and strict:
            if not _look_anywhere(world, rng):
                continue
        else:
            target = _choose_target(world, wanted, rng)
            if target is None or not _aim(world, target, CLASSES[wanted].height, rng):
                continue
            target_id = target.id
        state = world.state
        found = measure(state.labels, state.labels_buffer, state.screen_buffer, world.camera())
        kept = [(label, box) for label, box in found if keep(box)]
        boxes = [box for _, box in found]
        if any(box.brightness < MIN_BRIGHTNESS for _, box in kept):
            continue
        if not inside_and_open(state.screen_buffer, state.depth_buffer, boxes):
            continue
        if target_id is None:
            if not found:
                return Shot(state.screen_buffer.copy(), ())
        elif any(label.object_id == target_id for label, _ in kept) or (kept and not strict):
            return Shot(state.screen_buffer.copy(), tuple(box for _, box in kept))
    return None
