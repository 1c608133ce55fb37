"""Charts and frame strips of single runs and of seeds side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prelar_ray.reporting.drawing import AXIS_LABELS, PANEL, Picture, draw, new_axes
from prelar_ray.reporting.runs import Evaluation, Prediction
from prelar_ray.statistics import Interval, mean_interval
from prelar_ray.types import Frames

__all__ = [
    "Curve",
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

STRIP_WIDTH = 10.0
"""Width of a frame strip, inches."""
BAR_NAMES = 12
"""Most bars that are named."""
STRIP_COLUMNS = 12
"""Most frames shown side by side."""
ROLLING = 20
"""A curve with more than twice as many points is drawn pale, under its mean over this share of its length."""


def metric_chart(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], over: str, label: str) -> Picture:
    """Draw one metric; on a logarithmic scale where it spans more than a factor of 50."""

    def paint(figure: Figure) -> None:
        axes = new_axes(figure, AXIS_LABELS[over], label)
        if len(y) > 2 * ROLLING:
            axes.plot(x, y, alpha=0.3, linewidth=1)
            axes.plot(x, _rolling_mean(y), color="C0")
        else:
            axes.plot(x, y, marker="o", markersize=3)
        if y.min() > 0 and y.max() > 50 * y.min():
            axes.set_yscale("log")

    return draw(paint, *PANEL, f"{label} over {AXIS_LABELS[over]}, from {y[0]:.4g} to {y[-1]:.4g}")


def curves_chart(curves: Mapping[str, Curve], over: str, label: str, dashed: str = "") -> Picture:
    """Draw several metrics of one unit together; the one named ``dashed`` is a reference."""

    def paint(figure: Figure) -> None:
        axes = new_axes(figure, AXIS_LABELS[over], label)
        for name, (x, y) in curves.items():
            reference: dict[str, Any] = {"color": "C2", "linestyle": "--"} if name == dashed else {}
            axes.plot(x, y, label=name, marker="o", markersize=3, **reference)
        if len(curves) > 1:
            axes.legend()

    return draw(paint, *PANEL, f"{label} over {AXIS_LABELS[over]}: {', '.join(curves)}")


def bar_chart(values: Mapping[str, float], axis: str, label: str) -> Picture:
    """Draw a bar per entry; the names are left out where there is no room for them."""

    def paint(figure: Figure) -> None:
        axes = new_axes(figure, axis, label)
        places = np.arange(len(values))
        axes.bar(places, list(values.values()), width=0.7)
        axes.axhline(0, color="C2", linewidth=1)
        if len(values) <= BAR_NAMES:
            axes.set_xticks(places, list(values))

    return draw(paint, *PANEL, f"{label} per {axis}: {', '.join(f'{value:.2g}' for value in values.values())}")


def evaluation_chart(evaluations: Sequence[Evaluation], success: bool) -> Picture:
    """Draw the success rate or the mean return of evaluations over environment steps, with intervals."""
    label = "success rate (fraction)" if success else "mean return"
    tasks = list(dict.fromkeys(evaluation.task for evaluation in evaluations))

    def paint(figure: Figure) -> None:
        axes = new_axes(figure, AXIS_LABELS["env_steps"], label)
        for task in tasks:
            of_task = [evaluation for evaluation in evaluations if evaluation.task == task]
            intervals = [evaluation.success if success else evaluation.returns for evaluation in of_task]
            _error_bars(axes, [evaluation.env_steps for evaluation in of_task], intervals, task)
        if success:
            axes.set_ylim(-0.04, 1.04)
        if len(tasks) > 1:
            axes.legend()

    return draw(paint, *PANEL, f"{label} of {len(evaluations)} evaluations over environment steps")


def seeds_chart(runs: Sequence[Sequence[Evaluation]], success: bool) -> Picture:
    """Draw evaluations of several runs, and the mean over runs with its interval where all were evaluated."""
    label = "success rate (fraction)" if success else "mean return"
    curves = [{e.env_steps: (e.success if success else e.returns).estimate for e in run} for run in runs]
    common = sorted(set.intersection(*(set(curve) for curve in curves)))

    def paint(figure: Figure) -> None:
        axes = new_axes(figure, AXIS_LABELS["env_steps"], label)
        for curve in curves:
            axes.plot(list(curve), list(curve.values()), color="C2", alpha=0.6, linewidth=1)
        if common:
            means = [mean_interval([curve[step] for curve in curves]) for step in common]
            _error_bars(axes, common, means, f"mean of {len(curves)} runs")
            axes.legend()
        if success:
            axes.set_ylim(-0.04, 1.04)

    return draw(paint, *PANEL, f"{label} of {len(runs)} runs over environment steps")


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
    return draw(paint, STRIP_WIDTH, STRIP_WIDTH * picture.shape[0] / picture.shape[1] + 0.5, alt)


def prediction_error_chart(prediction: Prediction) -> Picture:
    """Draw the error of predicted frames beside that of repeating the last seen frame, which a good model undercuts."""
    open_steps = np.arange(prediction.context, len(prediction.true))
    last_seen = prediction.true[prediction.context - 1]

    def paint(figure: Figure) -> None:
        axes = new_axes(figure, "frame", "mean error (of 255)")
        axes.plot(_error(prediction.reconstructed, prediction.true), label="reconstructed")
        axes.plot(open_steps, _error(prediction.open_loop, prediction.true)[open_steps], label="open loop")
        axes.plot(
            open_steps, _error(last_seen[None], prediction.true)[open_steps], label="last seen frame, repeated", ls="--"
        )
        axes.axvline(prediction.context - 0.5, color="C1", linewidth=1, alpha=0.6)
        axes.set_ylim(bottom=0)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    return draw(
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
