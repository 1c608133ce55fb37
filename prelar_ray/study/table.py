"""What a study looks like while it runs: a live table on a terminal, a line per event elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.live import Live
from rich.table import Table

from prelar_ray.kinds import kind_of
from prelar_ray.study.plan import PlannedRun
from prelar_ray.telemetry.progress import console

__all__ = ["STATES", "StudyTable", "progress_of", "study_table"]

log = logging.getLogger(__name__)

STATES = ("running", "failed", "stopped", "interrupted", "waiting", "finished")
"""Of a run; the table shows them in this order."""

OVER = ("finished", "failed", "stopped")
"""States in which nothing of a run is left to do."""

SHOWN = 40
"""Rows of runs that a terminal can show."""


def progress_of(run: PlannedRun, line: Mapping[str, Any]) -> float:
    """Share of a run that is done, from a line of its metrics."""
    return kind_of(run.config, run.phase).progress(run.config, line)


def study_table(
    runs: Sequence[PlannedRun], status: Mapping[str, str], lines: Mapping[str, Mapping[str, Any]], title: str = ""
) -> Table:
    """Return a table of all runs.

    Args:
        status: by name.
        lines: by name, the last value of every metric.
    """
    table = Table(title=title or None, title_justify="left")
    for column in ("run", "labels", "status"):
        table.add_column(column, overflow="fold")
    for column in ("done", "success", "return", "updates/s", "left"):
        table.add_column(column, justify="right", no_wrap=True)
    order = {state: place for place, state in enumerate(STATES)}
    shown = sorted(runs, key=lambda run: order.get(status.get(run.name, "waiting"), len(order)))[:SHOWN]
    for run in [run for run in runs if run in shown]:
        line, state = lines.get(run.name, {}), status.get(run.name, "waiting")
        done = 1.0 if state == "finished" else progress_of(run, line)
        started = line.get("started")
        spent = time.monotonic() - started if started is not None else 0.0
        since = done - line.get("done_before", 0.0)
        left = f"{spent / since * (1 - done) / 60:.0f} min" if state == "running" and since > 0.02 else ""
        labels = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in run.labels.items())
        table.add_row(
            run.name,
            labels,
            state,
            f"{done:.0%}",
            _number(line.get("evaluation/success_rate"), ".2f"),
            _number(line.get("evaluation/return_mean"), ".1f"),
            _number(line.get("rate/updates_per_second"), ".2f"),
            left,
        )
    if len(runs) > len(shown):
        table.caption = f"{len(runs) - len(shown)} more that wait or have finished"
    return table


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else ""


class StudyTable:
    """Shows what happens to the runs of a study, and knows how far each of them is."""

    def __init__(self, runs: Sequence[PlannedRun], status: Mapping[str, str]) -> None:
        """Show ``runs``.

        Args:
            status: by name, as the folder of the study has it before anything starts.
        """
        self.runs = {run.name: run for run in runs}
        self.status = {
            name: "waiting" if state in ("running", "interrupted") else state for name, state in status.items()
        }
        self.lines: dict[str, dict[str, Any]] = {}
        self._live: Live | None = None

    def __enter__(self) -> StudyTable:
        if console.is_terminal:
            self._live = Live(console=console, refresh_per_second=2, get_renderable=self._table)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    @property
    def counts(self) -> dict[str, int]:
        """Number of runs in every state."""
        states = list(self.status.values())
        return {state: states.count(state) for state in STATES}

    @property
    def progress(self) -> float:
        """Share of the study that is done, 0 to 1; each run counts alike."""
        done = [
            1.0 if self.status[name] in OVER else progress_of(run, self.lines.get(name, {}))
            for name, run in self.runs.items()
        ]
        return sum(done) / max(1, len(done))

    def _table(self) -> Table:
        return study_table(list(self.runs.values()), self.status, self.lines)

    def started(self, name: str) -> None:
        """A run started, or resumed after a failure."""
        log.info("%s: %s", name, "resumes" if self.status.get(name) == "running" else "starts")
        self.status[name] = "running"
        line = self.lines.setdefault(name, {})
        line["started"] = time.monotonic()
        line["done_before"] = progress_of(self.runs[name], line)

    def progressed(self, name: str, metrics: Mapping[str, Any]) -> None:
        """A run wrote a line of metrics."""
        line = self.lines.setdefault(name, {})
        line |= {key: value for key, value in metrics.items() if "/" in key or key in ("update", "env_steps")}

    def ended(self, name: str, status: str) -> None:
        """A run ended by itself, or was stopped."""
        self.status[name] = status
        line = self.lines.get(name, {})
        said = f", success {line['evaluation/success_rate']:.2f}" if "evaluation/success_rate" in line else ""
        said += f", return {line['evaluation/return_mean']:.1f}" if "evaluation/return_mean" in line else ""
        finished = sum(state == "finished" for state in self.status.values())
        log.info("%s: %s%s; %d of %d runs have finished", name, status, said, finished, len(self.runs))

    def failed(self, name: str, reason: str) -> None:
        """A run failed for good."""
        self.status[name] = "failed"
        log.error("%s: failed: %s", name, reason)
