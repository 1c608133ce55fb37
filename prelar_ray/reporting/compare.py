"""Series of runs compared: curves, scores at one step, and what they amount to over tasks.

Tasks are taken in groups by what they are scored by: success where there is one, else the return. Everything that puts
tasks together is of one group, over the tasks that all of its series have scores of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from prelar_ray.reporting.aggregates import (
    Band,
    Scores,
    first_steps,
    improvement_interval,
    interquartile_mean,
    mean_of_tasks,
    reached_by,
    steps_interval,
    stratified_bootstrap,
    stratified_interval,
)
from prelar_ray.reporting.scores import (
    FINISHED,
    METRIC_NAMES,
    RETURN,
    SUCCESS,
    Series,
    score_table,
    shown,
    varying_labels,
)
from prelar_ray.statistics import Interval
from prelar_ray.wording import counted

__all__ = [
    "Curve",
    "Group",
    "HeatMap",
    "Options",
    "compare",
    "compare_group",
    "heat_maps",
    "series_table",
    "task_curves",
]

MOST_SERIES = 6
"""Up to this many series, all pairs are compared; of more, each with the first."""
PROFILE_POINTS = 101
"""Thresholds at which a performance profile is computed."""

EMPTY = Band(*(np.empty(0) for _ in range(3)))


@dataclass(frozen=True)
class Options:
    """What a reader can choose."""

    at: int | None = None
    """Environment steps at which scores are compared; None: the last step that every finished run was evaluated at."""
    thresholds: Mapping[str, float | None] = field(default_factory=lambda: {SUCCESS: 0.5, RETURN: None})
    """Per metric: the score whose first reaching is looked for, if any."""
    mix_protocols: bool = False
    published: bool = True


@dataclass(frozen=True)
class Curve:
    """Mean or another statistic of a series over environment steps, or a share of its runs over thresholds."""

    series: str
    x: npt.NDArray[Any]
    """Environment steps or thresholds, ``(E,)``."""
    band: Band
    """``(E,)`` each."""
    count: int = 0
    """Runs in it."""
    of_finished: bool = True
    """Whether these runs have finished; where none has, it is of those under way."""
    fragments: Sequence[pd.Series] = ()
    """Scores by step of runs that did not finish, as far as they came; they are not in the mean."""
    published: bool = False


@dataclass
class Group:
    """The tasks of one metric, and what was found out on them."""

    metric: str
    tasks: list[str]
    at: int | None
    threshold: float | None = None
    why_no_scores: str = ""
    scores: dict[str, dict[str, Scores]] = field(default_factory=dict)
    """Per series and task: the score of each counted run at ``at``, ``(n,)``."""
    compared: list[str] = field(default_factory=list)
    """Tasks that all series with scores have, which is what aggregates are over."""
    means: dict[str, dict[str, Interval]] = field(default_factory=dict)
    """Per series and task."""
    mean: dict[str, Interval] = field(default_factory=dict)
    iqm: dict[str, Interval] = field(default_factory=dict)
    mean_curves: list[Curve] = field(default_factory=list)
    iqm_curves: list[Curve] = field(default_factory=list)
    improvements: dict[tuple[str, str], Interval] = field(default_factory=dict)
    """P(X > Y) by X and Y, the better one named first."""
    profiles: list[Curve] = field(default_factory=list)
    half_reached: dict[str, dict[str, tuple[Interval, int]]] = field(default_factory=dict)
    """Per series and task: the step by which half of the runs reached the threshold, and how many did."""
    reached: list[Curve] = field(default_factory=list)


@dataclass(frozen=True)
class HeatMap:
    """Mean score of a method per pair of values of two settings."""

    method: str
    row_key: str
    column_key: str
    rows: list[str]
    columns: list[str]
    means: npt.NDArray[np.float64]
    """``(R, C)``, mean over tasks of means over seeds; NaN where there is no score."""
    counts: npt.NDArray[np.int64]
    """``(R, C)``, runs behind each."""


def series_table(series: Series) -> pd.DataFrame:
    """Return the tidy table of scores with the name of each row's series."""
    names = [name for name, members in series.items() for _ in members]
    table = score_table([run for members in series.values() for run in members])
    return table.assign(series=[names[position] for position in table.run])


