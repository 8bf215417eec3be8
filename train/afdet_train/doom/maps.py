"""Which maps belong to which split: whole maps, so that no split has seen another's walls."""

from __future__ import annotations

from trt_afdet.errors import InvalidValueError

#: Game data (shipped inside the ``vizdoom`` package) that every split is filmed in. Freedoom
#: Phase 1 (``freedoom1.wad``) is kept out altogether, as unseen ground for later tests.
WAD = "freedoom2.wad"

_VAL = (5, 14, 21, 27)
_TEST = (3, 8, 13, 18, 24, 29)
_TRAIN = tuple(n for n in range(1, 33) if n not in _VAL + _TEST)

#: Split name -> map names. Disjoint; together all 32 maps of Freedoom Phase 2.
SPLITS: dict[str, tuple[str, ...]] = {
    name: tuple(f"MAP{n:02d}" for n in numbers)
    for name, numbers in (("train", _TRAIN), ("val", _VAL), ("test", _TEST))
}


def maps_of(split: str) -> tuple[str, ...]:
    """Map names of a split; `InvalidValueError` for an unknown one."""
    try:
        return SPLITS[split]
    except KeyError:
        raise InvalidValueError(
            "unknown split", got=split, hint=f"choose one of {', '.join(SPLITS)}"
        ) from None
