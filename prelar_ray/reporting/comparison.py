"""Series of runs compared: curves, scores at one step, and what they amount to over tasks.

Tasks are taken in groups by what they are scored by: success where there is one, else the return. Everything that puts
tasks together is of one group, over the tasks that all of its series have scores of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

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
from prelar_ray.reporting.trials import METRICS, RETURN, SUCCESS, Points, Trial
from prelar_ray.statistics import Interval
from prelar_ray.wording import counted

__all__ = ["Curve", "Group", "Improvement", "Options", "Profile", "compare_group", "group_tasks", "task_curves"]

MOST_SERIES = 6
"""Up to this many series, all pairs are compared; of more, each with the first."""
PROFILE_POINTS = 101
"""Thresholds at which a performance profile is computed."""

EMPTY = Band(*(np.empty(0) for _ in range(3)))

Series = Mapping[str, Sequence[Trial]]
"""Trials by the name of their series."""
ByTask = Mapping[str, Mapping[str, Sequence[Trial]]]
"""Trials by series and task."""


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
    """Mean (or another statistic) of a series over environment steps."""

    series: str
    steps: npt.NDArray[np.int64]
    band: Band
    """``(E,)`` each."""
    count: int
    """Runs in it."""
    of_finished: bool = True
    """Whether these runs have finished; where none has, it is of those that go on."""
    fragments: Sequence[Points] = ()
    """Runs that did not finish, as far as they came; they are not in the mean."""
    published: bool = False


@dataclass(frozen=True)
class Improvement:
    """P(X > Y) of two series, the better one named first."""

    better: str
    worse: str
    probability: Interval


@dataclass(frozen=True)
class Profile:
    """Share of a series' runs that score above each threshold, or that reached one by each step."""

    series: str
    at: npt.NDArray[np.float64]
    """Thresholds, or environment steps."""
    band: Band


@dataclass
class Group:
    """The tasks of one metric, and what was found out on them."""

    metric: str
    tasks: list[str]
    at: int | None
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
    improvements: list[Improvement] = field(default_factory=list)
    profiles: list[Profile] = field(default_factory=list)
    threshold: float | None = None
    half_reached: dict[str, dict[str, tuple[Interval, int]]] = field(default_factory=dict)
    """Per series and task: the step by which half of the runs reached the threshold, and how many did."""
    reached: list[Profile] = field(default_factory=list)


def group_tasks(series: Series) -> dict[str, list[str]]:
    """Return per metric the tasks that are scored by it: success where any run has it, else the return."""
    metrics: dict[str, set[str]] = {}
    for trial in (trial for trials in series.values() for trial in trials):
        if trial.scores:
            metrics.setdefault(trial.task, set()).update(trial.scores)
    groups: dict[str, list[str]] = {}
    for task, has in metrics.items():
        groups.setdefault(next(metric for metric in METRICS if metric in has), []).append(task)
    return {metric: groups[metric] for metric in METRICS if metric in groups}


def task_curves(series: Series, task: str, metric: str, published: bool = False) -> list[Curve]:
    """Return the mean curve of each series that has scores on a task."""
    curves = []
    for name, trials in series.items():
        of_task = _of_task(trials, task, metric)
        if not of_task:
            continue
        chosen, finished = _for_curves(of_task)
        steps, scores = _common(chosen, metric)
        fragments = [trial.scores[metric] for trial in of_task if trial not in chosen or not len(steps)]
        band = stratified_bootstrap([scores], mean_of_tasks) if len(steps) else EMPTY
        curves.append(Curve(name, steps, band, len(chosen), finished, fragments, published))
    return curves


def compare_group(series: Series, metric: str, tasks: Sequence[str], options: Options, published: Series) -> Group:
    """Return all that is said about the tasks of one metric."""
    group = Group(metric, list(tasks), options.at, threshold=options.thresholds.get(metric))
    counting = {
        name: {task: [trial for trial in _of_task(trials, task, metric) if _counts(trial, options)] for task in tasks}
        for name, trials in series.items()
    }
    if group.at is None:
        group.at, group.why_no_scores = _last_common_step(counting, metric)
    if group.at is None:
        return group
    chosen = _scored_at(counting, metric, group.at)
    if not chosen:
        group.why_no_scores = f"no run was evaluated at {group.at} environment steps; choose another --at STEPS"
        return group
    for name, by_task in chosen.items():
        group.scores[name] = {task: _scores_at(trials, metric, group.at) for task, trials in by_task.items()}
        group.means[name] = {task: stratified_interval([x], mean_of_tasks) for task, x in group.scores[name].items()}
    group.compared = [task for task in tasks if all(task in by_task for by_task in chosen.values())]
    if group.threshold is not None:
        _add_thresholds(group, chosen, group.threshold)
    if group.compared:
        _add_aggregates(group, series, published)
    return group


def _add_aggregates(group: Group, series: Series, published: Series) -> None:
    strata = {name: [by_task[task] for task in group.compared] for name, by_task in group.scores.items()}
    for name, of in strata.items():
        group.mean[name] = stratified_interval(of, mean_of_tasks)
        group.iqm[name] = stratified_interval(of, interquartile_mean)
    group.improvements = [_improvement(group, strata, *pair) for pair in _pairs(list(strata))]
    thresholds = _profile_thresholds(group.metric, strata)
    for name, of in strata.items():
        above = [(scores[None, :] > thresholds[:, None]).astype(np.float64) for scores in of]
        group.profiles.append(Profile(name, thresholds, stratified_bootstrap(above, mean_of_tasks)))
    own = {name: trials for name, trials in series.items() if name in strata}
    for statistic, curves in ((mean_of_tasks, group.mean_curves), (interquartile_mean, group.iqm_curves)):
        for some, is_published in ((own, False), (published, True)):
            for name, trials in some.items():
                if curve := _aggregate_curve(name, trials, group, statistic, is_published):
                    curves.append(curve)