def compare(series: Series, options: Options, published: Series) -> list[Group]:
    """Return a group for each metric that tasks are scored by: success where any run has it, else the return."""
    table = series_table(series)
    tasks: dict[str, list[str]] = {metric: [] for metric in METRIC_NAMES}
    for task, rows in table.groupby("task", sort=False):
        tasks[next(metric for metric in METRIC_NAMES if rows[metric].notna().any())].append(task)
    theirs = series_table(published)
    return [compare_group(table, metric, of, options, theirs) for metric, of in tasks.items() if of]


def task_curves(table: pd.DataFrame, task: str, metric: str, published: bool = False) -> list[Curve]:
    """Return the mean curve of each series that has scores on a task."""
    curves = []
    for name, by_task in _split(table, metric, [task]).items():
        chosen, finished = _for_curves(by_task[task])
        scores = _wide(chosen, metric).dropna()
        others = by_task[task] if scores.empty else by_task[task].drop(chosen.index)
        fragments = [of for _, of in _wide(others, metric).items()]
        band = EMPTY if scores.empty else stratified_bootstrap([_array(scores)], mean_of_tasks)
        count = chosen.run.nunique()
        curves.append(Curve(name, _steps(scores), band, count, finished, [of.dropna() for of in fragments], published))
    return curves


def compare_group(
    table: pd.DataFrame, metric: str, tasks: Sequence[str], options: Options, published: pd.DataFrame
) -> Group:
    """Return all that is said about the tasks of one metric."""
    group = Group(metric, list(tasks), options.at, options.thresholds.get(metric))
    counting = table[table.task.isin(tasks) & table[metric].notna()]
    if group.at is None:  # at a step that the reader chose, every run counts that came that far
        counting = counting[counting.status == FINISHED]
        group.at, group.why_no_scores = _last_common_step(counting, metric)
    if group.at is None:
        return group
    chosen = _split(counting[counting.run.isin(counting.run[counting.env_step == group.at])], metric, tasks)
    if not chosen:
        group.why_no_scores = f"no run was evaluated at {group.at} environment steps; choose another --at STEPS"
        return group
    for name, by_task in chosen.items():
        group.scores[name] = {task: _array(_wide(rows, metric).loc[group.at]) for task, rows in by_task.items()}
        group.means[name] = {task: stratified_interval([x], mean_of_tasks) for task, x in group.scores[name].items()}
    group.compared = [task for task in tasks if all(task in by_task for by_task in chosen.values())]
    if group.threshold is not None:
        _add_thresholds(group, chosen, group.at, group.threshold)
    if group.compared:
        _add_aggregates(group, table[table.series.isin(list(chosen))], published)
    return group


def heat_maps(series: Series, group: Group) -> list[HeatMap]:
    """Return a map for each method of which exactly two settings vary, over the tasks that are compared."""
    maps = []
    for method, keys in varying_labels(run for members in series.values() for run in members).items():
        if len(keys) != 2:
            continue
        settings = {
            name: [members[0].labels.get(key) for key in keys]
            for name, members in series.items()
            if members[0].method == method
        }
        rows, columns = (_in_order(values[axis] for values in settings.values()) for axis in (0, 1))
        means = np.full((len(rows), len(columns)), np.nan)
        counts = np.zeros(means.shape, np.int64)
        for name, (row, column) in settings.items():
            if name in group.mean and row is not None and column is not None:
                place = rows.index(shown(row)), columns.index(shown(column))
                means[place], counts[place] = group.mean[name].estimate, group.mean[name].count
        if counts.any():
            maps.append(HeatMap(method, keys[0], keys[1], rows, columns, means, counts))
    return maps


def _add_aggregates(group: Group, table: pd.DataFrame, published: pd.DataFrame) -> None:
    strata = {name: [by_task[task] for task in group.compared] for name, by_task in group.scores.items()}
    thresholds = _profile_thresholds(group.metric, strata.values())
    for name, of in strata.items():
        group.mean[name] = stratified_interval(of, mean_of_tasks)
        group.iqm[name] = stratified_interval(of, interquartile_mean)
        above = [(scores[None, :] > thresholds[:, None]).astype(np.float64) for scores in of]
        group.profiles.append(Curve(name, thresholds, stratified_bootstrap(above, mean_of_tasks)))
    first, *rest = strata
    for pair in combinations(strata, 2) if len(strata) <= MOST_SERIES else [(first, other) for other in rest]:
        # The series with the higher mean is named first, so that probabilities read from a half upwards.
        better, worse = sorted(pair, key=lambda name: group.mean[name].estimate, reverse=True)
        group.improvements[better, worse] = improvement_interval(strata[better], strata[worse])
    for rows, is_published in ((table, False), (published, True)):
        for name, by_task in _split(rows, group.metric, group.compared).items():
            if len(by_task) == len(group.compared):
                _add_curves(group, name, by_task, is_published)


