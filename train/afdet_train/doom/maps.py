"""The maps of each split. Splits do not share maps."""

from __future__ import annotations

from trt_afdet.errors import InvalidValueError

#: Game data of all splits, shipped inside the ``vizdoom`` package. Freedoom Phase 1
#: (``freedoom1.wad``) is not used, so that later tests have unseen maps.
WAD = "freedoom2.wad"

_VAL = (5, 14, 21, 27)
_TEST = (3, 8, 13, 18, 24, 29)
_TRAIN = tuple(n for n in range(1, 33) if n not in _VAL + _TEST)

#: Split name -> map names. The splits are disjoint and cover all 32 maps of Freedoom Phase 2.
SPLITS: dict[str, tuple[str, ...]] = {
    name: tuple(f"MAP{n:02d}" for n in numbers)
    for name, numbers in (("train", _TRAIN), ("val", _VAL), ("test", _TEST))
}


def maps_of(split: str) -> tuple[str, ...]:
    """Map names of a split; raises `InvalidValueError` for an unknown split."""
    try:
        return SPLITS[split]
    except KeyError:
        raise InvalidValueError(
            "unknown split", got=split, hint=f"choose one of {', '.join(SPLITS)}"
        ) from None
