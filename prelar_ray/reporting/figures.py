"""Charts and frame strips as PNG, each once for light and once for dark pages."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from prelar_ray.reporting.runs import Evaluation, Prediction
from prelar_ray.statistics import Interval, mean_interval
from prelar_ray.types import Frames

__all__ = [
    "Curve",
    "Panel",
    "Picture",
    "bar_chart",
    "curves_chart",
    "evaluation_chart",
    "frame_strip",
    "metric_chart",
    "mosaic",
    "prediction_error_chart",
    "seeds_chart",
]

Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""Places and values, both ``(N,)``."""

AXIS_LABELS = {"update": "updates", "env_steps": "environment steps"}
PANEL = (3.7, 2.25)
"""Size of a chart, inches."""
STRIP_WIDTH = 10.0
"""Width of a frame strip, inches."""
BAR_NAMES = 12
"""Most bars that are named."""
STRIP_COLUMNS = 12
"""Most frames shown side by side."""
ROLLING = 20
"""A curve with more than twice as many points is drawn pale, under its mean over this share of its length."""

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


def metric_chart(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], over: str, label: str) -> Picture:
    """Draw one metric; on a logarithmic scale where it spans more than a factor of 50."""

    def paint(figure: Figure) -> None:
        axes = _axes(figure, AXIS_LABELS[over], label)
        if len(y) > 2 * ROLLING:
            axes.plot(x, y, alpha=0.3, linewidth=1)
            axes.plot(x, _rolling_mean(y), color="C0")
        else:
            axes.plot(x, y, marker="o", markersize=3)
        if y.min() > 0 and y.max() > 50 * y.min():
            axes.set_yscale("log")

    return _draw(paint, *PANEL, f"{label} over {AXIS_LABELS[over]}, from {y[0]:.4g} to {y[-1]:.4g}")


def curves_chart(curves: Mapping[str, Curve], over: str, label: str, dashed: str = "") -> Picture:
    """Draw several metrics of one unit together; the one named ``dashed`` is a reference."""

    def paint(figure: Figure) -> None:
        axes = _axes(figure, AXIS_LABELS[over], label)
        for name, (x, y) in curves.items():
            reference: dict[str, Any] = {"color": "C2", "linestyle": "--"} if name == dashed else {}
            axes.plot(x, y, label=name, marker="o", markersize=3, **reference)
        if len(curves) > 1:
            axes.legend()

    return _draw(paint, *PANEL, f"{label} over {AXIS_LABELS[over]}: {', '.join(curves)}")


def bar_chart(values: Mapping[str, float], axis: str, label: str) -> Picture:
    """Draw a bar per entry; the names are left out where there is no room for them."""

    def paint(figure: Figure) -> None:
        axes = _axes(figure, axis, label)
        places = np.arange(len(values))
        axes.bar(places, list(values.values()), width=0.7)
        axes.axhline(0, color="C2", linewidth=1)
        if len(values) <= BAR_NAMES:
            axes.set_xticks(places, list(values))

    return _draw(paint, *PANEL, f"{label} per {axis}: {', '.join(f'{value:.2g}' for value in values.values())}")


def evaluation_chart(evaluations: Sequence[Evaluation], success: bool) -> Picture:
    """Draw the success rate or the mean return of evaluations over environment steps, with intervals."""
    label = "success rate (fraction)" if success else "mean return"
    tasks = list(dict.fromkeys(evaluation.task for evaluation in evaluations))

    def paint(figure: Figure) -> None:
        axes = _axes(figure, AXIS_LABELS["env_steps"], label)
        for task in tasks:
            of_task = [evaluation for evaluation in evaluations if evaluation.task == task]
            intervals = [evaluation.success if success else evaluation.returns for evaluation in of_task]
            _error_bars(axes, [evaluation.env_steps for evaluation in of_task], intervals, task)
        if success:
            axes.set_ylim(-0.04, 1.04)
        if len(tasks) > 1:
            axes.legend()

    return _draw(paint, *PANEL, f"{label} of {len(evaluations)} evaluations over environment steps")


def seeds_chart(runs: Sequence[Sequence[Evaluation]], success: bool) -> Picture:
    """Draw evaluations of several runs, and the mean over runs with its interval where all were evaluated."""
    label = "success rate (fraction)" if success else "mean return"
    curves = [{e.env_steps: (e.success if success else e.returns).estimate for e in run} for run in runs]
    common = sorted(set.intersection(*(set(curve) for curve in curves)))

    def paint(figure: Figure) -> None:
        axes = _axes(figure, AXIS_LABELS["env_steps"], label)
        for curve in curves:
            axes.plot(list(curve), list(curve.values()), color="C2", alpha=0.6, linewidth=1)
        if common:
            means = [mean_interval([curve[step] for curve in curves]) for step in common]
            _error_bars(axes, common, means, f"mean of {len(curves)} runs")
            axes.legend()
        if success:
            axes.set_ylim(-0.04, 1.04)

    return _draw(paint, *PANEL, f"{label} of {len(runs)} runs over environment steps")