def _add_curves(group: Group, name: str, by_task: Mapping[str, pd.DataFrame], published: bool) -> None:
    """Add curves over the tasks that are compared, if there are steps common to all."""
    chosen = [_for_curves(rows) for rows in by_task.values()]
    wide = [_wide(rows, group.metric).dropna() for rows, _ in chosen]
    steps = reduce(pd.Index.intersection, [scores.index for scores in wide])
    if not len(steps):
        return
    strata = [_array(scores.loc[steps]) for scores in wide]
    count, finished = sum(len(scores.columns) for scores in wide), all(finished for _, finished in chosen)
    for curves, statistic in ((group.mean_curves, mean_of_tasks), (group.iqm_curves, interquartile_mean)):
        band = stratified_bootstrap(strata, statistic)
        curves.append(Curve(name, steps.to_numpy(), band, count, finished, published=published))


def _add_thresholds(group: Group, chosen: Mapping[str, Mapping[str, pd.DataFrame]], at: int, threshold: float) -> None:
    """Look for the first step at which each counted run reached the threshold, up to the step of comparison."""
    for name, by_task in chosen.items():
        wide = {task: _wide(rows[rows.env_step <= at], group.metric) for task, rows in by_task.items()}
        first = {task: first_steps(_steps(scores), _array(scores), threshold) for task, scores in wide.items()}
        group.half_reached[name] = {
            task: (steps_interval(of), int(np.isfinite(of).sum())) for task, of in first.items()
        }
        if strata := [of for task, of in first.items() if task in group.compared]:
            steps = np.unique(np.concatenate([_steps(scores) for scores in wide.values()]))
            shares = stratified_bootstrap([reached_by(steps, of) for of in strata], mean_of_tasks)
            group.reached.append(Curve(name, steps.astype(np.float64), shares))


def _profile_thresholds(metric: str, strata: Iterable[Sequence[Scores]]) -> npt.NDArray[np.float64]:
    """Return the thresholds of a profile: from 0 to 1 for success, over the range of all scores for returns."""
    if metric == SUCCESS:
        return np.linspace(0.0, 1.0, PROFILE_POINTS)
    scores = np.concatenate([of for by_task in strata for of in by_task])
    return np.linspace(min(0.0, float(scores.min())), float(scores.max()), PROFILE_POINTS)


def _last_common_step(rows: pd.DataFrame, metric: str) -> tuple[int | None, str]:
    """Return the last step at which all runs were evaluated, or why there is none."""
    if rows.empty:
        return None, "no run has finished"
    common = _wide(rows, metric).dropna().index
    if not len(common):
        runs = counted(rows.run.nunique(), "finished run")
        return None, f"{runs} were never evaluated at one step; choose one with --at"
    return int(common[-1]), ""


def _split(table: pd.DataFrame, metric: str, tasks: Sequence[str]) -> dict[str, dict[str, pd.DataFrame]]:
    """Return the rows that have a score, by series and, in the order given, by task."""
    parts = dict(iter(table.dropna(subset=[metric]).groupby(["series", "task"], sort=False)))
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for name in table.series.unique():
        if by_task := {task: parts[name, task] for task in tasks if (name, task) in parts}:
            found[name] = by_task
    return found


def _for_curves(rows: pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """Return the rows of runs that finished or, where none has, all; and which of the two."""
    finished = rows[rows.status == FINISHED]
    return (rows, False) if finished.empty else (finished, True)


def _wide(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return a row per environment step and a column per run, by seed; NaN where a run was not evaluated."""
    return rows.pivot(index="env_step", columns=["seed", "run"], values=metric)


def _array(scores: Any) -> Scores:
    return np.ascontiguousarray(scores.to_numpy(np.float64))


def _steps(scores: pd.DataFrame) -> npt.NDArray[np.int64]:
    return np.asarray(scores.index, np.int64)


def _in_order(values: Iterable[object]) -> list[str]:
    """Return distinct values as text: numbers by size, anything else in the order it came."""
    found = {shown(value): value for value in values if value is not None}
    numbers = {text: value for text, value in found.items() if isinstance(value, int | float)}
    return sorted(found, key=lambda text: numbers[text]) if len(numbers) == len(found) else list(found)
