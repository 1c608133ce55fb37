"""What all charts have in common: their look, once for light and once for dark pages, and how they become pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

__all__ = ["AXIS_LABELS", "PANEL", "THEMES", "Chart", "Drawing", "Panel", "Picture", "draw", "draw_chart", "new_axes"]

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
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
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


# Blue and orange first, the third is for references; told apart also by readers who do not see red and green.
THEMES = {
    "light": _theme(
        "#27313f",
        "#8b95a5",
        "#e5e9ef",
        ["#1f6feb", "#d1650c", "#7b8796", "#00875f", "#b4488c", "#a67c00", "#3a9bd1", "#27313f"],
    ),
    "dark": _theme(
        "#d6dde8",
        "#67748a",
        "#2b3443",
        ["#79aeff", "#ffa657", "#8f9bad", "#3fcf9f", "#f094cb", "#e3c34d", "#9adcff", "#d6dde8"],
    ),
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
class Chart:
    """A figure that is yet to be drawn."""

    paint: Callable[[Figure], None]
    alt: str
    width: float
    """Inches."""
    height: float


@dataclass(frozen=True)
class Drawing:
    """A chart for a page, and as files in the light theme on white."""

    picture: Picture
    png: bytes
    pdf: bytes


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
    chart = Chart(paint, alt, width, height)
    return _picture(chart, **{name: _figure(chart, theme)[1] for name, theme in THEMES.items()})


def draw_chart(chart: Chart) -> Drawing:
    """Draw a chart for a page and for files; these hold no dates or versions: the same scores give the same files."""
    figure, light = _figure(chart, THEMES["light"])
    _, dark = _figure(chart, THEMES["dark"])
    figure.set_layout_engine("none")  # everything has its place by now
    white: dict[str, Any] = {"transparent": False, "facecolor": "white"}
    with mpl.rc_context(THEMES["light"]):
        png = _saved(figure, "png", ("Software",), dpi=200, **white)
        pdf = _saved(figure, "pdf", ("Creator", "Producer", "CreationDate"), **white)
    return Drawing(_picture(chart, light, dark), png, pdf)


def _figure(chart: Chart, theme: dict[Any, Any]) -> tuple[Figure, bytes]:
    """Return a chart as painted in a theme, and as PNG for a page of that theme."""
    with mpl.rc_context(theme):
        figure = Figure(figsize=(chart.width, chart.height), layout="constrained")
        chart.paint(figure)
        return figure, _saved(figure, "png", ("Software",), dpi=160)


def _saved(figure: Figure, kind: str, without: Sequence[str], **options: Any) -> bytes:
    buffer = io.BytesIO()
    metadata: dict[str, Any] = dict.fromkeys(without)
    figure.savefig(buffer, format=kind, metadata=metadata, **options)
    return buffer.getvalue()


def _picture(chart: Chart, light: bytes, dark: bytes) -> Picture:
    return Picture(
        base64.b64encode(light).decode(),
        base64.b64encode(dark).decode(),
        chart.alt,
        round(chart.width * 96),
        round(chart.height * 96),
    )
