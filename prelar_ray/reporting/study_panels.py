"""Which charts a comparison is shown in, with what each says and the file it goes to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prelar_ray.reporting.comparison import Group, task_curves
from prelar_ray.reporting.drawing import Chart
from prelar_ray.reporting.heat_maps import heat_maps
from prelar_ray.reporting.notes import spaced
from prelar_ray.reporting.study_figures import (
    MOST_BANDS,
    Style,
    curves_chart,
    heat_map_chart,
    improvement_chart,
    profiles_chart,
    reached_chart,
    scores_chart,
    series_styles,
)
from prelar_ray.reporting.trials import METRICS, RETURN, SUCCESS, Trial
from prelar_ray.wording import counted

__all__ = ["ChartPanel", "PanelSection", "study_panels"]

Series = Mapping[str, Sequence[Trial]]

BARS = "Bars: 95\N{NO-BREAK SPACE}% intervals."


@dataclass(frozen=True)
class ChartPanel:
    """A chart with its caption, and the name of its files without suffix."""

    chart: Chart
    name: str
    meaning: str
    file: str


@dataclass
class PanelSection:
    """Charts under one heading."""

    heading: str
    introduction: str = ""
    panels: list[ChartPanel] = field(default_factory=list)


def study_panels(series: Series, groups: Sequence[Group], published: Series) -> list[PanelSection]:
    """Return the charts of a comparison in the order of the page; sections without a chart are left out."""
    styles = series_styles(series, published)
    sections = []
    for group in groups:
        sections += [_over_tasks(group, styles), _settings(series, group)]
    sections += [_per_task(series, groups, published, styles, metric) for metric in METRICS]
    return [section for section in sections if section.panels]


def _over_tasks(group: Group, styles: Mapping[str, Style]) -> PanelSection:
    label, success = METRICS[group.metric], group.metric == SUCCESS
    section = PanelSection(f"{label.capitalize()} over {counted(len(group.compared), 'task')}")
    if group.at is None or not group.compared:
        return section
    tasks = ", ".join(group.compared)
    section.introduction = f"Tasks: {tasks}. Scores at {spaced(group.at)} environment steps."
    if not success:
        section.introduction += " Returns are put together as they are, so tasks with higher returns weigh more."

    def add(chart: Chart, name: str, meaning: str, file: str) -> None:
        section.panels.append(ChartPanel(chart, name, meaning, f"{file}-{_short(group.metric)}"))

    bands = _bands(len(group.scores))
    mean, iqm = f"mean {label}", f"IQM of {label}"
    add(
        scores_chart(group.mean, styles, mean, success),
        "Mean",
        f"Every task weighs the same. {BARS}",
        "mean",
    )
    add(
        scores_chart(group.iqm, styles, iqm, success),
        "Interquartile mean",
        f"Mean of the middle half of all runs: lucky and unlucky ones count less. {BARS}",
        "iqm",
    )
    for curves, axis, name, file in (
        (group.mean_curves, mean, "Mean over environment steps", "curve-mean"),
        (group.iqm_curves, iqm, "Interquartile mean over environment steps", "curve-iqm"),
    ):
        if curves:
            add(curves_chart(curves, styles, axis, success), name, bands, file)
    if group.improvements:
        add(
            improvement_chart(group.improvements, styles),
            "Probability of improvement",
            "That a run of one beats a run of the other on the same task, ties counting half, mean over tasks. "
            f"{BARS} One that holds 0.5 shows no difference.",
            "improvement",
        )
    if group.profiles:
        add(
            profiles_chart(group.profiles, styles, label),
            "Performance profile",
            f"Share of runs that score above τ: higher is better, everywhere if curves do not cross. {bands}",
            "profile",
        )
    if group.reached and group.threshold is not None:
        add(
            reached_chart(group.reached, styles, group.threshold),
            "Sample efficiency",
            f"Share of runs whose {label} had reached {group.threshold:g} at least once. {bands}",
            "reached",
        )
    return section


def _settings(series: Series, group: Group) -> PanelSection:
    label = METRICS[group.metric]
    section = PanelSection(f"{label.capitalize()} over two settings")
    for heat_map in heat_maps(series, group):
        section.panels.append(
            ChartPanel(
                heat_map_chart(heat_map, f"mean {label}", group.metric == SUCCESS),
                heat_map.method,
                f"Mean {label} at {spaced(group.at or 0)} environment steps over tasks and seeds; n runs in each cell.",
                f"heat-map-{_file(heat_map.method)}-{_short(group.metric)}",
            )
        )
    return section


def _per_task(
    series: Series, groups: Sequence[Group], published: Series, styles: Mapping[str, Style], metric: str
) -> PanelSection:
    """Return a chart per task that has this score: returns too where success is what runs are compared by."""
    label = METRICS[metric]
    section = PanelSection(f"{label.capitalize()} per task")
    for task in (task for group in groups for task in group.tasks):
        own, theirs = task_curves(series, task, metric), task_curves(published, task, metric, published=True)
        if own:
            counts = sorted({curve.count for curve in own})
            seeds = f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else counted(counts[0], "seed")
            meaning = f"Mean over {seeds}. {_bands(len(own)) if counts[-1] > 1 else 'One seed: no interval.'}"
            chart = curves_chart([*own, *theirs], styles, label, metric == SUCCESS)
            section.panels.append(ChartPanel(chart, task, meaning, f"{_short(metric)}-{_file(task)}"))
    return section


def _bands(series: int) -> str:
    if series > MOST_BANDS:
        return f"Without bands, of more than {MOST_BANDS} series: the tables have the intervals."
    return "Bands: 95\N{NO-BREAK SPACE}% intervals."


def _short(metric: str) -> str:
    return {SUCCESS: "success", RETURN: "return"}[metric]


def _file(name: str) -> str:
    """Return a name that every file system takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or "unnamed"
