"""Running a detector: preprocess, backend, postprocess."""

from __future__ import annotations
