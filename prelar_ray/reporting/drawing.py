"""What all charts have in common: their look, once for light and once for dark pages, and how they become pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from prelar_ray.types import Frames

__all__ = ["AXIS_LABELS", "PANEL", "THEMES", "Chart", "Line", "lines_chart", "mosaic", "show_frames"]

AXIS_LABELS = {"update": "updates", "env_steps": "environment steps"}
PANEL = (3.7, 2.25)
"""Size of a chart of a single run, inches."""

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
    "text.parse_math": False,  # names come from anywhere, and $ in one is a dollar
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
}


def _theme(ink: str, faint: str, grid: str, colours: str) -> dict[Any, Any]:
    inks = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), ink)
    cycle = f"cycler(color={[f'#{colour}' for colour in colours.split()]})"
    return {**_COMMON, **inks, "axes.edgecolor": faint, "grid.color": grid, "axes.prop_cycle": cycle}


# Blue and orange first, the third is for references; told apart also by readers who do not see red and green.
THEMES = {
    "light": _theme("#27313f", "#8b95a5", "#e5e9ef", "1f6feb d1650c 7b8796 00875f b4488c a67c00 3a9bd1 27313f"),
    "dark": _theme("#d6dde8", "#67748a", "#2b3443", "79aeff ffa657 8f9bad 3fcf9f f094cb e3c34d 9adcff d6dde8"),
}


@dataclass(eq=False)
class Chart:
    """A figure that is drawn when it is first asked for, once per theme."""

    paint: Callable[[Figure], None]
    alt: str
    """What a reader who cannot see it is told."""
    width: float
    """Inches."""
    height: float
    _pngs: dict[str, bytes] = field(default_factory=dict)
    """By theme, once drawn."""

    @property
    def css_size(self) -> tuple[int, int]:
        """Width and height in pixels of a page."""
        return round(self.width * 96), round(self.height * 96)

    def picture(self, theme: str) -> str:
        """Return the chart for pages of a theme: PNG in base64."""
        if theme not in self._pngs:
            self._draw(theme)
        return base64.b64encode(self._pngs[theme]).decode()

    def files(self) -> dict[str, bytes]:
        """Return PNG and PDF by suffix, on white; they hold no dates: equal charts give equal files."""
        figure = self._draw("light")
        figure.set_layout_engine("none")  # everything has its place by now
        white = {"transparent": False, "facecolor": "white"}
        with mpl.rc_context(THEMES["light"]):
            return {
                ".png": _saved(figure, "png", ("Software",), dpi=200, **white),
                ".pdf": _saved(figure, "pdf", ("Creator", "Producer", "CreationDate"), **white),
            }

    def _draw(self, theme: str) -> Figure:
        """Keep the picture for pages and return the figure, which is too large to keep."""
        with mpl.rc_context(THEMES[theme]):
            figure = Figure(figsize=(self.width, self.height), layout="constrained")
            self.paint(figure)
            self._pngs[theme] = _saved(figure, "png", ("Software",), dpi=160)
            return figure


@dataclass(frozen=True)
class Line:
    """Values over an axis that counts something, with their interval if there is one."""

    x: Any
    y: Any
    style: Mapping[str, Any] = field(default_factory=dict)
    """Of ``Axes.plot``, or of ``Axes.errorbar`` where there are bars."""
    low: Any = None
    high: Any = None
    bars: bool = False
    """Whether the interval is drawn as bars; else as a band."""


def lines_chart(
    lines: Sequence[Line],
    labels: tuple[str, str],
    alt: str,
    finish: Callable[[Axes], object] = lambda axes: None,
    size: tuple[float, float] = PANEL,
) -> Chart:
    """Draw lines over each other; ``finish`` sees to limits, scale and legend."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        for line in lines:
            _add(axes, line)
        finish(axes)

    return Chart(paint, alt, *size)


def mosaic(rows: Sequence[Frames], gap: int) -> npt.NDArray[np.uint8]:
    """Return the frames of several rows ``(T, Hpx, Wpx, C)`` as one RGBA picture with transparent gaps."""
    columns, height, width = rows[0].shape[:3]
    picture = np.zeros((len(rows), height + gap, columns, width + gap, 4), np.uint8)
    for i, frames in enumerate(rows):
        picture[i, :height, :, :width, :3] = frames.swapaxes(0, 1)
        picture[i, :height, :, :width, 3] = 255
    return picture.reshape(len(rows) * (height + gap), -1, 4)[:-gap, :-gap]


def show_frames(
    axes: Axes, rows: Sequence[Frames], row_names: Sequence[str], column_names: Sequence[str], gap: int
) -> None:
    """Show rows of frames with a name beside each row and below each column."""
    size = rows[0].shape[1]
    axes.imshow(mosaic(rows, gap), interpolation="nearest")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(len(column_names)) * (size + gap) + size / 2, column_names)
    axes.set_yticks(np.arange(len(rows)) * (size + gap) + size / 2, row_names)


def _add(axes: Axes, line: Line) -> None:
    if line.bars:
        # Rounding can put a bound a hair on the wrong side of the estimate; one value alone has no interval (NaN).
        lengths = np.nan_to_num(np.clip([line.y - line.low, line.high - line.y], 0, None))
        bars: dict[str, Any] = {"marker": "o", "markersize": 4, "capsize": 2.5, "elinewidth": 1}
        axes.errorbar(line.x, line.y, yerr=lengths, **bars, **line.style)
        return
    axes.plot(line.x, line.y, **line.style)
    if line.low is not None:
        colour = line.style["color"]
        step: Any = "post" if line.style.get("drawstyle") == "steps-post" else None
        if len(line.x) == 1:  # a band has no width there
            axes.vlines(line.x, line.low, line.high, color=colour, alpha=0.5)
        axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, linewidth=0, step=step)


def _saved(figure: Figure, kind: str, without: Sequence[str], **options: Any) -> bytes:
    buffer = io.BytesIO()
    metadata: dict[str, Any] = dict.fromkeys(without)
    figure.savefig(buffer, format=kind, metadata=metadata, **options)
    return buffer.getvalue()
