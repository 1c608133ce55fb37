"""What enters a comparison: which runs, tasks and steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from prelar_ray.reporting.comparison import Group, Options, compare_group, group_tasks, task_curves
from prelar_ray.reporting.heat_maps import heat_maps
from prelar_ray.reporting.trials import RETURN, SUCCESS, Trial, name_series

MakeTrial = Callable[..., Trial]
TASKS = ("prelar/a", "prelar/b")


def compared(trials: Sequence[Trial], options: Options | None = None, metric: str = SUCCESS) -> Group:
    series = name_series(trials)
    return compare_group(series, metric, group_tasks(series)[metric], options or Options(), {})


def test_tasks_are_scored_by_success_where_there_is_one(make_trial: MakeTrial) -> None:
    trials = [make_trial(task="a", returns=[1]), make_trial(task="b", success=[], returns=[1])]
    assert group_tasks(name_series(trials)) == {SUCCESS: ["a"], RETURN: ["b"]}
    assert group_tasks(name_series([make_trial(success=[])])) == {}


def test_scores_are_those_of_finished_runs_at_the_last_step_that_all_have(make_trial: MakeTrial) -> None:
    trials = [
        make_trial(seed=0, success=[0.1, 0.2, 0.3]),
        make_trial(seed=1, success=[0.3, 0.4]),
        make_trial(seed=2, success=[0.9], status="failed"),
        make_trial(seed=3, success=[], status="not begun"),
    ]
    group = compared(trials)
    assert group.at == 2000
    assert group.scores["prelar"]["prelar/point-reach"].tolist() == [0.2, 0.4]
    assert group.mean["prelar"].estimate == pytest.approx(0.3)
    assert group.mean["prelar"].count == 2


def test_at_a_chosen_step_every_run_that_came_there_counts(make_trial: MakeTrial) -> None:
    trials = [
        make_trial(seed=seed, success=[0.1 * seed, 1], status=status)
        for seed, status in enumerate(("finished", "running", "failed"))
    ]
    trials.append(make_trial(seed=3, success=[], status="not begun"))
    group = compared(trials, Options(at=1000))
    assert group.scores["prelar"]["prelar/point-reach"].tolist() == pytest.approx([0.0, 0.1, 0.2])
    nothing = compared(trials, Options(at=1500))
    assert nothing.scores == {}
    assert nothing.why_no_scores == "no run was evaluated at 1500 environment steps; choose another --at STEPS"


def test_why_there_are_no_scores_is_said(make_trial: MakeTrial) -> None:
    assert compared([make_trial(status="running")]).why_no_scores == "no run has finished"
    early, late = make_trial(success=[0.5]), make_trial(seed=1, success=[math.nan, 0.5])
    steps, values = late.scores[SUCCESS]
    late = make_trial(seed=1, **{"scores": {SUCCESS: (steps[1:], values[1:])}})
    assert "2 finished runs were never evaluated at one step" in compared([early, late]).why_no_scores


def test_tasks_are_put_together_only_where_every_series_has_scores(make_trial: MakeTrial) -> None:
    trials = [
        make_trial(method, task, success=[rate])
        for method, task, rate in (
            ("prelar", "prelar/a", 0.2),
            ("prelar", "prelar/b", 0.8),
            ("apv", "prelar/a", 0.4),
        )
    ]
    group = compared(trials)
    assert group.compared == ["prelar/a"]
    assert group.mean["prelar"].estimate == 0.2
    assert group.means["prelar"]["prelar/b"].estimate == 0.8  # single tasks keep theirs
    assert (group.improvements[0].better, group.improvements[0].worse) == ("apv", "prelar")
    assert group.improvements[0].probability.estimate == 1.0


def test_a_series_without_scores_holds_no_other_back(make_trial: MakeTrial) -> None:
    trials = [
        *(make_trial(task=task, success=[0.5]) for task in TASKS),
        make_trial("apv", "prelar/a", status="running"),
    ]
    group = compared(trials)
    assert group.compared == list(TASKS)
    assert list(group.mean) == ["prelar"]


def test_profiles_are_the_share_of_runs_strictly_above_each_threshold(make_trial: MakeTrial) -> None:
    (profile,) = compared([make_trial(seed=s, success=[rate]) for s, rate in enumerate((0.0, 0.3, 0.6, 1.0))]).profiles
    share = dict(zip(profile.at.tolist(), profile.band.estimate.tolist(), strict=True))
    assert [share[tau] for tau in (0.0, 0.29, 0.3, 0.59, 0.6, 0.99, 1.0)] == [0.75, 0.75, 0.5, 0.5, 0.25, 0.25, 0.0]
    assert (profile.band.low <= profile.band.estimate).all()


def test_profiles_of_returns_cover_all_scores(make_trial: MakeTrial) -> None:
    trials = [make_trial(seed=seed, success=[], returns=[value]) for seed, value in enumerate((-5.0, 40.0))]
    (profile,) = compared(trials, metric=RETURN).profiles
    assert (profile.at[0], profile.at[-1]) == (-5.0, 40.0)
    assert profile.band.estimate[-1] == 0.0


def test_steps_to_a_threshold_are_looked_for_up_to_the_step_compared(make_trial: MakeTrial) -> None:
    trials = [
        make_trial(seed=0, success=[0.0, 0.6, 0.2]),
        make_trial(seed=1, success=[0.5, 0.0]),
        make_trial(seed=2, success=[0.0, 0.0, 0.9]),
    ]
    group = compared(trials)
    interval, reached = group.half_reached["prelar"]["prelar/point-reach"]
    assert (group.at, interval.estimate, reached) == (2000, 2000.0, 2)
    assert group.reached[0].at.tolist() == [1000.0, 2000.0]
    assert group.reached[0].band.estimate == pytest.approx([1 / 3, 2 / 3])
    assert compared(trials, Options(thresholds={SUCCESS: None})).half_reached == {}


def test_curves_are_of_finished_runs_and_the_others_are_fragments(make_trial: MakeTrial) -> None:
    trials = [
        make_trial(seed=0, success=[0.0, 0.5, 1.0]),
        make_trial(seed=1, success=[0.5, 0.5]),
        make_trial(seed=2, success=[1.0], status="failed"),
    ]
    (curve,) = task_curves(name_series(trials), "prelar/point-reach", SUCCESS)
    assert curve.steps.tolist() == [1000, 2000]
    assert curve.band.estimate.tolist() == [0.25, 0.5]
    assert (curve.count, curve.of_finished) == (2, True)
    assert [points[0].tolist() for points in curve.fragments] == [[1000]]


def test_where_no_run_has_finished_the_curve_is_of_those_that_go_on(make_trial: MakeTrial) -> None:
    trials = [make_trial(seed=seed, success=[0.2, 0.4], status="running") for seed in range(2)]
    (curve,) = task_curves(name_series(trials), "prelar/point-reach", SUCCESS)
    assert not curve.of_finished
    assert curve.count == 2
    assert curve.fragments == []


def test_runs_without_a_common_step_are_drawn_one_by_one(make_trial: MakeTrial) -> None:
    late = {SUCCESS: (np.array([1500]), np.array([0.5]))}
    trials = [make_trial(seed=0), make_trial(seed=1, scores=late)]
    (curve,) = task_curves(name_series(trials), "prelar/point-reach", SUCCESS)
    assert len(curve.steps) == 0
    assert len(curve.fragments) == 2


def test_the_curve_over_tasks_is_the_mean_of_their_means_at_common_steps(make_trial: MakeTrial) -> None:
    trials = [make_trial(task="prelar/a", seed=seed, success=[0.0, 0.2, 0.4]) for seed in range(2)]
    trials += [make_trial(task="prelar/b", seed=seed, success=[1.0, 1.0 - 0.2 * seed]) for seed in range(2)]
    (curve,) = compared(trials).mean_curves
    assert curve.steps.tolist() == [1000, 2000]
    assert curve.band.estimate == pytest.approx([0.5, 0.55])
    assert curve.count == 4


def test_many_series_are_compared_with_the_first_only(make_trial: MakeTrial) -> None:
    few = [make_trial(f"m{number}") for number in range(6)]
    many = [make_trial(f"m{number}") for number in range(9)]
    assert len(compared(few).improvements) == 15
    improvements = compared(many).improvements
    assert len(improvements) == 8
    assert all("m0" in (pair.better, pair.worse) for pair in improvements)


def sweep(make_trial: MakeTrial, pairs: Sequence[tuple[float, float]]) -> list[Trial]:
    return [
        make_trial(seed=seed, success=[min(1.0, row / 10 + column / 100)], labels={"x.row": row, "x.column": column})
        for row, column in pairs
        for seed in range(2)
    ]


def test_two_settings_that_vary_make_a_map_in_the_order_of_numbers(make_trial: MakeTrial) -> None:
    trials = sweep(make_trial, [(10, 1), (2, 1), (2, 30), (1, 30)])
    trials += [make_trial("apv"), make_trial(labels={"x.row": 10, "x.column": 30}, status="failed")]
    (heat_map,) = heat_maps(name_series(trials), compared(trials))
    assert (heat_map.rows, heat_map.columns) == (["1", "2", "10"], ["1", "30"])
    assert (heat_map.row_key, heat_map.column_key) == ("x.row", "x.column")
    assert heat_map.counts.tolist() == [[0, 2], [2, 2], [2, 0]]
    assert heat_map.means[1].tolist() == pytest.approx([0.21, 0.5])
    assert math.isnan(heat_map.means[2, 1])  # its only run failed


@pytest.mark.parametrize("pairs", [[(1, 1)], [(1, 1), (2, 1)]])
def test_other_than_two_settings_make_no_map(make_trial: MakeTrial, pairs: list[tuple[float, float]]) -> None:
    trials = sweep(make_trial, pairs)
    assert heat_maps(name_series(trials), compared(trials)) == []
