"""Progress of a command's phases: bars on a terminal, occasional lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

__all__ = ["Phase", "Progress", "console", "count_text", "duration_text", "rate_text"]

# Jupyter asks for colours also where output is no terminal, which rich takes for a terminal to draw bars on.
_is_terminal = sys.stderr is not None and sys.stderr.isatty()  # closed, it is None
console = Console(stderr=True, force_jupyter=False, force_terminal=None if _is_terminal else False)
"""The only console of a process: log records and bars must share it, or they overwrite each other."""

PLAIN_SECONDS = 10.0
"""Minimum time between two lines of one phase without a terminal."""


class Progress:
    """Bars with rate, time left and a few values, on stderr; the context manager restores the terminal on Ctrl-C.

    ::

        with Progress() as progress, progress.phase("pretrain", total=1500, unit="updates") as task:
            task.advance(1, loss=1234.5)
    """

    def __init__(self, console: Console = console) -> None:
        self._rich = _Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            _CountColumn(table_column=Column(no_wrap=True)),
            _RateColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[shown]}", style="dim"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._rich.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._rich.stop()

    def phase(self, name: str, total: int, unit: str, done: int = 0) -> Phase:
        """Begin a phase of ``total`` units (plural, e.g. ``updates``), ``done`` of them by an earlier run."""
        return Phase(self._rich, name, total, unit, done)


class Phase:
    """One phase; the context manager reports the final count and the duration on exit."""

    def __init__(self, rich: _Bars, name: str, total: int, unit: str, done: int) -> None:
        self._rich = rich
        self._id = rich.add_task(name, total=total, completed=done, unit=unit, shown="")
        self._done_before = done
        self._began = self._last_line = time.monotonic()
        self._say("begins")

    def advance(self, n: float = 1, **shown: float) -> None:
        """Count ``n`` more units and show the given values (NaN: not known yet) until the next ones."""
        self._rich.advance(self._id, n)
        if shown:
            self._rich.update(self._id, shown="  ".join(f"{name} {_short(value)}" for name, value in shown.items()))
        if time.monotonic() - self._last_line >= PLAIN_SECONDS:
            self._last_line = time.monotonic()
            task = self._task
            left = "" if task.time_remaining is None else f"{duration_text(task.time_remaining)} left"
            self._say(
                f"{task.percentage:.0f} %", rate_text(task.speed, task.fields["unit"]), left, task.fields["shown"]
            )

    def reach(self, done: float, **shown: float) -> None:
        """Count up to ``done`` units in total; smaller values, as after a restart from a checkpoint, have no effect."""
        self.advance(max(0.0, done - self._task.completed), **shown)

    def look_at(self, view: RenderableType) -> None:
        """Show ``view`` under the bars of a terminal until the next call."""
        self._rich.view = view

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        task, elapsed = self._task, time.monotonic() - self._began
        self._rich.stop_task(self._id)
        mean_rate = (task.completed - self._done_before) / elapsed if elapsed > 0 else None
        self._say(
            f"{'done' if kind is None else 'stopped'} after {duration_text(elapsed)}",
            rate_text(mean_rate, task.fields["unit"]),
            task.fields["shown"],
        )

    @property
    def _task(self) -> Task:
        return self._rich.tasks[self._rich.task_ids.index(self._id)]

    def _say(self, *parts: str) -> None:
        """Write a plain line if there is no terminal for a bar."""
        if self._rich.disable:
            task = self._task
            text = ", ".join([f"{task.description}: {_count(task)}", *filter(None, parts)])
            self._rich.console.print(text, soft_wrap=True, markup=False, highlight=False)


class _Bars(RichProgress):
    """Bars with another view below them."""

    view: RenderableType | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.view is not None:
            yield self.view


class _CountColumn(ProgressColumn):
    """``320/1500 updates``."""

    def render(self, task: Task) -> Text:
        return Text(_count(task))


class _RateColumn(ProgressColumn):
    """``8.2 updates/s``."""

    def render(self, task: Task) -> Text:
        return Text(rate_text(task.finished_speed or task.speed, task.fields["unit"]), style="cyan")


def _count(task: Task) -> str:
    return count_text(task.completed, task.total or 0, task.fields["unit"])


def count_text(done: float, total: float, unit: str) -> str:
    """Return for example ``1 400/1 500 updates``."""
    return f"{done:,.0f}/{total:,.0f} {unit}".replace(",", " ")


def duration_text(seconds: float) -> str:
    """Return for example ``1:02:03``."""
    return str(timedelta(seconds=int(seconds)))


def rate_text(per_second: float | None, unit: str) -> str:
    """Return for example ``8.2 updates/s``; nothing where no rate is known."""
    if per_second is None:
        return ""
    return f"{per_second:.0f} {unit}/s" if per_second >= 100 else f"{per_second:.3g} {unit}/s"


def _short(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"
