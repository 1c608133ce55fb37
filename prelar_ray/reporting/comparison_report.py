"""Studies, tables of scores and run folders to one report: a page, its figures and its tables as files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prelar_ray.errors import DataError
from prelar_ray.reporting.charts import (
    MOST_BANDS,
    Style,
    curves_chart,
    heat_map_chart,
    intervals_chart,
    series_styles,
    shares_chart,
)
from prelar_ray.reporting.compare import Curve, Group, Options, compare, heat_maps, series_table, task_curves
from prelar_ray.reporting.drawing import AXIS_LABELS
from prelar_ray.reporting.formats import spaced, steps_text
from prelar_ray.reporting.notes import comparison_notes
from prelar_ray.reporting.pages import Panel, alike, machines, write_page
from prelar_ray.reporting.protocols import check_protocols, protocols_by_task
from prelar_ray.reporting.published_curves import (
    LENGTH,
    published_caption,
    published_means,
    published_series,
    sources_of,
)
from prelar_ray.reporting.read import Study, read_scores_of, read_study
from prelar_ray.reporting.scores import (
    FINISHED,
    METRIC_NAMES,
    SUCCESS,
    RunScores,
    Series,
    name_series,
    read_scores,
    write_scores,
)
from prelar_ray.reporting.tables import cost_table, latex, markdown, score_texts, summary_csv, total_costs
from prelar_ray.storage.files import atomic_file, prepare_file
from prelar_ray.storage.study_folder import is_study
from prelar_ray.wording import counted, shortened

__all__ = ["ComparisonReport", "is_comparison", "write_comparison"]

FOLDER = "report"
"""Beside the page: figures and tables."""
MANY = 6
"""More runs than this are counted, not named."""
BARS = "Bars: 95\N{NO-BREAK SPACE}% intervals."


@dataclass(frozen=True)
class ComparisonReport:
    """What was written and what it says."""

    page: Path
    runs: list[RunScores]
    groups: list[Group]


def is_comparison(paths: Sequence[Path]) -> bool:
    """Whether any of the paths is a study or a table of scores, so that runs are compared rather than described."""
    return any(is_study(path) or _is_table(path) for path in paths)


def write_comparison(paths: Sequence[Path], out: Path, options: Options) -> ComparisonReport:
    """Compare the runs of studies, tables of scores and run folders, and write a report.

    It writes ``OUT/report.html`` and, into ``OUT/report/``, every figure as PNG and PDF, ``scores.csv``,
    ``summary.csv``, ``table.md`` and ``table.tex``.

    Raises:
        DataError: something given cannot be read, holds no fine-tuning run, or ``out`` cannot be written.
        UsageError: runs of one task were measured by different protocols, or a seed is there twice.
    """
    studies, everything = _read(paths)
    runs = [run for run in everything if run.phase == "finetune"]
    if not runs:
        given = ", ".join(map(str, paths))
        raise DataError(f"{given}: no fine-tuning run among these; there is nothing to compare")
    differences = check_protocols(runs, options.mix_protocols)
    series = name_series(runs)
    page, folder = out / "report.html", out / FOLDER
    prepare_file(page)
    prepare_file(folder / "scores.csv")
    tasks = {run.task for run in runs if not run.scores.empty}
    until = max(LENGTH, *(run.last_step for run in runs))
    published = published_series(tasks, until) if options.published else {}
    groups = compare(series, options, published)
    sections = list(_sections(series, groups, published))
    for panel in (panel for _, _, panels in sections for panel in panels):
        for suffix, content in panel.chart.files().items():
            _write(folder / f"{panel.file}{suffix}", content)
    tables = [score_texts(group) for group in groups if group.scores]
    write_scores(folder / "scores.csv", runs)
    _write(folder / "summary.csv", summary_csv(groups).encode())
    _write(folder / "table.md", markdown(tables).encode())
    _write(folder / "table.tex", latex(tables).encode())
    costs = cost_table(everything)
    write_page(
        page,
        "comparison.html",
        title=f"prelar_ray: {', '.join(dict.fromkeys(path.resolve().name for path in paths))}",
        studies=studies,
        counts={name: _counts(members) for name, members in series.items()},
        tables=tables,
        notes=comparison_notes(series, groups, differences, options.at, bool(published)),
        protocols=alike(protocols_by_task(everything).items()),
        machines=_machines(everything),
        sections=sections,
        efficiencies=[
            (group, METRIC_NAMES[group.metric], _efficiency(group)) for group in groups if group.half_reached
        ],
        lost=[run for run in everything if not _is_sound(run)],
        costs=list(costs.itertuples()),
        totals=list(total_costs(costs).itertuples()) if len(costs) else [],
        sources=sources_of(published),
        published_means=published_means([task for group in groups for task in group.tasks]) if published else None,
        until=until,
    )
    return ComparisonReport(page, everything, groups)


def _read(paths: Sequence[Path]) -> tuple[list[Study], list[RunScores]]:
    """Read what is given, each of it once."""
    studies, runs = [], []
    for path in {path.resolve(): path for path in paths}.values():
        if is_study(path):
            studies.append(read_study(path))
            runs += studies[-1].runs
        else:
            runs += read_scores(path) if _is_table(path) else read_scores_of([path])
    return studies, runs


def _is_table(path: Path) -> bool:
    return path.is_file() or path.suffix.lower() == ".csv"


def _write(path: Path, content: bytes) -> None:
    with atomic_file(path) as file:
        file.write(content)


def _sections(series: Series, groups: Sequence[Group], published: Series) -> Iterator[tuple[str, str, list[Panel]]]:
    """Yield heading, introduction and charts in the order of the page; sections without a chart are left out."""
    styles = series_styles(series, published)
    for group in groups:
        label = METRIC_NAMES[group.metric]
        if group.at is not None and group.compared:
            introduction = f"Tasks: {', '.join(group.compared)}. Scores at {spaced(group.at)} environment steps."
            if group.metric != SUCCESS:
                introduction += " Returns are put together as they are, so tasks with higher returns weigh more."
            heading = f"{label.capitalize()} over {counted(len(group.compared), 'task')}"
            yield heading, introduction, list(_over_tasks(group, styles))
        if maps := list(_heat_maps(series, group)):
            yield f"{label.capitalize()} over two settings", "", maps
    tasks = [task for group in groups for task in group.tasks]
    own, theirs = series_table(series), series_table(published)
    captions = {task: published_caption(published, task) for task in tasks}
    for metric, label in METRIC_NAMES.items():
        curves = {
            task: (task_curves(own, task, metric), task_curves(theirs, task, metric, published=True)) for task in tasks
        }
        if panels := [_task(task, metric, *both, styles, captions[task]) for task, both in curves.items() if both[0]]:
            yield f"{label.capitalize()} per task", "", panels


def _over_tasks(group: Group, styles: Mapping[str, Style]) -> Iterator[Panel]:
    label, success, kind = METRIC_NAMES[group.metric], group.metric == SUCCESS, _short(group.metric)
    bands, of_series = _bands(len(group.scores)), [styles[name] for name in group.mean]
    mean, iqm = f"mean {label}", f"IQM of {label}"
    chart = intervals_chart(group.mean, of_series, mean, success)
    yield Panel(chart, "Mean", f"Every task weighs the same. {BARS}", f"mean-{kind}")
    chart = intervals_chart(group.iqm, of_series, iqm, success)
    meaning = f"Mean of the middle half of all runs: lucky and unlucky ones count less. {BARS}"
    yield Panel(chart, "Interquartile mean", meaning, f"iqm-{kind}")
    for curves, axis, name, file in (
        (group.mean_curves, mean, "Mean over environment steps", "curve-mean"),
        (group.iqm_curves, iqm, "Interquartile mean over environment steps", "curve-iqm"),
    ):
        if curves:
            yield Panel(curves_chart(curves, styles, axis, success), name, bands, f"{file}-{kind}")
    if group.improvements:
        named = {f"{better} over {worse}": interval for (better, worse), interval in group.improvements.items()}
        of_better = [styles[better] for better, _ in group.improvements]
        chart = intervals_chart(named, of_better, "probability of improvement", share=True, even=0.5)
        meaning = (
            "That a run of one beats a run of the other on the same task, ties counting half, mean over tasks. "
            f"{BARS} One that holds 0.5 shows no difference."
        )
        yield Panel(chart, "Probability of improvement", meaning, f"improvement-{kind}")
    chart = shares_chart(group.profiles, styles, f"{label} τ", "share of runs above τ")
    meaning = f"Share of runs that score above τ: higher is better, everywhere if curves do not cross. {bands}"
    yield Panel(chart, "Performance profile", meaning, f"profile-{kind}")
    if group.reached:
        reached = f"{group.threshold:g}"
        chart = shares_chart(group.reached, styles, AXIS_LABELS["env_steps"], f"share of runs that reached {reached}")
        meaning = f"Share of runs whose {label} had reached {reached} at least once. {bands}"
        yield Panel(chart, "Sample efficiency", meaning, f"reached-{kind}")


def _heat_maps(series: Series, group: Group) -> Iterator[Panel]:
    label = METRIC_NAMES[group.metric]
    meaning = f"Mean {label} at {spaced(group.at or 0)} environment steps over tasks and seeds; n runs in each cell."
    for heat_map in heat_maps(series, group):
        chart = heat_map_chart(heat_map, f"mean {label}", group.metric == SUCCESS)
        yield Panel(chart, heat_map.method, meaning, f"heat-map-{_file(heat_map.method)}-{_short(group.metric)}")


def _task(
    task: str, metric: str, own: Sequence[Curve], theirs: Sequence[Curve], styles: Mapping[str, Style], caption: str
) -> Panel:
    """Return the curves on a task: of returns too where success is what runs are compared by."""
    counts = sorted({curve.count for curve in own})
    seeds = f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else counted(counts[0], "seed")
    meaning = f"Mean over {seeds}. {_bands(len(own)) if counts[-1] > 1 else 'One seed: no interval.'}"
    if theirs:
        meaning += f" {caption}"
    chart = curves_chart([*own, *theirs], styles, METRIC_NAMES[metric], metric == SUCCESS)
    return Panel(chart, task, meaning, f"{_short(metric)}-{_file(task)}")


def _bands(series: int) -> str:
    if series > MOST_BANDS:
        return f"Without bands, of more than {MOST_BANDS} series: the tables have the intervals."
    return "Bands: 95\N{NO-BREAK SPACE}% intervals."


def _short(metric: str) -> str:
    return "success" if metric == SUCCESS else "return"


def _file(name: str) -> str:
    """Return a name that every file system takes."""
    return shortened(re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-."), 100).replace("…", "-") or "unnamed"


def _is_sound(run: RunScores) -> bool:
    """Whether a run did all that was planned; a pre-training has no scores."""
    return run.is_complete if run.phase == "finetune" else run.status == FINISHED


def _counts(runs: Sequence[RunScores]) -> str:
    finished = sum(run.is_complete for run in runs)
    tasks, seeds = len({run.task for run in runs}), len({run.seed for run in runs})
    return f"{counted(tasks, 'task')}, {counted(seeds, 'seed')}: {finished} of {counted(len(runs), 'run')} finished"


def _machines(runs: Sequence[RunScores]) -> list[dict[str, Any]]:
    found = machines((f"{run.source}: {run.name}", run.info) for run in runs if run.info)
    for machine in found:
        if len(machine["runs"]) > MANY:
            machine["runs"] = [counted(len(machine["runs"]), "run")]
    return found


def _efficiency(group: Group) -> list[tuple[str, str, str, str]]:
    """Return task, series, how many runs reached the threshold, and by when half had."""
    return [
        (task, name, f"{reached} of {interval.count}", steps_text(interval, group.at or 0))
        for task in group.tasks
        for name, by_task in group.half_reached.items()
        if task in by_task
        for interval, reached in [by_task[task]]
    ]
