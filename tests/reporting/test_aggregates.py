"""Statistics over tasks and seeds, against plain loops and a bootstrap of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelar_ray.reporting import aggregates
from prelar_ray.reporting.aggregates import (
    first_steps,
    improvement_interval,
    interquartile_mean,
    mean_of_tasks,
    reached_by,
    steps_interval,
    stratified_bootstrap,
    stratified_interval,
)

Scores = npt.NDArray[np.float64]
TASKS = [np.random.default_rng(seed).random(size) for seed, size in ((0, 8), (1, 8), (2, 5))]

score_lists = st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=9), min_size=1, max_size=4)


def loop_mean(tasks: Sequence[Sequence[float]]) -> float:
    return sum(sum(scores) / len(scores) for scores in tasks) / len(tasks)


def loop_iqm(tasks: Sequence[Sequence[float]]) -> float:
    pooled = sorted(score for scores in tasks for score in scores)
    cut = len(pooled) // 4
    middle = pooled[cut : len(pooled) - cut]
    return sum(middle) / len(middle)


@given(score_lists)
def test_mean_and_interquartile_mean_are_those_of_plain_loops(tasks: list[list[float]]) -> None:
    strata = [np.array(scores) for scores in tasks]
    assert mean_of_tasks(*strata) == pytest.approx(loop_mean(tasks), abs=1e-12)
    assert interquartile_mean(*strata) == pytest.approx(loop_iqm(tasks), abs=1e-12)


def test_the_interquartile_mean_of_a_case_by_hand() -> None:
    assert interquartile_mean(np.array([0.0, 1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0, 100.0])) == 3.5


def own_bootstrap(
    tasks: Sequence[Scores], statistic: Callable[[list[Scores]], float], seed: int
) -> tuple[float, float]:
    """Draw seeds within each task, in plain numpy."""
    rng = np.random.default_rng(seed)
    drawn = [statistic([rng.choice(scores, len(scores)) for scores in tasks]) for _ in range(4000)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


@pytest.mark.parametrize(("statistic", "plain"), [(mean_of_tasks, loop_mean), (interquartile_mean, loop_iqm)])
def test_intervals_are_those_of_a_stratified_bootstrap(
    statistic: Callable[..., float], plain: Callable[..., float]
) -> None:
    interval = stratified_interval(TASKS, statistic)
    low, high = own_bootstrap(TASKS, lambda tasks: plain([list(scores) for scores in tasks]), seed=7)
    assert interval.low == pytest.approx(low, abs=0.01)
    assert interval.high == pytest.approx(high, abs=0.01)
    assert interval.count == 21


def test_seeds_are_drawn_within_their_task() -> None:
    """Tasks differ, seeds do not: other seeds would land on the same mean. Drawing from the pool would deny that."""
    interval = stratified_interval([np.zeros(5), np.ones(5)], mean_of_tasks)
    assert (interval.low, interval.estimate, interval.high) == (0.5, 0.5, 0.5)


def test_the_improvement_interval_is_that_of_a_bootstrap_of_both_sides() -> None:
    better, worse = TASKS, [scores * 0.8 for scores in reversed(TASKS)]

    def plain(tasks: list[Scores]) -> float:
        pairs = [(x[:, None], y[None, :]) for x, y in zip(tasks[:3], tasks[3:], strict=True)]
        return float(np.mean([((x > y) + 0.5 * (x == y)).mean() for x, y in pairs]))

    interval = improvement_interval(better, worse)
    assert interval.estimate == pytest.approx(plain([*better, *worse]))
    low, high = own_bootstrap([*better, *worse], plain, seed=3)
    assert interval.low == pytest.approx(low, abs=0.02)
    assert interval.high == pytest.approx(high, abs=0.02)


@settings(max_examples=10)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=6), st.lists(st.integers(0, 3), min_size=2, max_size=6))
def test_an_improvement_and_its_reverse_add_up_to_one(x: list[int], y: list[int]) -> None:
    one, other = [np.array(x, np.float64)], [np.array(y, np.float64)]
    total = improvement_interval(one, other).estimate + improvement_interval(other, one).estimate
    assert total == pytest.approx(1.0)


@pytest.mark.filterwarnings("error")
def test_scores_that_are_all_equal_have_an_interval_of_one_point() -> None:
    equal = [np.full(4, 0.1), np.full(4, 0.1)]
    for statistic in (mean_of_tasks, interquartile_mean):
        interval = stratified_interval(equal, statistic)
        assert interval.low <= interval.estimate <= interval.high
        assert interval.high - interval.low < 1e-12
    interval = improvement_interval(equal, equal)
    assert (interval.low, interval.estimate, interval.high) == (0.5, 0.5, 0.5)


@pytest.mark.filterwarnings("error")
def test_one_seed_on_a_task_allows_no_interval() -> None:
    band = stratified_bootstrap([np.random.default_rng(0).random((3, 4)), np.ones((3, 1))], mean_of_tasks)
    assert np.isfinite(band.estimate).all()
    assert np.isnan(band.low).all()
    assert np.isnan(band.high).all()
    assert math.isnan(improvement_interval([np.ones(1)], [np.ones(5)]).low)


def test_several_steps_at_once_are_the_same_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).random((4, 6))  # (E, n)
    band = stratified_bootstrap([scores], interquartile_mean)
    for step in range(4):
        alone = stratified_interval([scores[step]], interquartile_mean)
        assert (band.low[step], band.high[step]) == pytest.approx((alone.low, alone.high))
    monkeypatch.setattr(aggregates, "BATCH", 77)
    in_pieces = stratified_bootstrap([scores], interquartile_mean)
    assert in_pieces.low == pytest.approx(band.low, abs=0.02)


def test_the_same_scores_give_the_same_interval() -> None:
    assert stratified_interval(TASKS, mean_of_tasks) == stratified_interval(TASKS, mean_of_tasks)


def test_the_first_step_that_reaches_a_threshold_is_found_for_each_seed() -> None:
    steps = np.array([10, 20, 30])
    scores = np.array([[0.0, 0.5, 0.1], [0.6, 0.0, 0.2], [0.1, 0.9, 0.3]])  # a row per step, a column per seed
    assert first_steps(steps, scores, 0.5).tolist() == [20.0, 10.0, math.inf]
    assert reached_by(steps, np.array([20.0, 10.0, math.inf])).tolist() == [[0, 1, 0], [1, 1, 0], [1, 1, 0]]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("first", "half"),
    [
        ([10, 20, 30, 40], 20),  # two of four had by 20
        ([10, 20, math.inf], 20),
        ([10, math.inf], 10),
        ([10, math.inf, math.inf], math.inf),
        ([math.inf] * 3, math.inf),
        ([50, 50], 50),
    ],
)
def test_half_of_the_seeds_decide_with_those_that_never_reached_it_last(first: list[float], half: float) -> None:
    interval = steps_interval(np.array(first, np.float64))
    assert interval.estimate == half
    assert interval.low <= interval.estimate <= interval.high
    assert {interval.low, interval.high} <= {*map(float, first)}  # bounds are steps that occurred
    assert interval.count == len(first)


def test_the_interval_of_steps_is_that_of_a_bootstrap() -> None:
    first = np.array([10.0, 20.0, 30.0, 40.0, 50.0, math.inf, math.inf])
    rng = np.random.default_rng(5)
    drawn = sorted(sorted(rng.choice(first, 7))[3] for _ in range(4000))
    interval = steps_interval(first)
    assert (interval.low, interval.high) == (drawn[100], drawn[3900])


def test_one_seed_has_no_interval_of_steps() -> None:
    interval = steps_interval(np.array([20.0]))
    assert interval.estimate == 20
    assert math.isnan(interval.low)
