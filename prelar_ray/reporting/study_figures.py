"""Charts of a comparison: curves, scores, improvement, profiles, sample efficiency and heat maps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from prelar_ray.reporting.aggregates import Band
from prelar_ray.reporting.comparison import Curve, Improvement, Profile
from prelar_ray.reporting.drawing import AXIS_LABELS, Chart, new_axes
from prelar_ray.reporting.heat_maps import HeatMap
from prelar_ray.reporting.trials import SYMBOLS
from prelar_ray.statistics import Interval

__all__ = [
    "MOST_BANDS",
    "Style",
    "curves_chart",
    "heat_map_chart",
    "improvement_chart",
    "profiles_chart",
    "reached_chart",
    "scores_chart",
    "series_styles",
]

SIZE = (5.2, 3.1)
"""Of a chart without its legend, inches."""
LEGEND_ROW = 0.2
"""Height of a row of the legend, inches."""
LETTER = 0.062
"""Mean width of a letter of the legend, inches."""
ROW = 0.34
"""Height of a row of intervals, inches."""
CELL = (1.0, 0.62)
"""Of a heat map, inches."""

MOST_BANDS = 5
"""With more series than this, bands would only hide each other, and are left out."""
MARKED = 8
"""Markers on a curve of shares."""

COLOURS = ("C0", "C1", "C3", "C4", "C5", "C6", "C7")
"""C2 is the grey of references."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ((5, 2), (2, 1.5), (7, 1.5, 1.5, 1.5), (1, 1.2))
"""Of published curves."""


@dataclass(frozen=True)
class Style:
    """How a series is drawn, the same in every chart."""

    colour: str
    marker: str
    dashes: tuple[float, ...] = ()

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of ``Axes.plot``."""
        dashed: dict[str, Any] = {"dashes": self.dashes} if self.dashes else {"marker": self.marker, "markersize": 3.5}
        return {"color": self.colour, **dashed}


def series_styles(series: Iterable[str], published: Iterable[str] = ()) -> dict[str, Style]:
    """Give each series a colour and a marker, published ones grey and dashes."""
    styles = {}
    for number, name in enumerate(series):
        again, place = divmod(number, len(COLOURS))
        styles[name] = Style(COLOURS[place], MARKERS[(place + again) % len(MARKERS)])
    for number, name in enumerate(published):
        styles[name] = Style("C2", "", DASHES[number % len(DASHES)])
    return styles


def curves_chart(curves: Sequence[Curve], styles: Mapping[str, Style], label: str, success: bool) -> Chart:
    """Draw curves over environment steps with their intervals, and runs that did not finish as thin dotted lines."""
    bands = sum(not curve.published for curve in curves) <= MOST_BANDS

    def paint(figure: Figure) -> None:
        axes = new_axes(figure, AXIS_LABELS["env_steps"], label)
        for curve in curves:
            style = styles[curve.series]
            axes.plot(curve.steps, curve.band.estimate, label=_curve_name(curve), **style.line)
            if bands and not curve.published:
                _band(axes, curve.steps, curve.band, style)
            for steps, values in curve.fragments:
                axes.plot(steps, values, color=style.colour, linestyle=":", linewidth=1, alpha=0.8)
                axes.plot(steps[-1:], values[-1:], color=style.colour, marker="x", markersize=5)
        if success:
            axes.set_ylim(-0.03, 1.03)
        axes.set_xlim(left=0)
        _legend(figure, [_curve_name(curve) for curve in curves])

    alt = f"{label} over environment steps: {', '.join(_curve_name(curve) for curve in curves)}"
    return Chart(paint, alt, SIZE[0], SIZE[1] + _legend_height([_curve_name(curve) for curve in curves]))


def scores_chart(intervals: Mapping[str, Interval], styles: Mapping[str, Style], label: str, success: bool) -> Chart:
    """Draw a score with its interval per series."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for row, (name, interval) in enumerate(intervals.items()):
            _interval(axes, interval, row, styles[name])
        axes.set_xlabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        if success:
            axes.set_xlim(-0.03, 1.03)
        _rows(axes, list(intervals))

    return Chart(paint, f"{label}: {_spoken(intervals)}", *_rows_size(list(intervals)))


def improvement_chart(improvements: Sequence[Improvement], styles: Mapping[str, Style]) -> Chart:
    """Draw the probability that a run of one series beats one of another; the line is an even chance."""
    names = [f"{pair.better} over {pair.worse}" for pair in improvements]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axvline(0.5, color="C2", linewidth=1, linestyle="--")
        for row, pair in enumerate(improvements):
            _interval(axes, pair.probability, row, styles[pair.better])
        axes.set_xlabel("probability of improvement")
        axes.set_xlim(-0.03, 1.03)
        _rows(axes, names)

    spoken = _spoken({name: pair.probability for name, pair in zip(names, improvements, strict=True)})
    return Chart(paint, f"Probability of improvement: {spoken}", *_rows_size(names))


def profiles_chart(profiles: Sequence[Profile], styles: Mapping[str, Style], label: str) -> Chart:
    """Draw the share of runs that score above each threshold."""
    return _shares_chart(profiles, styles, f"{label} τ", "share of runs above τ")


