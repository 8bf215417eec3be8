"""One running Doom map: teleport, add actors, take pictures, find free places."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from afdet_train.doom.classes import REMOVED_ACTORS
from afdet_train.doom.maps import WAD
from afdet_train.doom.rules import Camera
from trt_afdet.errors import InvalidValueError, MissingDependencyError, RunError

#: The player cannot turn during the first tics of a map.
_WAKE_TICS = 10
#: Tics after a teleport until the eye is at standing height again.
SETTLE_TICS = 6
#: Smallest distance of the camera to walls, and to actors, in map units.
WALL_CLEARANCE = 26.0
ACTOR_CLEARANCE = 48.0
#: A sector lower than this is a closed door or a slit; the camera cannot stand there.
_HEADROOM = 64.0

#: Values that `World.step` sets and `World.camera` reads.
_BUTTONS = ("TURN_LEFT_RIGHT_DELTA", "LOOK_UP_DOWN_DELTA", "MOVE_FORWARD_BACKWARD_DELTA")
_VARIABLES = ("POSITION_X", "POSITION_Y", "CAMERA_POSITION_Z", "ANGLE", "PITCH")

#: Resolutions with square 4:3 frames that ViZDoom offers.
RESOLUTIONS = ("640x480", "800x600", "1024x768", "1280x960")


def require_vizdoom() -> Any:
    """The ViZDoom module; raises `MissingDependencyError` if it is not installed."""
    try:
        import vizdoom
    except ImportError as error:
        raise MissingDependencyError(
            "ViZDoom is not installed", hint='pip install "trt-afdet[doom]"'
        ) from error
    return vizdoom


def check_resolution(resolution: str) -> tuple[int, int]:
    """(width, height) of a ``WxH`` text; raises `InvalidValueError` if ViZDoom lacks the mode."""
    if resolution not in RESOLUTIONS:
        raise InvalidValueError(
            "unknown resolution", got=resolution, hint=f"choose one of {', '.join(RESOLUTIONS)}"
        )
    width, height = resolution.split("x")
    return int(width), int(height)


class World:
    """A Doom map with an invisible camera. Use `open_world`."""

    def __init__(self, game: Any, awake: bool) -> None:
        self.game = game
        self._state: Any | None = None
        for command in ("god", *([] if awake else ["notarget"])):
            game.send_game_command(command)
        self.step(tics=_WAKE_TICS)
        for actor in REMOVED_ACTORS:
            game.send_game_command(f"remove {actor}")
        self.step()
        self.walls = self._walls()

    def _walls(self) -> np.ndarray:
        """(N, 4) float64: x1, y1, x2, y2 of every blocking line."""
        rows = {
            (line.x1, line.y1, line.x2, line.y2)
            for sector in self.state.sectors
            for line in sector.lines
            if line.is_blocking
        }
        return np.array(sorted(rows), dtype=np.float64).reshape(-1, 4)

    @property
    def state(self) -> Any:
        """ViZDoom's state of this tic, rendered."""
        if self._state is None:
            self._state = self.game.get_state()
        return self._state

    def step(self, turn: float = 0.0, look: float = 0.0, tics: int = 1) -> None:
        """Let `tics` pass; turn and look (degrees) in the first of them."""
        self._state = None
        self.game.set_action([-turn, look, 0.0])
        self.game.advance_action(1, tics == 1)
        if tics > 1:
            self.game.set_action([0.0, 0.0, 0.0])
            self.game.advance_action(tics - 1, True)

    def walk(self, turn: float, look: float, forward: float) -> None:
        """Walk for one tic: turn and look in degrees, speed in map units per tic."""
        self._state = None
        # Doom's friction takes 3/32 of the speed in each tic; a push of that share keeps the
        # speed. One step of the button is 1/32 unit.
        push = forward * (3 / 32) * 32
        self.game.set_action([-turn, look, push])
        self.game.advance_action(1, True)

    def camera(self) -> Camera:
        """The current pose of the eye."""
        x, y, z, angle, _ = (float(v) for v in self.state.game_variables)
        return Camera(x, y, z, angle)

    def teleport(self, x: float, y: float, angle: float, pitch: float, tics: int) -> None:
        """Stand at (x, y), look along `angle` and `pitch` (degrees, up is positive)."""
        *_, now, now_pitch = (float(v) for v in self.state.game_variables)
        self.game.send_game_command(f"warp {x:.0f} {y:.0f}")
        turn = (angle - now + 180.0) % 360.0 - 180.0
        self.step(turn, pitch + now_pitch, tics)

    def standing(self) -> bool:
        """Whether the player has enough headroom above the floor."""
        state = self.state
        me = next((o for o in state.objects if o.name == "DoomPlayer"), None)
        if me is None or not 0 <= me.sector_id < len(state.sectors):
            return False
        sector = state.sectors[me.sector_id]
        return bool(sector.ceiling_height - sector.floor_height >= _HEADROOM)

    def summon(self, actor: str) -> Any | None:
        """Put an actor in front of the player; None if it does not fit."""
        before = {o.id for o in self.state.objects}
        self.game.send_game_command(f"summon {actor}")
        self.step(tics=2)
        return next((o for o in self.state.objects if o.id not in before and o.name == actor), None)

    def sees(self, x: float, y: float, points: np.ndarray) -> np.ndarray:
        """(K,) bool: no wall crosses the straight line from (x, y) to each of (K, 2) points."""
        ax, ay, bx, by = (self.walls[:, i][None] for i in range(4))
        px, py = points[:, :1], points[:, 1:]

        def side(x1: Any, y1: Any, x2: Any, y2: Any, x3: Any, y3: Any) -> Any:
            return (x2 - x1) * (y3 - y1) - (y2 - y1) * (x3 - x1)

        across_wall = side(ax, ay, bx, by, x, y) * side(ax, ay, bx, by, px, py) <= 0
        across_ray = side(x, y, px, py, ax, ay) * side(x, y, px, py, bx, by) <= 0
        return ~(across_wall & across_ray).any(axis=1)

    def clear(self, points: np.ndarray) -> np.ndarray:
        """(K,) bool: whether each point is far enough from all walls and actors."""
        a, b = self.walls[:, :2], self.walls[:, 2:]
        ab = b - a
        length2 = np.maximum((ab**2).sum(1), 1e-9)
        t = ((points[:, None] - a) * ab).sum(-1) / length2
        nearest = a + np.clip(t, 0, 1)[..., None] * ab
        ok = ((points[:, None] - nearest) ** 2).sum(-1).min(1) >= WALL_CLEARANCE**2
        actors = np.array(
            [(o.position_x, o.position_y) for o in self.state.objects if o.name != "DoomPlayer"]
        ).reshape(-1, 2)
        if len(actors):
            gap2 = ((points[:, None] - actors) ** 2).sum(-1).min(1)
            ok &= gap2 >= ACTOR_CLEARANCE**2
        return np.asarray(ok)

    def place_near(
        self, x: float, y: float, distances: np.ndarray, rng: np.random.Generator
    ) -> tuple[float, float] | None:
        """The first free place at one of `distances` from (x, y), in line of sight.

        (x, y) is inside the level and the line of sight crosses no wall, so the place is inside.
        """
        bearing = rng.uniform(0, 2 * math.pi, len(distances))
        points = np.stack((x + distances * np.cos(bearing), y + distances * np.sin(bearing)), 1)
        points = np.round(points)
        good = np.flatnonzero(self.sees(x, y, points))
        good = good[self.clear(points[good])] if len(good) else good
        return (float(points[good[0], 0]), float(points[good[0], 1])) if len(good) else None


