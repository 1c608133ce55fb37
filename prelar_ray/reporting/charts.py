"""The charts of reports: metrics, evaluations and frames of single runs; curves, scores and shares of comparisons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator, NullFormatter, ScalarFormatter

from prelar_ray.reporting.compare import Curve, HeatMap
from prelar_ray.reporting.drawing import AXIS_LABELS, PANEL, Chart, Line, lines_chart, show_frames
from prelar_ray.reporting.prediction import PredictedFrames
from prelar_ray.reporting.read import Run
from prelar_ray.reporting.scores import SUCCESS, SYMBOLS
from prelar_ray.reporting.texts import label_text
from prelar_ray.statistics import Interval, mean_interval
from prelar_ray.types import Frames

__all__ = [
    "MOST_BANDS",
    "Style",
    "bar_chart",
    "curves_chart",
    "evaluation_chart",
    "frame_strip",
    "heat_map_chart",
    "intervals_chart",
    "metric_chart",
    "metrics_chart",
    "prediction_error_chart",
    "seeds_chart",
    "series_styles",
    "shares_chart",
]

STRIP = 10.0
"""Width of a frame strip, inches."""
STRIP_COLUMNS = 12
"""Most frames shown side by side."""
BAR_NAMES = 12
"""Most bars that are named."""
ROLLING = 20
"""A curve with more than twice as many points is drawn pale, under its mean over this share of its length."""

SIZE = (5.2, 3.1)
"""Of a comparison's chart without its legend, inches."""
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
DASHED_MARKERS = ("", *MARKERS)
"""Of published curves: those that have the same dashes have different markers."""
DOTS: dict[str, Any] = {"marker": "o", "markersize": 3}


@dataclass(frozen=True)
class Style:
    """How a series is drawn, the same in every chart."""

    colour: str
    marker: str
    dashes: tuple[float, ...] = ()

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of ``Axes.plot``."""
        dashed: dict[str, Any] = {"dashes": self.dashes} if self.dashes else {}
        return {"color": self.colour, "marker": self.marker, "markersize": 3.5, **dashed}


def series_styles(series: Iterable[str], published: Iterable[str] = ()) -> dict[str, Style]:
    """Give each series a colour and a marker, published ones grey and dashes."""
    styles = {}
    for number, name in enumerate(series):
        again, place = divmod(number, len(COLOURS))
        styles[name] = Style(COLOURS[place], MARKERS[(place + again) % len(MARKERS)])
    for number, name in enumerate(published):
        again, place = divmod(number, len(DASHES))
        styles[name] = Style("C2", DASHED_MARKERS[again % len(DASHED_MARKERS)], DASHES[place])
    return styles


def metric_chart(run: Run, name: str, over: str, label: str) -> Chart:
    """Draw one metric; on a logarithmic scale where it spans more than a factor of 50."""
    x, y = run.series(name, over)
    lines = [Line(x, y, DOTS)]
    if len(y) > 2 * ROLLING:
        lines = [Line(x, y, {"alpha": 0.3, "linewidth": 1}), Line(x, _rolling_mean(y), {"color": "C0"})]

    def finish(axes: Axes) -> None:
        if y.min() > 0 and y.max() > 50 * y.min():
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(LogFormatter())  # without formulas, which are off
            axes.yaxis.set_minor_formatter(NullFormatter())

    alt = f"{label} over {AXIS_LABELS[over]}, from {y[0]:.4g} to {y[-1]:.4g}"
    return lines_chart(lines, (AXIS_LABELS[over], label), alt, finish)


def metrics_chart(run: Run, names: Sequence[str], label: str, dashed: str = "") -> Chart | None:
    """Draw several metrics of one unit together over updates; the one named ``dashed`` is a reference."""
    lines = {}
    for name in names:
        x, y = run.series(name, "update")
        if len(x):
            short = name.split("/")[1].replace("_", " ")
            reference = {"color": "C2", "linestyle": "--"} if name == dashed else {}
            lines[short] = Line(x, y, {"label": short, **DOTS, **reference})
    if not lines:
        return None
    alt = f"{label} over {AXIS_LABELS['update']}: {', '.join(lines)}"
    return lines_chart(list(lines.values()), (AXIS_LABELS["update"], label), alt, _legend_of_several)


def evaluation_chart(run: Run, metric: str) -> Chart:
    """Draw the score of a run's evaluations over environment steps, with intervals over episodes."""
    lines, scored = [], run.scored(metric)
    for task in dict.fromkeys(evaluation.task for evaluation in scored):
        of_task = {number: of.env_steps for number, of in enumerate(scored) if of.task == task}
        intervals = [run.intervals[metric][number] for number in of_task]
        lines.append(_bars(list(of_task.values()), intervals, label_text(task)))
    return _scores_chart(lines, metric, f"{len(scored)} evaluations")


