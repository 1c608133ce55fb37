"""What ``prelar-ray status`` shows: lines and tables, on a terminal and in a file alike."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prelar_ray.storage.locks import described
from prelar_ray.telemetry.progress import count_text, duration_text, rate_text
from prelar_ray.watching.records import ClusterStatus, ProcessStatus, RunState, RunStatus, StatusReport, StudyStatus
from prelar_ray.watching.runs import seconds_between
from prelar_ray.wording import counted, printable

__all__ = ["view"]

ENDED = 3
"""Runs that finished or were stopped, of those shown of a study: the last ones, for their results."""
ENDED_ALONE = 10
"""Runs of no study that do not run, of those shown: the last ones."""
RESUMES = 5
"""Commands that resume something, of those shown."""
RANK: Mapping[RunState, int] = {"running": 0, "failed": 1, "interrupted": 2, "stopped": 3, "finished": 3, "pending": 4}
STYLES: Mapping[RunState, str] = {"running": "green", "failed": "red", "interrupted": "yellow"}

HEADINGS_LEFT = ("run", "phase", "method", "task", "labels")
HEADINGS_RIGHT = ("seed", "done", "", "rate", "return", "success", "left", "last line")
WHOLE = ("phase", "method", "seed", "done", "", "left")
"""Columns that are never folded, however narrow the terminal."""


def view(report: StatusReport) -> RenderableType:
    """Return all that a report has to show."""
    parts: list[RenderableType] = [_line(f"{report.at} on {report.host}")]
    if report.cluster:
        parts += _cluster(report.cluster, report.at)
    for study in report.studies:
        parts += ["", *_study(study, report.at)]
    alone, left_out = _shown(report.runs, ENDED_ALONE, {"failed", "interrupted", "stopped", "finished"})
    if report.runs:
        title = counted(len(report.runs), "run") + (" of no study" if report.studies else "")
        parts += ["", _line(f"{title}: {_counts(report.runs)}"), _table(alone, report.at, named=True)]
        parts += _more(left_out)
    parts += [_line(problem, "yellow") for problem in report.problems]
    resumes = [*(study.resume for study in report.studies), *(run.resume for run in alone)]
    parts += [_line(f"resume: {command}") for command in list(filter(None, resumes))[:RESUMES]]
    return Group(*parts)


def _line(text: str, style: str = "") -> Text:
    return Text(printable(text, 1000), style)


def _study(study: StudyStatus, at: str) -> Iterator[RenderableType]:
    pending = ", ".join(f"{number} {phase}" for phase, number in study.pending.items())
    counts = ", ".join(
        f"{number} {state}" + (f" ({pending})" if state == "pending" else "") for state, number in study.counts.items()
    )
    yield Text.assemble((printable(study.name), "bold"), f"  {printable(study.path)}")
    yield _line(_driver(study))
    elapsed = "" if study.seconds is None else f"; {duration_text(study.seconds)} elapsed"
    left = "?" if study.seconds_left is None else f"about {duration_text(study.seconds_left)}"
    left = f", {left} left" if study.driven else ""
    yield _line(f"{counted(sum(study.counts.values()), 'run')}: {counts}{elapsed}{left}")
    shown, left_out = _shown(study.runs, ENDED, {"stopped", "finished"})
    if shown:
        yield _table(shown, at)
    yield from _more(left_out)


def _driver(study: StudyStatus) -> str:
    if study.driver is None:
        return "no process drives it"
    who = _process(study.driver)
    if not study.driven:
        return f"no process drives it: {who} is gone"
    elsewhere = ", as far as this machine can tell" if study.driver.alive is None else ""
    return f"driven by {who}{elsewhere}"


def _process(process: ProcessStatus) -> str:
    return described(process.model_dump())


def _shown(runs: Sequence[RunStatus], most: int, ended: set[RunState]) -> tuple[list[RunStatus], int]:
    """Return runs by what a watcher asks first: those that run, that need help, and the last that ended.

    Args:
        runs: all.
        most: rows of those that ended.
        ended: what counts as such.
    """
    last = sorted((run for run in runs if run.status in ended), key=lambda run: run.finished or "", reverse=True)
    kept = [run for run in runs if run.status not in ended] + last[:most]
    return sorted(kept, key=lambda run: RANK[run.status]), len(last[most:])


def _more(number: int) -> Iterator[RenderableType]:
    if number:
        yield _line(f"{number} more that ended before; --json has all")


def _counts(runs: Iterable[RunStatus]) -> str:
    states = [run.status for run in runs]
    return ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states), key=RANK.__getitem__))


def _table(runs: Sequence[RunStatus], at: str, named: bool = False) -> Table:
    """Return a row for each run; columns that none of them has anything for are left out."""
    rows = [_cells(run, named) for run in runs]
    table = Table()
    headings = [name for name in (*HEADINGS_LEFT, *HEADINGS_RIGHT) if any(row[name] for row in rows)]
    for name in headings:
        side: Literal["left", "right"] = "right" if name in HEADINGS_RIGHT else "left"
        table.add_column(name, justify=side, no_wrap=name in WHOLE, overflow="fold")
    table.add_column("status", min_width=12, overflow="fold")
    for run, row in zip(runs, rows, strict=True):
        style = "yellow" if run.silent else STYLES.get(run.status, "")
        table.add_row(*(Text(row[name]) for name in headings), Text(_state(run, at), style))
    return table


def _cells(run: RunStatus, named: bool) -> dict[str, str]:
    """Return what a row shows, by heading."""
    running = run.status == "running"
    done = ""
    if run.done is not None and run.total is not None:
        done = count_text(run.done, run.total, "").rstrip()
    return {
        "run": _relative(run.path) if named else "",
        "phase": run.phase,
        "method": run.method,
        "task": run.task or "",
        "labels": printable(", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in run.labels.items())),
        "seed": "" if run.seed is None else str(run.seed),
        "done": done,
        "": "" if run.progress is None else f"{run.progress:.0%}",
        "rate": (rate_text(run.rate, run.unit or "") or "?") if running else "",
        "return": _scores(run.train_return, run.evaluation_return, ".1f"),
        "success": _scores(run.train_success, run.evaluation_success, ".2f"),
        "left": "" if not running else "?" if run.seconds_left is None else duration_text(run.seconds_left),
        "last line": duration_text(run.last_line_age) if running and run.last_line_age is not None else "",
    }


def _scores(training: float | None, evaluation: float | None, form: str) -> str:
    """Return the last score in training and, marked so, that of the last evaluation."""
    parts = [] if training is None else [format(training, form)]
    return " ".join([*parts, *([] if evaluation is None else [f"(eval {evaluation:{form}})"])])


def _state(run: RunStatus, at: str) -> str:
    if run.silent and run.last_line_age is not None:
        return f"silent for {duration_text(run.last_line_age)}"
    if run.status in ("finished", "stopped", "interrupted"):
        ago = seconds_between(run.finished, at)
        since = "" if ago is None else f" {duration_text(ago)} ago"
        return f"{run.status}{since}" + (f": {run.reason}" if run.reason else "")
    return run.status + (f": {run.reason}" if run.reason else "")


def _relative(path: str) -> str:
    """Return a path as a user of this folder would write it."""
    inside = Path(os.path.abspath(path)).is_relative_to(Path.cwd())
    return printable(os.path.relpath(path) if inside else path)


def _cluster(cluster: ClusterStatus, at: str) -> Iterator[RenderableType]:
    yield Text.assemble(("cluster", "bold"), f"  {cluster.address}")
    nodes = Table()
    nodes.add_column("node", overflow="fold")
    for name in ("CPUs used", "GPUs used"):
        nodes.add_column(name, justify="right", no_wrap=True)
    for node in cluster.nodes:
        nodes.add_row(Text(printable(node.name)), _used(node.cpus_used, node.cpus), _used(node.gpus_used, node.gpus))
    if cluster.nodes:
        yield nodes
    for job in cluster.jobs:
        ran = seconds_between(job.since, at)
        since = "" if ran is None else f" for {duration_text(ran)}"
        yield _line(f"job {job.id} runs{since}: {printable(job.entrypoint)}")


def _used(used: float | None, total: float) -> str:
    return f"{'?' if used is None else f'{used:g}'} of {total:g}"
