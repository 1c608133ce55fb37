"""Statistics over tasks and seeds, with intervals by a stratified bootstrap; the unit is the seed.

A *stratum* holds the scores of one method on one task, ``(..., n)``: one per seed on the last axis, whatever is wanted
at the same time (steps, thresholds) before it. The bootstrap draws seeds with replacement within each stratum and
leaves the tasks as they are: its intervals say how far other seeds on the same tasks would land. After Agarwal et al.
(2021), "Deep Reinforcement Learning at the Edge of the Statistical Precipice".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from prelar_ray.statistics import CONFIDENCE, Interval

__all__ = [
    "Band",
    "Scores",
    "first_steps",
    "improvement_interval",
    "interquartile_mean",
    "mean_of_tasks",
    "reached_by",
    "steps_interval",
    "stratified_bootstrap",
    "stratified_interval",
]

Scores = npt.NDArray[np.float64]

RESAMPLES = 9999
BATCH = 1000
"""Resamples held at once, so that memory stays small."""


@dataclass(frozen=True)
class Band:
    """Estimates with 95 % intervals, ``(...)`` each; ``low`` and ``high`` are NaN where a stratum has one seed."""

    estimate: Scores
    low: Scores
    high: Scores


def mean_of_tasks(*strata: Scores, axis: int = -1) -> Any:
    """Return the mean over tasks of the mean over seeds; every task weighs the same, whatever its number of seeds."""
    return np.mean([stratum.mean(axis=axis) for stratum in strata], axis=0)


def interquartile_mean(*strata: Scores, axis: int = -1) -> Any:
    """Return the mean of the middle half of all scores, those of all tasks and seeds put together."""
    return stats.trim_mean(np.concatenate(strata, axis=axis), 0.25, axis=axis)


def stratified_bootstrap(strata: Sequence[Scores], statistic: Callable[..., Any]) -> Band:
    """Return ``statistic(*strata, axis=-1)`` with its percentile intervals, the same for the same scores.

    Args:
        strata: ``(..., n)``, the same but for ``n``.
        statistic: takes the strata and ``axis``, and reduces that axis.
    """
    estimate = np.asarray(statistic(*strata, axis=-1), np.float64)
    if min(stratum.shape[-1] for stratum in strata) < 2:
        none = np.full_like(estimate, math.nan)
        return Band(estimate, none, none)
    bounds = _resampled(strata, statistic).confidence_interval
    # Rounding can put a bound a hair on the wrong side of the estimate where all scores are equal.
    low, high = np.minimum(bounds.low, estimate), np.maximum(bounds.high, estimate)
    return Band(estimate, np.asarray(low), np.asarray(high))


def stratified_interval(strata: Sequence[Scores], statistic: Callable[..., Any]) -> Interval:
    """Return the same for strata ``(n,)`` as one interval, with the number of scores."""
    band = stratified_bootstrap(strata, statistic)
    count = sum(stratum.shape[-1] for stratum in strata)
    return Interval(float(band.estimate), float(band.low), float(band.high), count)


def improvement_interval(better: Sequence[Scores], worse: Sequence[Scores]) -> Interval:
    """Return P(X > Y), a run of one method against one of another on the same task, averaged over tasks.

    Per task it is the Mann-Whitney statistic U over the number of pairs: ties count half.

    Args:
        better: scores ``(n,)`` of X per task.
        worse: scores ``(m,)`` of Y per task, in the same order.
    """

    def statistic(*strata: Scores, axis: int) -> Any:
        pairs = zip(strata[: len(better)], strata[len(better) :], strict=True)
        return np.mean([_probability(x, y, axis) for x, y in pairs], axis=0)

    return stratified_interval([*better, *worse], statistic)


def first_steps(steps: npt.NDArray[np.int64], scores: Scores, threshold: float) -> Scores:
    """Return for each seed the first of ``steps`` ``(E,)`` at which its score reaches the threshold, else infinity.

    Args:
        steps: environment steps, ascending.
        scores: ``(E, n)``.
        threshold: reached by a score that is as high or higher.
    """
    reached = scores >= threshold  # (E, n)
    first = steps[np.argmax(reached, axis=0)].astype(np.float64)
    return np.where(reached.any(axis=0), first, math.inf)


def reached_by(steps: npt.NDArray[np.int64], first: Scores) -> Scores:
    """Return ``(E, n)``: 1 where a seed had reached the threshold by that step, given :func:`first_steps` ``(n,)``."""
    return (first[None, :] <= steps[:, None]).astype(np.float64)


def steps_interval(first: Scores) -> Interval:
    """Return the step by which half of the seeds had reached the threshold; infinite where half never did.

    Seeds that never did count as later than all others, so that leaving them out cannot flatter a method.
    """
    estimate = float(_half(first))
    if len(first) < 2:
        return Interval(estimate, math.nan, math.nan, len(first))
    # Bounds are steps that occurred: between a step and infinity there is nothing to interpolate.
    drawn = _resampled([np.where(np.isinf(first), _NEVER, first)], _half).bootstrap_distribution
    tail = (1 - CONFIDENCE) / 2
    bounds = np.quantile(drawn, [tail, 1 - tail], method="inverted_cdf")
    low, high = np.where(bounds == _NEVER, math.inf, bounds).tolist()
    return Interval(estimate, low, high, len(first))


_NEVER = float(2**62)
"""Stands for infinity while scipy draws: it computes a standard error too, and that of infinities warns."""


def _half(first: Scores, axis: int = -1) -> Any:
    return np.quantile(first, 0.5, axis=axis, method="inverted_cdf")


def _probability(x: Scores, y: Scores, axis: int) -> Any:
    """Return the share of pairs in which x is above y, ties counting half."""
    test = stats.mannwhitneyu(x, y, axis=axis, method="asymptotic")  # the p-value is not looked at
    return test.statistic / (x.shape[axis] * y.shape[axis])


def _resampled(strata: Sequence[Scores], statistic: Callable[..., Any]) -> Any:
    """Return scipy's result; it resamples each of several samples by itself, which is what stratified means."""
    return stats.bootstrap(
        strata,
        statistic,
        vectorized=True,
        axis=-1,
        n_resamples=RESAMPLES,
        batch=BATCH,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