def seeds_chart(runs: Sequence[Run], metric: str) -> Chart:
    """Draw evaluations of several runs, and the mean over runs with its interval where all were evaluated."""
    curves = [
        {
            of.env_steps: interval.estimate
            for of, interval in zip(run.scored(metric), run.intervals[metric], strict=True)
        }
        for run in runs
    ]
    grey = {"color": "C2", "alpha": 0.6, "linewidth": 1}
    lines = [Line(list(curve), list(curve.values()), grey) for curve in curves]
    if common := sorted(set.intersection(*map(set, curves))):
        means = [mean_interval([curve[step] for curve in curves]) for step in common]
        lines.append(_bars(common, means, f"mean of {len(curves)} runs"))
    return _scores_chart(lines, metric, f"{len(runs)} runs")


def _scores_chart(lines: Sequence[Line], metric: str, of: str) -> Chart:
    label = {SUCCESS: "success rate (fraction)"}.get(metric, "mean return")

    def finish(axes: Axes) -> None:
        if metric == SUCCESS:
            axes.set_ylim(-0.04, 1.04)
        if len(lines) > 1 and any(line.bars for line in lines):
            axes.legend()

    x_label = AXIS_LABELS["env_steps"]
    return lines_chart(lines, (x_label, label), f"{label} of {of} over environment steps", finish)


def bar_chart(values: Mapping[str, float], axis: str, label: str) -> Chart:
    """Draw a bar per entry; the names are left out where there is no room for them."""

    def finish(axes: Axes) -> None:
        places = np.arange(len(values))
        axes.bar(places, list(values.values()), width=0.7)
        axes.axhline(0, color="C2", linewidth=1)
        if len(values) <= BAR_NAMES:
            axes.set_xticks(places, list(values))

    alt = f"{label} per {axis}: {', '.join(f'{value:.2g}' for value in values.values())}"
    return lines_chart([], (axis, label), alt, finish)


def frame_strip(prediction: PredictedFrames) -> Chart:
    """Draw true, reconstructed and open-loop predicted frames, with a line where the context ends."""
    length, size, gap = len(prediction.true), prediction.true.shape[1], 4
    shown = np.unique(np.linspace(0, length - 1, min(length, STRIP_COLUMNS)).round().astype(int))
    rows = [frames[shown] for frames in (prediction.true, prediction.reconstructed, prediction.open_loop)]
    seen = int((shown < prediction.context).sum())

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        show_frames(axes, rows, ["true", "reconstructed", "open loop"], [str(index) for index in shown], gap)
        axes.grid(False)
        axes.set_xlabel("frame")
        boundary = seen * (size + gap) - gap / 2 - 0.5
        if 0 < seen < len(shown):
            axes.axvline(boundary, color="C1", linewidth=2)
            axes.text(boundary - 6, -8, "seen by the model", ha="right", color="C1")
            axes.text(boundary + 6, -8, "open loop: given actions, no frames", ha="left", color="C1")

    alt = f"Frames {shown[0]} to {shown[-1]}: true, reconstructed, and predicted from {prediction.context} seen frames"
    height, width = (count * (size + gap) - gap for count in (len(rows), len(shown)))
    return Chart(paint, alt, STRIP, STRIP * height / width + 0.5)


