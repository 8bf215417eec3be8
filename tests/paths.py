"""Paths in a checkout."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The repository."""

ASSETS = ROOT / "trt_afdet" / "assets"
"""The shipped model and clip."""
