"""What all charts have in common: their look, once for light and once for dark pages, and how they become pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

__all__ = ["AXIS_LABELS", "PANEL", "THEMES", "Panel", "Picture", "draw", "new_axes"]

AXIS_LABELS = {"update": "updates", "env_steps": "environment steps"}
PANEL = (3.7, 2.25)
"""Size of a chart, inches."""

_COMMON = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "savefig.transparent": True,
}


def _theme(ink: str, faint: str, grid: str, colours: list[str]) -> dict[Any, Any]:
    return {
        **_COMMON,
        "text.color": ink,
        "axes.labelcolor": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "axes.edgecolor": faint,
        "grid.color": grid,
        "axes.prop_cycle": f"cycler(color={colours})",
    }


THEMES = {
    "light": _theme("#27313f", "#8b95a5", "#e5e9ef", ["#1f6feb", "#d1650c", "#7b8796"]),
    "dark": _theme("#d6dde8", "#67748a", "#2b3443", ["#79aeff", "#ffa657", "#8f9bad"]),
}


@dataclass(frozen=True)
class Picture:
    """One figure: PNG in base64 for each theme, and what a reader who cannot see it is told."""

    light: str
    dark: str
    alt: str
    width: int  # CSS pixels
    height: int


@dataclass(frozen=True)
class Panel:
    """A chart with its caption."""

    picture: Picture
    name: str
    meaning: str


def new_axes(figure: Figure, x_label: str, y_label: str) -> Axes:
    """Add axes whose horizontal one counts something."""
    axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    return axes


def draw(paint: Callable[[Figure], None], width: float, height: float, alt: str) -> Picture:
    """Draw a figure of the given size in inches once per theme."""
    images = {}
    for name, theme in THEMES.items():
        with mpl.rc_context(theme):
            figure = Figure(figsize=(width, height), layout="constrained")
            paint(figure)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
        images[name] = base64.b64encode(buffer.getvalue()).decode()
    return Picture(images["light"], images["dark"], alt, round(width * 96), round(height * 96))