def reached_chart(profiles: Sequence[Profile], styles: Mapping[str, Style], threshold: float) -> Chart:
    """Draw the share of runs that had reached a score by each step."""
    return _shares_chart(profiles, styles, AXIS_LABELS["env_steps"], f"share of runs that reached {threshold:g}")


def heat_map_chart(heat_map: HeatMap, label: str, success: bool) -> Chart:
    """Draw mean scores over two settings, each cell with its score and number of runs."""
    rows, columns = heat_map.means.shape

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        low, high = (0.0, 1.0) if success else (np.nanmin(heat_map.means), np.nanmax(heat_map.means))
        means = np.ma.masked_invalid(heat_map.means)
        image = axes.imshow(means, cmap="cividis", aspect="auto", vmin=low, vmax=high)
        for (row, column), count in np.ndenumerate(heat_map.counts):
            mean = heat_map.means[row, column]
            text = f"{mean:.{2 if success else 1}f}\nn={count}" if count else "no\nscore"
            # The map runs from dark to light; where there is no cell, the page's own ink shows.
            ink: dict[str, Any] = {"color": "white" if mean < low + 0.55 * (high - low) else "black"} if count else {}
            axes.text(column, row, text, ha="center", va="center", fontsize=8, **ink)
        axes.set_xticks(range(columns), heat_map.columns)
        axes.set_yticks(range(rows), heat_map.rows)
        axes.set_xlabel(_setting(heat_map.column_key))
        axes.set_ylabel(_setting(heat_map.row_key))
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        figure.colorbar(image, ax=axes, label=label)

    cells = [
        f"{heat_map.rows[row]}, {heat_map.columns[column]}: {mean:.3g}"
        for (row, column), mean in np.ndenumerate(heat_map.means)
        if math.isfinite(mean)
    ]
    alt = f"{label} of {heat_map.method} over {heat_map.row_key} and {heat_map.column_key}: {'; '.join(cells)}"
    return Chart(paint, alt, max(SIZE[0], 1.7 + CELL[0] * columns), max(2.4, 0.9 + CELL[1] * rows))


def _shares_chart(profiles: Sequence[Profile], styles: Mapping[str, Style], x_label: str, y_label: str) -> Chart:
    names = [profile.series for profile in profiles]
    over_steps = x_label == AXIS_LABELS["env_steps"]

    def paint(figure: Figure) -> None:
        axes = new_axes(figure, x_label, y_label)
        if not over_steps:  # scores, which may be fractions
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
            axes.xaxis.set_major_formatter(ScalarFormatter())
        for profile in profiles:
            x, band, style = profile.at, profile.band, styles[profile.series]
            every = max(1, len(x) // MARKED)
            axes.plot(x, band.estimate, label=profile.series, drawstyle="steps-post", markevery=every, **style.line)
            if len(profiles) <= MOST_BANDS:
                _band(axes, x, band, style, step="post")
        axes.set_ylim(-0.03, 1.03)
        _legend(figure, names)

    return Chart(paint, f"{y_label}, by {x_label}: {', '.join(names)}", SIZE[0], SIZE[1] + _legend_height(names))


def _band(axes: Axes, x: Any, band: Band, style: Style, step: Any = None) -> None:
    if len(x) == 1:  # a band has no width there
        axes.vlines(x, band.low, band.high, color=style.colour, alpha=0.5)
    axes.fill_between(x, band.low, band.high, color=style.colour, alpha=0.18, linewidth=0, step=step)


def _interval(axes: Axes, interval: Interval, row: int, style: Style) -> None:
    if math.isfinite(interval.low):
        axes.plot(
            [interval.low, interval.high],
            [row, row],
            color=style.colour,
            linewidth=5,
            alpha=0.35,
            solid_capstyle="butt",
        )
    axes.plot([interval.estimate], [row], color=style.colour, marker=style.marker, markersize=6)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of intervals, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _rows_size(names: Sequence[str]) -> tuple[float, float]:
    """Return the width and height of a chart of rows; long names widen it, so that the rows keep their length."""
    return max(SIZE[0], LETTER * max(map(len, names)) + 3.4), 0.75 + ROW * max(len(names), 2)


def _curve_name(curve: Curve) -> str:
    return curve.series if curve.of_finished else f"{curve.series}, unfinished"


def _setting(key: str) -> str:
    return f"{SYMBOLS[key]}   ({key})" if key in SYMBOLS else key


def _legend(figure: Figure, names: Sequence[str]) -> None:
    figure.legend(loc="outside lower center", ncols=_legend_columns(names), handlelength=2.6)


def _legend_columns(names: Sequence[str]) -> int:
    widest = max((len(name) for name in names), default=1) * LETTER + 0.55
    return max(1, min(len(names), int(SIZE[0] / widest)))


def _legend_height(names: Sequence[str]) -> float:
    return LEGEND_ROW * math.ceil(len(names) / _legend_columns(names))


def _spoken(intervals: Mapping[str, Interval]) -> str:
    return ", ".join(f"{name} {interval.estimate:.3g}" for name, interval in intervals.items())