def _aggregate_curve(
    name: str, trials: Sequence[Trial], group: Group, statistic: Callable[..., Any], published: bool
) -> Curve | None:
    """Return the curve over the tasks that are compared; None where a task has no runs or no step is common to all."""
    metric, by_task = group.metric, [_of_task(trials, task, group.metric) for task in group.compared]
    if not all(by_task):
        return None
    chosen = [_for_curves(of_task) for of_task in by_task]
    steps = reduce(np.intersect1d, [_common(of, metric)[0] for of, _ in chosen])
    if not len(steps):
        return None
    band = stratified_bootstrap([_common(of, metric, steps)[1] for of, _ in chosen], statistic)
    count, finished = sum(len(of) for of, _ in chosen), all(finished for _, finished in chosen)
    return Curve(name, steps, band, count, finished, published=published)


def _add_thresholds(group: Group, chosen: ByTask, threshold: float) -> None:
    """Look for the first step at which each counted run reached the threshold, up to the step of comparison."""
    assert group.at is not None
    for name, by_task in chosen.items():
        strata = []
        for task, trials in by_task.items():
            first = np.concatenate([_first_step(trial, group.metric, group.at, threshold) for trial in trials])
            reached = int(np.isfinite(first).sum())
            group.half_reached.setdefault(name, {})[task] = (steps_interval(first), reached)
            if task in group.compared:
                strata.append(first)
        if strata:
            steps = np.unique(np.concatenate([t.scores[group.metric][0] for of in by_task.values() for t in of]))
            steps = steps[steps <= group.at]
            shares = stratified_bootstrap([reached_by(steps, first) for first in strata], mean_of_tasks)
            group.reached.append(Profile(name, steps.astype(np.float64), shares))


def _first_step(trial: Trial, metric: str, at: int, threshold: float) -> Scores:
    steps, scores = trial.scores[metric]
    within = steps <= at
    return first_steps(steps[within], scores[within, None], threshold)


def _improvement(group: Group, strata: Mapping[str, Sequence[Scores]], one: str, other: str) -> Improvement:
    """Name the series with the higher mean first, so that probabilities read from a half upwards."""
    if group.mean[one].estimate < group.mean[other].estimate:
        one, other = other, one
    return Improvement(one, other, improvement_interval(strata[one], strata[other]))


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    if len(names) <= MOST_SERIES:
        return list(combinations(names, 2))
    return [(names[0], other) for other in names[1:]]


def _profile_thresholds(metric: str, strata: Mapping[str, Sequence[Scores]]) -> npt.NDArray[np.float64]:
    """Return the thresholds of a profile: from 0 to 1 for success, over the range of all scores for returns."""
    if metric == SUCCESS:
        return np.linspace(0.0, 1.0, PROFILE_POINTS)
    scores = np.concatenate([of for by_task in strata.values() for of in by_task])
    return np.linspace(min(0.0, float(scores.min())), float(scores.max()), PROFILE_POINTS)


def _of_task(trials: Iterable[Trial], task: str, metric: str) -> list[Trial]:
    """Return the runs on a task that have scores, by seed."""
    return sorted((t for t in trials if t.task == task and metric in t.scores), key=lambda trial: trial.seed)


def _counts(trial: Trial, options: Options) -> bool:
    """Whether a run is compared: one that finished or, at a step that the reader chose, one that came that far."""
    return trial.is_complete or options.at is not None


def _last_common_step(trials: ByTask, metric: str) -> tuple[int | None, str]:
    """Return the last step at which all trials were evaluated, or why there is none."""
    steps = [trial.scores[metric][0] for by_task in trials.values() for of in by_task.values() for trial in of]
    if not steps:
        return None, "no run has finished"
    common = reduce(np.intersect1d, steps)
    if not len(common):
        return None, f"{counted(len(steps), 'finished run')} were never evaluated at one step; choose one with --at"
    return int(common[-1]), ""


def _scored_at(trials: ByTask, metric: str, at: int) -> dict[str, dict[str, list[Trial]]]:
    """Leave only the trials that were evaluated at a step, and what is not empty then."""
    chosen: dict[str, dict[str, list[Trial]]] = {}
    for name, by_task in trials.items():
        for task, of_task in by_task.items():
            if scored := [trial for trial in of_task if trial.score_at(metric, at) is not None]:
                chosen.setdefault(name, {})[task] = scored
    return chosen


def _scores_at(trials: Iterable[Trial], metric: str, at: int) -> Scores:
    return np.array([trial.score_at(metric, at) for trial in trials], np.float64)


def _for_curves(of_task: Sequence[Trial]) -> tuple[Sequence[Trial], bool]:
    """Return those that finished or, where none has, all; and which of the two."""
    finished = [trial for trial in of_task if trial.is_complete]
    return (finished, True) if finished else (of_task, False)


def _common(
    trials: Sequence[Trial], metric: str, steps: npt.NDArray[np.int64] | None = None
) -> tuple[npt.NDArray[np.int64], Scores]:
    """Return the steps at which all trials were evaluated ``(E,)``, and their scores ``(E, n)``."""
    if steps is None:
        steps = reduce(np.intersect1d, [trial.scores[metric][0] for trial in trials])
    columns = [points[1][np.isin(points[0], steps)] for points in (trial.scores[metric] for trial in trials)]
    return steps, np.stack(columns, axis=-1)
