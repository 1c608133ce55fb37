"""The page of a comparison: scores, charts, protocol, costs, and the runs behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prelar_ray.reporting.comparison import Group
from prelar_ray.reporting.costs import HOW, Cost, TotalCost, cost_of, total_cost
from prelar_ray.reporting.drawing import Panel
from prelar_ray.reporting.notes import Note
from prelar_ray.reporting.protocols import protocols_by_task
from prelar_ray.reporting.published_scores import SOURCE
from prelar_ray.reporting.studies import Study
from prelar_ray.reporting.study_panels import PanelSection
from prelar_ray.reporting.study_tables import ScoreTable, steps_text
from prelar_ray.reporting.template import machines, render
from prelar_ray.reporting.trials import FINISHED, METRICS, Trial
from prelar_ray.wording import counted

__all__ = ["study_page"]

MANY = 6
"""More runs than this are counted, not named."""


@dataclass(frozen=True)
class Efficiency:
    """A row of the table of steps to a threshold."""

    series: str
    task: str
    reached: str
    half: str


@dataclass(frozen=True)
class RunRow:
    """A run with what it cost."""

    trial: Trial
    cost: Cost


@dataclass(frozen=True)
class CostRow:
    """What the runs of one method and phase cost together."""

    name: str
    phase: str
    runs: int
    cost: TotalCost


def study_page(
    title: str,
    studies: Sequence[Study],
    trials: Sequence[Trial],
    series: Mapping[str, Sequence[Trial]],
    groups: Sequence[Group],
    sections: Sequence[tuple[PanelSection, Sequence[Panel]]],
    tables: Sequence[ScoreTable],
    notes: Sequence[Note],
    published: bool,
) -> str:
    """Return the page; the other modules of the report made its parts."""
    recorded = [(f"{trial.source}: {trial.name}", trial.info) for trial in trials if trial.info]
    made = machines(recorded)
    for machine in made:
        if len(machine["runs"]) > MANY:
            machine["runs"] = [counted(len(machine["runs"]), "run")]
    return render(
        "study.html",
        title=f"prelar_ray: {title}",
        studies=studies,
        counts={name: _counts(members) for name, members in series.items()},
        tables=tables,
        notes=notes,
        protocols=_protocols(trials),
        machines=made,
        sections=sections,
        efficiencies=[(group, METRICS[group.metric], _efficiency(group)) for group in groups if group.half_reached],
        lost=[trial for trial in trials if not _is_sound(trial)],
        runs=[RunRow(trial, cost_of(trial)) for trial in trials if trial.info],
        costs=_costs(trials),
        how=HOW,
        published=SOURCE if published else "",
    )


def _is_sound(trial: Trial) -> bool:
    """Whether a run did all that was planned; a pre-training has no scores."""
    return trial.is_complete if trial.phase == "finetune" else trial.status == FINISHED


def _counts(trials: Sequence[Trial]) -> str:
    finished = sum(trial.is_complete for trial in trials)
    seeds = len({trial.seed for trial in trials})
    tasks = len({trial.task for trial in trials})
    return f"{counted(tasks, 'task')}, {counted(seeds, 'seed')}: {finished} of {counted(len(trials), 'run')} finished"


def _protocols(trials: Sequence[Trial]) -> list[tuple[list[str], dict[str, str]]]:
    """Return tasks that were measured alike together, with their protocol."""
    found: list[tuple[list[str], dict[str, str]]] = []
    for task, protocol in protocols_by_task(trials).items():
        for tasks, same in found:
            if same == protocol:
                tasks.append(task)
                break
        else:
            found.append(([task], protocol))
    return found


def _efficiency(group: Group) -> list[Efficiency]:
    assert group.at is not None
    return [
        Efficiency(name, task, f"{reached} of {interval.count}", steps_text(interval, group.at))
        for task in group.tasks
        for name, by_task in group.half_reached.items()
        if task in by_task
        for interval, reached in [by_task[task]]
    ]


def _costs(trials: Sequence[Trial]) -> list[CostRow]:
    by_kind: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        if trial.info:
            by_kind.setdefault((trial.method, trial.phase), []).append(trial)
    rows = [CostRow(method, phase, len(of), total_cost(of)) for (method, phase), of in by_kind.items()]
    if len(rows) > 1:
        began = [trial for trial in trials if trial.info]
        rows.append(CostRow("all", "", len(began), total_cost(began)))
    return rows
