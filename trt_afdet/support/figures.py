"""Figures as PNG files, by matplotlib without a screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trt_afdet.support.files import atomic_path
from trt_afdet.support.packages import missing


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib Figure, in inches; without pyplot and its global state."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing(error) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """Writes the figure; the suffix chooses the format, PNG by default."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format=path.suffix[1:].lower() or "png")
