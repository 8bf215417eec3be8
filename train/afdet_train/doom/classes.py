"""The classes of the Doom data: fixed names and ids, and the actors of each class."""

from __future__ import annotations

from typing import NamedTuple


class DoomClass(NamedTuple):
    """One class: its name, its actor names, and the size of its sprite."""

    name: str
    #: ViZDoom object names; the first is the usual one.
    actors: tuple[str, ...]
    #: Sprite height in map units, unoccluded (see `docs/doom-dataset.md` for the measurement).
    height: float
    #: Opaque sprite area in square map units, unoccluded.
    area: float


#: Order is the class index (0-based); the COCO category id is the index plus one. Never reorder.
CLASSES: tuple[DoomClass, ...] = (
    DoomClass("zombieman", ("Zombieman",), 56.0, 855.0),
    DoomClass("shotgun guy", ("ShotgunGuy",), 54.0, 868.0),
    DoomClass("chaingunner", ("ChaingunGuy",), 55.0, 1215.0),
    DoomClass("imp", ("DoomImp",), 61.0, 1603.0),
    DoomClass("demon", ("Demon",), 58.0, 1598.0),
    DoomClass("cacodemon", ("Cacodemon",), 66.0, 2935.0),
    DoomClass("lost soul", ("LostSoul",), 38.0, 827.0),
    DoomClass("hell noble", ("HellKnight", "BaronOfHell"), 70.0, 2095.0),
    DoomClass("revenant", ("Revenant",), 66.0, 1794.0),
    DoomClass("mancubus", ("Fatso",), 65.0, 2945.0),
    DoomClass("arachnotron", ("Arachnotron",), 53.0, 2168.0),
    DoomClass("barrel", ("ExplosiveBarrel",), 32.0, 690.0),
    DoomClass("medikit", ("Medikit",), 20.0, 517.0),
    DoomClass("stimpack", ("Stimpack",), 10.0, 175.0),
    DoomClass("health bonus", ("HealthBonus",), 15.0, 124.0),
    DoomClass("armor bonus", ("ArmorBonus",), 19.0, 217.0),
    DoomClass("armor", ("GreenArmor", "BlueArmor"), 27.0, 550.0),
    DoomClass("soulsphere", ("Soulsphere",), 25.0, 490.0),
)

NAMES: tuple[str, ...] = tuple(c.name for c in CLASSES)

#: Actor name -> class index. In ViZDoom a dead monster is a different actor ("DeadDoomImp"), so
#: corpses are never labelled.
CLASS_OF_ACTOR: dict[str, int] = {
    actor: index for index, c in enumerate(CLASSES) for actor in c.actors
}

#: Actors removed from every map: they are nearly invisible but have the shape of a labelled class.
REMOVED_ACTORS: tuple[str, ...] = ("Spectre",)