def prediction_error_chart(prediction: PredictedFrames) -> Chart:
    """Draw the error of predicted frames beside that of repeating the last seen frame, which a good model undercuts."""
    true, first = prediction.true, prediction.context
    steps = np.arange(first, len(true))

    def error(frames: Frames) -> npt.NDArray[np.float64]:
        """Return the mean absolute difference per frame ``(T,)``, in grey levels."""
        mean: npt.NDArray[np.float64] = np.abs(frames.astype(np.float64) - true).mean(axis=(1, 2, 3))
        return mean

    def finish(axes: Axes) -> None:
        axes.axvline(first - 0.5, color="C1", linewidth=1, alpha=0.6)
        axes.set_ylim(bottom=0)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    reconstructed = error(prediction.reconstructed)
    lines = [
        Line(np.arange(len(true)), reconstructed, {"label": "reconstructed"}),
        Line(steps, error(prediction.open_loop)[first:], {"label": "open loop"}),
        Line(steps, error(true[first - 1 : first])[first:], {"label": "last seen frame, repeated", "ls": "--"}),
    ]
    alt = "Error of reconstructed and open-loop predicted frames, and of a repeated frame"
    return lines_chart(lines, ("frame", "mean error (of 255)"), alt, finish, (STRIP, PANEL[1]))


def curves_chart(curves: Sequence[Curve], styles: Mapping[str, Style], label: str, success: bool) -> Chart:
    """Draw curves over environment steps with their intervals, and runs that did not finish as thin dotted lines."""
    bands = sum(not curve.published for curve in curves) <= MOST_BANDS
    names = [label_text(curve.series) + ("" if curve.of_finished else ", unfinished") for curve in curves]
    lines = []
    for name, curve in zip(names, curves, strict=True):
        style, band = styles[curve.series], curve.band
        bounds = (band.low, band.high) if bands and not curve.published else ()
        lines.append(Line(curve.x, band.estimate, {"label": name, **style.line}, *bounds))
        for scores in curve.fragments:
            x, y = scores.index.to_numpy(), scores.to_numpy()
            lines.append(Line(x, y, {"color": style.colour, "linestyle": ":", "linewidth": 1, "alpha": 0.8}))
            lines.append(Line(x[-1:], y[-1:], {"color": style.colour, "marker": "x", "markersize": 5}))

    def finish(axes: Axes) -> None:
        if success:
            axes.set_ylim(-0.03, 1.03)
        axes.set_xlim(left=0)
        _legend_below(axes, names)

    alt = f"{label} over environment steps: {', '.join(names)}"
    return lines_chart(lines, (AXIS_LABELS["env_steps"], label), alt, finish, _size_with_legend(names))