def frame_strip(prediction: Prediction) -> Picture:
    """Draw true, reconstructed and open-loop predicted frames, with a line where the context ends."""
    rows = {"true": prediction.true, "reconstructed": prediction.reconstructed, "open loop": prediction.open_loop}
    length, size = len(prediction.true), prediction.true.shape[1]
    shown = np.unique(np.linspace(0, length - 1, min(length, STRIP_COLUMNS)).round().astype(int))
    gap = 4
    pitch = size + gap
    picture = mosaic([frames[shown] for frames in rows.values()], gap)
    context_columns = int((shown < prediction.context).sum())

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.imshow(picture, interpolation="nearest")
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xticks(np.arange(len(shown)) * pitch + size / 2, [str(index) for index in shown])
        axes.set_yticks(np.arange(len(rows)) * pitch + size / 2, list(rows))
        axes.set_xlabel("frame")
        boundary = context_columns * pitch - gap / 2 - 0.5
        if 0 < context_columns < len(shown):
            axes.axvline(boundary, color="C1", linewidth=2)
            axes.text(boundary - 6, -8, "seen by the model", ha="right", color="C1")
            axes.text(boundary + 6, -8, "open loop: given actions, no frames", ha="left", color="C1")

    alt = f"Frames {shown[0]} to {shown[-1]}: true, reconstructed, and predicted from {prediction.context} seen frames"
    return _draw(paint, STRIP_WIDTH, STRIP_WIDTH * picture.shape[0] / picture.shape[1] + 0.5, alt)


def prediction_error_chart(prediction: Prediction) -> Picture:
    """Draw the error of predicted frames beside that of repeating the last seen frame, which a good model undercuts."""
    open_steps = np.arange(prediction.context, len(prediction.true))
    last_seen = prediction.true[prediction.context - 1]

    def paint(figure: Figure) -> None:
        axes = _axes(figure, "frame", "mean error (of 255)")
        axes.plot(_error(prediction.reconstructed, prediction.true), label="reconstructed")
        axes.plot(open_steps, _error(prediction.open_loop, prediction.true)[open_steps], label="open loop")
        axes.plot(
            open_steps, _error(last_seen[None], prediction.true)[open_steps], label="last seen frame, repeated", ls="--"
        )
        axes.axvline(prediction.context - 0.5, color="C1", linewidth=1, alpha=0.6)
        axes.set_ylim(bottom=0)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    return _draw(
        paint, STRIP_WIDTH, PANEL[1], "Error of reconstructed and open-loop predicted frames, and of a repeated frame"
    )


def _error(frames: Frames, true: Frames) -> npt.NDArray[np.float64]:
    """Return the mean absolute difference per frame ``(T,)``, in grey levels."""
    error: npt.NDArray[np.float64] = np.abs(frames.astype(np.float64) - true).mean(axis=(1, 2, 3))
    return error


def mosaic(rows: Sequence[Frames], gap: int) -> npt.NDArray[np.uint8]:
    """Return the frames of several rows ``(T, Hpx, Wpx, C)`` as one RGBA picture with transparent gaps."""
    columns, height, width = rows[0].shape[:3]
    picture = np.zeros((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 4), np.uint8)
    for i, frames in enumerate(rows):
        for j, frame in enumerate(frames):
            top, left = i * (height + gap), j * (width + gap)
            picture[top : top + height, left : left + width, :3] = frame
            picture[top : top + height, left : left + width, 3] = 255
    return picture


def _error_bars(axes: Axes, x: Sequence[int], intervals: Sequence[Interval], label: str) -> None:
    y = np.array([interval.estimate for interval in intervals])
    low, high = np.array([interval.low for interval in intervals]), np.array([interval.high for interval in intervals])
    # Rounding can put a bound a hair on the wrong side of the estimate; one value alone has no interval (NaN).
    lengths = np.nan_to_num(np.clip([y - low, high - y], 0, None))
    axes.errorbar(x, y, yerr=lengths, marker="o", markersize=4, capsize=2.5, elinewidth=1, label=label)


def _rolling_mean(y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the centred mean over a window of a twentieth of the curve, shorter at its ends."""
    half = max(len(y) // ROLLING // 2, 1)
    sums = np.concatenate([[0.0], np.cumsum(y)])
    begin = np.maximum(np.arange(len(y)) - half, 0)
    end = np.minimum(np.arange(len(y)) + half + 1, len(y))
    means: npt.NDArray[np.float64] = (sums[end] - sums[begin]) / (end - begin)
    return means


def _axes(figure: Figure, x_label: str, y_label: str) -> Axes:
    axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    return axes


def _draw(paint: Callable[[Figure], None], width: float, height: float, alt: str) -> Picture:
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
