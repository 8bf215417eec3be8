"""A detection dataset filmed in Doom: ViZDoom's camera, Freedoom's maps, exact boxes."""

from __future__ import annotations
