"""What enters a comparison: which runs, tasks and steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pandas as pd
import pytest

from prelar_ray.reporting.compare import Curve, Group, Options, compare, heat_maps, series_table, task_curves
from prelar_ray.reporting.scores import RETURN, SUCCESS, RunScores, name_series

MakeScores = Callable[..., RunScores]
TASKS = ("prelar/a", "prelar/b")


def compared(runs: Sequence[RunScores], options: Options | None = None, metric: str = SUCCESS) -> Group:
    groups = {group.metric: group for group in compare(name_series(runs), options or Options(), {})}
    return groups[metric]


def curves(runs: Sequence[RunScores]) -> list[Curve]:
    return task_curves(series_table(name_series(runs)), "prelar/point-reach", SUCCESS)


def test_tasks_are_scored_by_success_where_there_is_one(make_scores: MakeScores) -> None:
    runs = [make_scores(task="a", returns=[1]), make_scores(task="b", success=[], returns=[1])]
    assert compared(runs).tasks == ["a"]
    assert compared(runs, metric=RETURN).tasks == ["b"]
    assert compare(name_series([make_scores(success=[])]), Options(), {}) == []


def test_scores_are_those_of_finished_runs_at_the_last_step_that_all_have(make_scores: MakeScores) -> None:
    runs = [
        make_scores(seed=0, success=[0.1, 0.2, 0.3]),
        make_scores(seed=1, success=[0.3, 0.4]),
        make_scores(seed=2, success=[0.9], status="failed"),
        make_scores(seed=3, success=[], status="not begun"),
    ]
    group = compared(runs)
    assert group.at == 2000
    assert group.scores["prelar"]["prelar/point-reach"].tolist() == [0.2, 0.4]
    assert group.mean["prelar"].estimate == pytest.approx(0.3)
    assert group.mean["prelar"].count == 2


def test_at_a_chosen_step_every_run_that_came_there_counts(make_scores: MakeScores) -> None:
    runs = [
        make_scores(seed=seed, success=[0.1 * seed, 1], status=status)
        for seed, status in enumerate(("finished", "running", "failed"))
    ]
    runs.append(make_scores(seed=3, success=[], status="not begun"))
    group = compared(runs, Options(at=1000))
    assert group.scores["prelar"]["prelar/point-reach"].tolist() == pytest.approx([0.0, 0.1, 0.2])
    nothing = compared(runs, Options(at=1500))
    assert nothing.scores == {}
    assert nothing.why_no_scores == "no run was evaluated at 1500 environment steps; choose another --at STEPS"


def test_why_there_are_no_scores_is_said(make_scores: MakeScores) -> None:
    assert compared([make_scores(status="running")]).why_no_scores == "no run has finished"
    early, late = make_scores(success=[0.5]), make_scores(seed=1, scores=pd.DataFrame({SUCCESS: [0.5]}, index=[2000]))
    assert "2 finished runs were never evaluated at one step" in compared([early, late]).why_no_scores


def test_tasks_are_put_together_only_where_every_series_has_scores(make_scores: MakeScores) -> None:
    runs = [
        make_scores(method, task, success=[rate])
        for method, task, rate in (
            ("prelar", "prelar/a", 0.2),
            ("prelar", "prelar/b", 0.8),
            ("apv", "prelar/a", 0.4),
        )
    ]
    group = compared(runs)
    assert group.compared == ["prelar/a"]
    assert group.mean["prelar"].estimate == 0.2
    assert group.means["prelar"]["prelar/b"].estimate == 0.8  # single tasks keep theirs
    assert {pair: interval.estimate for pair, interval in group.improvements.items()} == {("apv", "prelar"): 1.0}


def test_a_series_without_scores_holds_no_other_back(make_scores: MakeScores) -> None:
    runs = [
        *(make_scores(task=task, success=[0.5]) for task in TASKS),
        make_scores("apv", "prelar/a", status="running"),
    ]
    group = compared(runs)
    assert group.compared == list(TASKS)
    assert list(group.mean) == ["prelar"]


def test_profiles_are_the_share_of_runs_strictly_above_each_threshold(make_scores: MakeScores) -> None:
    (profile,) = compared([make_scores(seed=s, success=[rate]) for s, rate in enumerate((0.0, 0.3, 0.6, 1.0))]).profiles
    share = dict(zip(profile.x.tolist(), profile.band.estimate.tolist(), strict=True))
    assert [share[tau] for tau in (0.0, 0.29, 0.3, 0.59, 0.6, 0.99, 1.0)] == [0.75, 0.75, 0.5, 0.5, 0.25, 0.25, 0.0]
    assert (profile.band.low <= profile.band.estimate).all()


def test_profiles_of_returns_cover_all_scores(make_scores: MakeScores) -> None:
    runs = [make_scores(seed=seed, success=[], returns=[value]) for seed, value in enumerate((-5.0, 40.0))]
    (profile,) = compared(runs, metric=RETURN).profiles
    assert (profile.x[0], profile.x[-1]) == (-5.0, 40.0)
    assert profile.band.estimate[-1] == 0.0


def test_steps_to_a_threshold_are_looked_for_up_to_the_step_compared(make_scores: MakeScores) -> None:
    runs = [
        make_scores(seed=0, success=[0.0, 0.6, 0.2]),
        make_scores(seed=1, success=[0.5, 0.0]),
        make_scores(seed=2, success=[0.0, 0.0, 0.9]),
    ]
    group = compared(runs)
    interval, reached = group.half_reached["prelar"]["prelar/point-reach"]
    assert (group.at, interval.estimate, reached) == (2000, 2000.0, 2)
    assert group.reached[0].x.tolist() == [1000.0, 2000.0]
    assert group.reached[0].band.estimate == pytest.approx([1 / 3, 2 / 3])
    assert compared(runs, Options(thresholds={SUCCESS: None})).half_reached == {}


def test_curves_are_of_finished_runs_and_the_others_are_fragments(make_scores: MakeScores) -> None:
    runs = [
        make_scores(seed=0, success=[0.0, 0.5, 1.0]),
        make_scores(seed=1, success=[0.5, 0.5]),
        make_scores(seed=2, success=[1.0], status="failed"),
    ]
    (curve,) = curves(runs)
    assert curve.x.tolist() == [1000, 2000]
    assert curve.band.estimate.tolist() == [0.25, 0.5]
    assert (curve.count, curve.of_finished) == (2, True)
    assert [scores.index.tolist() for scores in curve.fragments] == [[1000]]


def test_where_no_run_has_finished_the_curve_is_of_those_that_run(make_scores: MakeScores) -> None:
    runs = [make_scores(seed=seed, success=[0.2, 0.4], status="running") for seed in range(2)]
    (curve,) = curves(runs)
    assert not curve.of_finished
    assert curve.count == 2
    assert curve.fragments == []


def test_runs_without_a_common_step_are_drawn_one_by_one(make_scores: MakeScores) -> None:
    runs = [make_scores(seed=0), make_scores(seed=1, scores=pd.DataFrame({SUCCESS: [0.5]}, index=[1500]))]
    (curve,) = curves(runs)
    assert len(curve.x) == 0
    assert len(curve.fragments) == 2


def test_the_curve_over_tasks_is_the_mean_of_their_means_at_common_steps(make_scores: MakeScores) -> None:
    runs = [make_scores(task="prelar/a", seed=seed, success=[0.0, 0.2, 0.4]) for seed in range(2)]
    runs += [make_scores(task="prelar/b", seed=seed, success=[1.0, 1.0 - 0.2 * seed]) for seed in range(2)]
    (curve,) = compared(runs).mean_curves
    assert curve.x.tolist() == [1000, 2000]
    assert curve.band.estimate == pytest.approx([0.5, 0.55])
    assert curve.count == 4


def test_many_series_are_compared_with_the_first_only(make_scores: MakeScores) -> None:
    few = [make_scores(f"m{number}") for number in range(6)]
    many = [make_scores(f"m{number}") for number in range(9)]
    assert len(compared(few).improvements) == 15
    improvements = compared(many).improvements
    assert len(improvements) == 8
    assert all("m0" in pair for pair in improvements)


def sweep(make_scores: MakeScores, pairs: Sequence[tuple[float, float]]) -> list[RunScores]:
    return [
        make_scores(seed=seed, success=[min(1.0, row / 10 + column / 100)], labels={"x.row": row, "x.column": column})
        for row, column in pairs
        for seed in range(2)
    ]


def test_two_settings_that_vary_make_a_map_in_the_order_of_numbers(make_scores: MakeScores) -> None:
    runs = sweep(make_scores, [(10, 1), (2, 1), (2, 30), (1, 30)])
    runs += [make_scores("apv"), make_scores(labels={"x.row": 10, "x.column": 30}, status="failed")]
    (heat_map,) = heat_maps(name_series(runs), compared(runs))
    assert (heat_map.rows, heat_map.columns) == (["1", "2", "10"], ["1", "30"])
    assert (heat_map.row_key, heat_map.column_key) == ("x.row", "x.column")
    assert heat_map.counts.tolist() == [[0, 2], [2, 2], [2, 0]]
    assert heat_map.means[1].tolist() == pytest.approx([0.21, 0.5])
    assert math.isnan(heat_map.means[2, 1])  # its only run failed


@pytest.mark.parametrize("pairs", [[(1, 1)], [(1, 1), (2, 1)]])
def test_other_than_two_settings_make_no_map(make_scores: MakeScores, pairs: list[tuple[float, float]]) -> None:
    runs = sweep(make_scores, pairs)
    assert heat_maps(name_series(runs), compared(runs)) == []