def shares_chart(curves: Sequence[Curve], styles: Mapping[str, Style], x_label: str, y_label: str) -> Chart:
    """Draw shares of runs: those that score above each threshold, or that had reached a score by each step."""
    names = [label_text(curve.series) for curve in curves]
    lines = []
    for name, curve in zip(names, curves, strict=True):
        marks = {"drawstyle": "steps-post", "markevery": max(1, len(curve.x) // MARKED)}
        bounds = (curve.band.low, curve.band.high) if len(curves) <= MOST_BANDS else ()
        style = {"label": name, **marks, **styles[curve.series].line}
        lines.append(Line(curve.x, curve.band.estimate, style, *bounds))

    def finish(axes: Axes) -> None:
        if x_label != AXIS_LABELS["env_steps"]:  # scores, which may be fractions
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
            axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.set_ylim(-0.03, 1.03)
        _legend_below(axes, names)

    alt = f"{y_label}, by {x_label}: {', '.join(names)}"
    return lines_chart(lines, (x_label, y_label), alt, finish, _size_with_legend(names))


def intervals_chart(
    intervals: Mapping[str, Interval], styles: Sequence[Style], label: str, share: bool, even: float | None = None
) -> Chart:
    """Draw a row for each estimate with its interval, the first on top; ``even`` is a line to compare with."""
    names = list(map(label_text, intervals))

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        if even is not None:
            axes.axvline(even, color="C2", linewidth=1, linestyle="--")
        for row, (interval, style) in enumerate(zip(intervals.values(), styles, strict=True)):
            if math.isfinite(interval.low):
                wide: dict[str, Any] = {"linewidth": 5, "alpha": 0.35, "solid_capstyle": "butt"}
                axes.plot([interval.low, interval.high], [row, row], color=style.colour, **wide)
            axes.plot([interval.estimate], [row], color=style.colour, marker=style.marker, markersize=6)
        axes.set_xlabel(label)
        if even is None:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        if share:
            axes.set_xlim(-0.03, 1.03)
        axes.set_yticks(range(len(intervals)), names)
        axes.set_ylim(len(intervals) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)

    spoken = ", ".join(f"{name} {interval.estimate:.3g}" for name, interval in intervals.items())
    width = max(SIZE[0], LETTER * max(map(len, names)) + 3.4)  # long names widen it, rows keep their length
    return Chart(
        paint, f"{label if even is None else label.capitalize()}: {spoken}", width, 0.75 + ROW * max(len(intervals), 2)
    )


def heat_map_chart(heat_map: HeatMap, label: str, success: bool) -> Chart:
    """Draw mean scores over two settings, each cell with its score and number of runs."""
    means = heat_map.means

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        low, high = (0.0, 1.0) if success else (np.nanmin(means), np.nanmax(means))
        image = axes.imshow(np.ma.masked_invalid(means), cmap="cividis", aspect="auto", vmin=low, vmax=high)
        for (row, column), count in np.ndenumerate(heat_map.counts):
            mean = means[row, column]
            text = f"{mean:.{2 if success else 1}f}\nn={count}" if count else "no\nscore"
            # The map runs from dark to light; where there is no cell, the page's own ink shows.
            ink: dict[str, Any] = {"color": "white" if mean < low + 0.55 * (high - low) else "black"} if count else {}
            axes.text(column, row, text, ha="center", va="center", fontsize=8, **ink)
        axes.set_xticks(range(len(heat_map.columns)), map(label_text, heat_map.columns))
        axes.set_yticks(range(len(heat_map.rows)), map(label_text, heat_map.rows))
        axes.set_xlabel(_setting(heat_map.column_key))
        axes.set_ylabel(_setting(heat_map.row_key))
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        figure.colorbar(image, ax=axes, label=label)

    cells = "; ".join(
        f"{heat_map.rows[row]}, {heat_map.columns[column]}: {mean:.3g}"
        for (row, column), mean in np.ndenumerate(means)
        if math.isfinite(mean)
    )
    alt = f"{label} of {heat_map.method} over {heat_map.row_key} and {heat_map.column_key}: {cells}"
    return Chart(paint, alt, max(SIZE[0], 1.7 + CELL[0] * means.shape[1]), max(2.4, 0.9 + CELL[1] * means.shape[0]))


def _setting(key: str) -> str:
    return label_text(f"{SYMBOLS[key]}   ({key})" if key in SYMBOLS else key)


def _bars(x: Sequence[int], intervals: Sequence[Interval], label: str) -> Line:
    y, low, high = np.array([(of.estimate, of.low, of.high) for of in intervals]).T
    return Line(x, y, {"label": label}, low, high, bars=True)


def _rolling_mean(y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the centred mean over a window of a twentieth of the curve, shorter at its ends."""
    half = max(len(y) // ROLLING // 2, 1)
    sums = np.concatenate([[0.0], np.cumsum(y)])
    begin = np.maximum(np.arange(len(y)) - half, 0)
    end = np.minimum(np.arange(len(y)) + half + 1, len(y))
    means: npt.NDArray[np.float64] = (sums[end] - sums[begin]) / (end - begin)
    return means


def _legend_of_several(axes: Axes) -> None:
    if len(axes.lines) > 1:
        axes.legend()


def _legend_below(axes: Axes, names: Sequence[str]) -> None:
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.legend(loc="outside lower center", ncols=_legend_columns(names), handlelength=2.6)


def _legend_columns(names: Sequence[str]) -> int:
    widest = max((len(name) for name in names), default=1) * LETTER + 0.55
    return max(1, min(len(names), int(SIZE[0] / widest)))


def _size_with_legend(names: Sequence[str]) -> tuple[float, float]:
    return SIZE[0], SIZE[1] + LEGEND_ROW * math.ceil(len(names) / _legend_columns(names))
