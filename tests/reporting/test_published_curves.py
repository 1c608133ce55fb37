"""Published scores: found by task, told apart by publication, as they were published, in no number of a comparison."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from prelar_ray.envs import known_tasks
from prelar_ray.extras import without
from prelar_ray.reporting.charts import series_styles
from prelar_ray.reporting.compare import Options, compare, series_table, task_curves
from prelar_ray.reporting.published_curves import (
    SOURCES,
    published_caption,
    published_means,
    published_series,
    sources_of,
)
from prelar_ray.reporting.scores import RETURN, SUCCESS, RunScores, name_series

MakeScores = Callable[..., RunScores]
SIX = [
    f"metaworld/{name}-v3"
    for name in ("lever-pull", "drawer-open", "door-lock", "button-press-topdown-wall", "reach", "dial-turn")
]
DMC = ["dmc/hopper-hop", "dmc/quadruped-walk", "dmc/quadruped-run"]
LEVER, PUSH = SIX[0], "metaworld/push-v3"
SEEDS = {
    "DreamerV2 (published, APV 2022)": 8,
    "APV (published, APV 2022)": 8,
    "DreamerV2 (published, MWM 2022)": 5,
    "MWM (published, MWM 2022)": 5,
    "TD-MPC2 (state) (published, TD-MPC2 2024)": 3,
}
PUBLISHED = resources.files("prelar_ray.reporting") / "published"


def means(method: str, file: str, step: int) -> dict[str, float]:
    """Per task of a table: the mean of a method over seeds, without this project's reader."""
    rates: dict[str, list[float]] = {}
    for row in csv.DictReader((PUBLISHED / file).read_text().splitlines()):
        if (row["method"], row["env_step"]) == (method, str(step)):
            rates.setdefault(f"metaworld/{row['task']}-v3", []).append(float(row["success_rate"]))
    return {task: sum(of) / len(of) for task, of in rates.items()}


# Which curves a task has


def test_the_curves_of_a_task_are_those_of_every_publication_by_its_name() -> None:
    for task in SIX:
        series = published_series([task])
        assert {name: len(runs) for name, runs in series.items()} == SEEDS
        assert {run.task for runs in series.values() for run in runs} == {task}
    series = published_series([PUSH])
    assert list(series) == ["DreamerV2 (published, MWM 2022)", "MWM (published, MWM 2022)"]
    series = published_series(["dmc/hopper-hop", "prelar/point-reach"])
    assert {name: len(runs) for name, runs in series.items()} == {
        "DreamerV2 (published, APV 2022)": 8,
        "APV (Locomotion) (published, APV 2022)": 8,
        "APV (Manipulation) (published, APV 2022)": 8,
        "DreamerV3 (published, DreamerV3 2024)": 10,
    }


@pytest.mark.parametrize("task", ["prelar/point-reach", "metaworld/no-such-v3", "dmc/walker-walk", ""])
def test_a_task_that_nobody_published_has_none(task: str) -> None:
    assert published_series([task]) == {}
    assert published_caption({}, task) == ""
    assert published_means([task]) is None


@pytest.mark.skipif(bool(without("dmc")), reason="DeepMind Control is not installed")
def test_every_published_task_is_one_of_this_project() -> None:
    known = set(known_tasks())
    found = {run.task for runs in published_series(known).values() for run in runs}
    assert len([task for task in found if task.startswith("metaworld/")]) == 50
    assert found.issuperset([*SIX, *DMC])
    assert len(found) == 53


def test_runs_of_one_method_in_two_publications_are_not_put_together() -> None:
    series = published_series([LEVER])
    one, other = (series[f"DreamerV2 (published, {name})"] for name in ("APV 2022", "MWM 2022"))
    assert {run.source for run in one} == {"apv_2022_metaworld_success.csv"}
    assert {run.source for run in other} == {"mwm_2022_metaworld_success.csv"}


# As they were published


def test_steps_and_scores_are_those_of_the_tables() -> None:
    for name, runs in published_series([LEVER, "dmc/hopper-hop"]).items():
        method, count = name.rpartition(" (published")[0], 0
        for run in runs:
            metric = SUCCESS if SUCCESS in run.scores else RETURN
            count += len(run.scores)
            rows = csv.DictReader((PUBLISHED / run.source).read_text().splitlines())
            expected = {
                int(row["env_step"]): float(row[metric])
                for row in rows
                if (row["method"], row["seed"]) == (method, str(run.seed)) and row["task"].replace("_", "-") in run.task
            }
            assert run.scores[metric].to_dict() == expected
        assert count


def test_long_curves_are_cut_and_not_stretched() -> None:
    whole, cut = published_series([LEVER]), published_series([LEVER], until=250_000)
    last = {name: runs[0].last_step for name, runs in cut.items()}
    assert list(last.values()) == [245_000, 245_000, 250_000, 250_000, 200_000]
    for name, runs in cut.items():
        assert runs[0].scores.equals(whole[name][0].scores.loc[: last[name]])


def test_the_tables_are_part_of_a_wheel() -> None:
    root = Path(__file__).parents[2]
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = root / "prelar_ray"
    shipped = {path for pattern in settings["package-data"]["prelar_ray"] for path in package.glob(pattern)}
    assert {path for path in (package / "reporting").rglob("*") if path.suffix in (".csv", ".html")} <= shipped
    assert {path.name for path in shipped if path.parent.name == "published" and path.suffix == ".csv"} == {*SOURCES}


