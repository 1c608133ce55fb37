"""Means and success rates with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from prelar_ray.errors import DataError

__all__ = ["CONFIDENCE", "Interval", "mean_interval", "success_interval"]

CONFIDENCE = 0.95
"""Coverage that all intervals aim at."""


@dataclass(frozen=True)
class Interval:
    """An estimate from ``count`` values; ``low`` and ``high`` are NaN where one value allows no interval."""

    estimate: float
    low: float
    high: float
    count: int

    def format(self, digits: int) -> str:
        """Return for example ``12.3 [9.8, 14.1]``."""
        if math.isnan(self.low):
            return f"{self.estimate:.{digits}f} [one value, no interval]"
        return f"{self.estimate:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean with its percentile-bootstrap interval; equal values give an equal interval.

    Below some 20 values such intervals are a little too narrow.

    Raises:
        DataError: no values, or one is NaN or infinite.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0 or not np.isfinite(data).all():
        raise DataError(f"cannot average {data.size} values: expected at least one, and all of them finite")
    mean = float(data.mean())
    if data.size == 1:
        return Interval(mean, math.nan, math.nan, 1)
    result = stats.bootstrap(
        (data,), np.mean, confidence_level=CONFIDENCE, method="percentile", rng=np.random.default_rng(0)
    )
    return Interval(mean, float(result.confidence_interval.low), float(result.confidence_interval.high), data.size)


def success_interval(successes: Sequence[bool]) -> Interval:
    """Return the success rate with Wilson's interval, which is sound for few episodes and for rates of 0 and 1.

    Raises:
        DataError: no episodes.
    """
    if len(successes) == 0:
        raise DataError("cannot compute a success rate of no episodes")
    test = stats.binomtest(sum(map(bool, successes)), len(successes))
    interval = test.proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return Interval(float(test.statistic), float(interval.low), float(interval.high), len(successes))
