"""Intervals that cover what they claim to cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelar_ray.errors import DataError
from prelar_ray.statistics import mean_interval, success_interval


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12))
def test_the_mean_lies_in_its_interval_and_the_interval_among_the_values(values: list[float]) -> None:
    interval = mean_interval(values)
    slack = 1e-9 * max(1.0, *map(abs, values))
    assert min(values) - slack <= interval.low <= interval.estimate + slack
    assert interval.estimate - slack <= interval.high <= max(values) + slack
    assert interval.estimate == pytest.approx(sum(values) / len(values), abs=slack)


def test_the_same_values_give_the_same_interval() -> None:
    values = [1.0, 5.0, 2.0, 8.0]
    assert mean_interval(values) == mean_interval(values)


def test_the_bootstrap_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    intervals = [mean_interval(list(rng.normal(3.0, 1.0, 30))) for _ in range(200)]
    assert 0.88 <= np.mean([interval.low <= 3.0 <= interval.high for interval in intervals]) <= 0.98


def test_one_value_has_no_interval() -> None:
    interval = mean_interval([2.0])
    assert (interval.estimate, interval.count) == (2.0, 1)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert interval.format(1) == "2.0 [one value, no interval]"


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_what_cannot_be_averaged_is_refused(values: list[float]) -> None:
    with pytest.raises(DataError, match="cannot average"):
        mean_interval(values)


def test_wilson_interval_agrees_with_the_textbook() -> None:
    interval = success_interval([True] * 8 + [False] * 2)
    assert interval.format(3) == "0.800 [0.490, 0.943]"  # Wilson (1927) for 8 of 10


def test_no_success_in_ten_episodes_still_allows_a_rate_of_a_quarter() -> None:
    interval = success_interval([False] * 10)
    assert interval.estimate == interval.low == 0.0
    assert interval.high == pytest.approx(0.278, abs=0.001)


def test_no_episodes_have_no_success_rate() -> None:
    with pytest.raises(DataError, match="no episodes"):
        success_interval([])