@contextlib.contextmanager
def open_world(
    map_name: str, *, seed: int, skill: int, awake: bool, resolution: str, folder: Path
) -> Iterator[World]:
    """Run a map, headless, until the block ends.

    Args:
        map_name: For example ``MAP01``.
        seed: Seed of the game's random numbers.
        skill: 1 (easy) to 5.
        awake: Whether monsters notice the camera.
        resolution: One of `RESOLUTIONS`.
        folder: Folder for ViZDoom's configuration.
    """
    vzd = require_vizdoom()
    wad = str(Path(vzd.__file__).parent / WAD)
    game = vzd.DoomGame()
    game.set_doom_game_path(wad)
    game.set_doom_scenario_path(wad)
    game.set_doom_config_path(str(folder / "vizdoom.ini"))
    game.set_doom_map(map_name)
    game.set_doom_skill(skill)
    game.set_seed(seed)
    game.set_episode_timeout(0)
    game.set_mode(vzd.Mode.PLAYER)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_screen_resolution(getattr(vzd.ScreenResolution, f"RES_{resolution.upper()}"))
    game.set_screen_format(vzd.ScreenFormat.BGR24)
    for part in ("hud", "weapon", "crosshair", "messages", "screen_flashes", "decals"):
        getattr(game, f"set_render_{part}")(False)
    game.set_render_particles(False)
    game.set_render_corpses(True)
    game.set_labels_buffer_enabled(True)
    game.set_depth_buffer_enabled(True)
    game.set_objects_info_enabled(True)
    game.set_sectors_info_enabled(True)
    game.set_available_buttons([getattr(vzd.Button, name) for name in _BUTTONS])
    game.set_available_game_variables([getattr(vzd.GameVariable, name) for name in _VARIABLES])
    # The last two hide "a secret is revealed", which ViZDoom does not treat as a HUD message.
    game.add_game_args("+sv_cheats 1 +con_midtime 0 +cl_showsecretmessage 0")
    try:
        game.init()
    except Exception as error:  # ViZDoom's errors derive directly from Exception.
        raise RunError("Doom did not start", got=f"{map_name}: {error}") from error
    try:
        yield World(game, awake)
    finally:
        game.close()
