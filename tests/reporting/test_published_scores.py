"""The published curves that come with the package."""

from __future__ import annotations

from pathlib import Path

from prelar_ray.reporting import published_scores
from prelar_ray.reporting.comparison import Options, compare_group, task_curves
from prelar_ray.reporting.published_scores import published_series
from prelar_ray.reporting.trials import RETURN, SUCCESS, name_series


def test_tasks_are_found_by_this_project_s_names() -> None:
    series = published_series(["metaworld/lever-pull-v3", "dmc/hopper-hop", "prelar/point-reach"])
    assert {name: {trial.task for trial in trials} for name, trials in series.items()} == {
        "DreamerV2 (published, MuJoCo 2.0)": {"metaworld/lever-pull-v3"},
        "APV (published, MuJoCo 2.0)": {"metaworld/lever-pull-v3"},
        "DreamerV2 (published, simulator version not stated)": {"dmc/hopper-hop"},
        "APV (Locomotion) (published, simulator version not stated)": {"dmc/hopper-hop"},
        "APV (Manipulation) (published, simulator version not stated)": {"dmc/hopper-hop"},
    }
    assert {len(trials) for trials in series.values()} == {8}
    assert published_series(["prelar/point-reach"]) == {}


def test_all_published_tasks_have_a_name_here() -> None:
    tasks = {trial.task for table in published_scores.TABLES for trial in published_scores._trials(table)}
    assert tasks == {
        *(f"metaworld/{name}-v3" for name in ("lever-pull", "drawer-open", "door-lock", "reach", "dial-turn")),
        "metaworld/button-press-topdown-wall-v3",
        *("dmc/hopper-hop", "dmc/quadruped-walk", "dmc/quadruped-run"),
    }


def test_published_curves_are_marked_and_enter_no_number(make_trial) -> None:
    task = "metaworld/lever-pull-v3"
    series, published = name_series([make_trial(task=task, success=[0.25])]), published_series([task])
    curves = task_curves(published, task, SUCCESS, published=True)
    assert all(curve.published and curve.count == 8 for curve in curves)
    assert curves[0].steps[[0, -1]].tolist() == [5000, 245000]
    assert task_curves(published, task, RETURN) == []
    group = compare_group(series, SUCCESS, [task], Options(), published)
    assert [curve.published for curve in group.mean_curves] == [False, True, True]
    assert list(group.mean) == list(group.scores) == ["prelar"]
    assert group.mean["prelar"].count == 1


def test_the_published_curve_over_tasks_needs_all_of_them(make_trial) -> None:
    tasks = ["metaworld/lever-pull-v3", "metaworld/push-v3"]
    series = name_series([make_trial(task=task) for task in tasks])
    group = compare_group(series, SUCCESS, tasks, Options(), published_series(tasks))
    assert [curve.published for curve in group.mean_curves] == [False]


def test_the_tables_are_part_of_a_wheel() -> None:
    import tomllib

    root = Path(__file__).parents[2]
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = root / "prelar_ray"
    shipped = {path for pattern in settings["package-data"]["prelar_ray"] for path in package.glob(pattern)}
    assert {path for path in (package / "reporting").rglob("*") if path.suffix in (".csv", ".html")} <= shipped