# What is said of them


def test_the_caption_of_a_task_names_each_publication_with_its_protocol() -> None:
    published = published_series([LEVER, PUSH, "dmc/hopper-hop"])
    assert [of.name for of in sources_of(published, LEVER)] == ["APV 2022", "MWM 2022", "TD-MPC2 2024"]
    caption = published_caption(published, LEVER)
    for text in (
        "APV 2022: Meta-World v2, pixels, camera corner, action repeat 1, success at any step;",
        "MWM 2022: Meta-World v2, pixels, camera corner2 (moved), action repeat 2, success at any step;",
        "TD-MPC2 2024: Meta-World v2, state instead of pixels, action repeat 2, episodes of 200 steps, success at",
    ):
        assert text in caption
    assert [of.name for of in sources_of(published, PUSH)] == ["MWM 2022"]
    assert published_caption(published, "dmc/hopper-hop").count("action repeat 2") == 2
    assert sources_of(published) == list(SOURCES.values())


def test_every_source_states_simulator_repeat_and_number_of_seeds() -> None:
    for file, source in SOURCES.items():
        assert {"simulator", "env.action_repeat", "seeds"} <= source.protocol.keys()
        seeds = {row["seed"] for row in csv.DictReader((PUBLISHED / file).read_text().splitlines())}
        assert source.protocol["seeds"] == str(len(seeds))
        if source.tasks.startswith("metaworld/"):
            assert {"observation", "success rule", "episode"} <= source.protocol.keys()


def test_the_means_over_the_six_tasks_are_those_of_the_tables() -> None:
    table = published_means([*SIX, PUSH, "dmc/hopper-hop", "prelar/point-reach"])
    assert table is not None
    assert table.cells.columns.tolist() == [*SIX, "mean over 6 tasks"]
    expected = {}
    for apv, mwm, tdmpc2 in ((105_000, 110_000, 100_000), (245_000, 250_000, 200_000)):
        for name, of in SEEDS.items():
            file = next(file for file, source in SOURCES.items() if f"{source.name})" in name and "success" in file)
            step = {"APV 2022": apv, "MWM 2022": mwm}.get(SOURCES[file].name, tdmpc2)
            by_task = means(name.rpartition(" (published")[0], file, step)
            row = [by_task[task] for task in SIX]
            spaced = f"{step // 1000}\N{NARROW NO-BREAK SPACE}000"
            expected[f"{name}: {of} seeds, at {spaced}"] = [*row, sum(row) / 6]
    assert [row[0] for row in table.lines[1:]] == list(expected)
    for name, *row in table.lines[1:]:
        assert [float(text) for text in row] == pytest.approx(expected[name], abs=6e-4)
    known = ["0.304", "0.613", "0.370", "0.543", "0.756", "0.596", "0.856", "0.667", "0.803", "0.856"]
    assert [row[-1] for row in table.lines[1:]] == known


def test_the_means_of_other_tasks_are_of_the_one_table_that_has_them() -> None:
    table = published_means([PUSH])
    assert table is not None
    assert [row[0].partition(":")[0] for row in table.lines[1:]] == [
        "DreamerV2 (published, MWM 2022)",
        "MWM (published, MWM 2022)",
    ] * 2
    assert table.cells.columns.tolist() == [PUSH], "a mean over one task is that task's"


# In a comparison


def test_published_curves_are_marked_and_enter_no_number(make_scores: MakeScores) -> None:
    series, published = name_series([make_scores(task=LEVER, success=[0.25])]), published_series([LEVER])
    curves = task_curves(series_table(published), LEVER, SUCCESS, published=True)
    assert all(curve.published for curve in curves)
    assert {curve.series: curve.count for curve in curves} == SEEDS
    assert curves[0].x[[0, -1]].tolist() == [5000, 245000]
    assert task_curves(series_table(published), LEVER, RETURN) == []
    (group,) = compare(series, Options(), published)
    assert [curve.published for curve in group.mean_curves] == [False, *[True] * 5]
    assert list(group.mean) == list(group.scores) == ["prelar"]
    assert group.mean["prelar"].count == 1


def test_the_published_curve_over_tasks_needs_all_of_them(make_scores: MakeScores) -> None:
    tasks = [LEVER, PUSH]
    series = name_series([make_scores(task=task) for task in tasks])
    (group,) = compare(series, Options(), published_series(tasks, until=250_000))
    assert [curve.series for curve in group.mean_curves] == ["prelar", *published_series([PUSH])]


def test_published_curves_of_a_chart_are_told_apart_by_dashes_and_marker() -> None:
    published = published_series([*SIX, PUSH, *DMC])
    styles = series_styles([], published)
    assert len({(style.dashes, style.marker) for style in styles.values()}) == len(published) == 8
    assert all(style.dashes for style in styles.values())


def test_all_runs_of_a_published_series_have_scores() -> None:
    runs: list[RunScores] = [run for of in published_series([*SIX, *DMC]).values() for run in of]
    assert all(run.is_complete for run in runs)
