"""What every kind of run shares: from its start, over interrupts and restarts, to its end."""

from __future__ import annotations

import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Protocol, TypeVar

from prelar_ray.config import RunConfig
from prelar_ray.errors import RoleDied
from prelar_ray.learning.device import resolve_device
from prelar_ray.storage.addresses import without_places
from prelar_ray.storage.mirror import mirrored
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.loggers import Services
from prelar_ray.telemetry.progress import Phase, Progress
from prelar_ray.telemetry.status import status_table
from prelar_ray.telemetry.streams import lost_log
from prelar_ray.training.metric_log import Line, MetricLog

__all__ = ["Loop", "drive", "final_numbers"]

log = logging.getLogger(__name__)


class Closeable(Protocol):
    """What a run starts first and closes last: a backend, or a connection to a cluster."""

    def close(self) -> None:
        """Give it back."""


B = TypeVar("B", bound=Closeable)
C = TypeVar("C")


class Loop(ABC):
    """A run under way."""

    metrics: MetricLog

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether all of the run is collected and learnt."""

    @property
    @abstractmethod
    def reached(self) -> int:
        """How far the run is, in the unit of its progress bar."""

    @property
    @abstractmethod
    def shown(self) -> Mapping[str, float]:
        """Values beside the progress bar."""

    @abstractmethod
    def advance(self) -> None:
        """Take one turn: learn, and do what is due."""

    @abstractmethod
    def finish(self) -> None:
        """Do what a run does once after its last turn; may be interrupted."""

    @abstractmethod
    def save(self) -> None:
        """Write a checkpoint of all that was done, and wait until it is on disk."""

    def interrupt(self) -> None:
        """Save, and nothing that takes long."""
        self.save()

    @abstractmethod
    def conclude(self) -> None:
        """Write what the report shows of a finished run."""

    def close(self) -> None:
        """End what the loop began."""
        self.metrics.close()


def drive(
    config: RunConfig,
    run: RunFolder,
    *,
    phase: str,
    total: int,
    unit: str,
    is_whole: Callable[[Path], bool],
    load: Callable[[], C],
    done: Callable[[C], int],
    start: Callable[[], B],
    open_loop: Callable[[B, C], Loop],
    restart: Callable[[RoleDied, B, C], C] | None = None,
) -> Generator[Line]:
    """Run a loop to its end; yields every line of metrics when it is written.

    Ctrl-C, or leaving the generator, writes a checkpoint before it takes effect.

    Args:
        config, run: configuration and folder of the run.
        phase: name of timings and progress bar.
        total, unit: length of the progress bar, for example 1000 and ``updates``.
        is_whole: whether a checkpoint folder is undamaged.
        load: returns what the loop starts from, such as a checkpoint; called before anything is started.
        done: how far the run is there, in ``unit``.
        start: starts the backend, which is closed in any case.
        open_loop: makes the loop.
        restart: returns what the loop restarts from when a role died, or raises; without, the death ends the run.

    Raises:
        RoleDied: a role died, and restarting did not help.
        UsageError, ConfigError: a service of ``telemetry.loggers`` does not take the run.
        PrelarError: what ``load``, ``start``, ``open_loop`` and the loop raise.
    """
    with closing(run), mirrored(run, config.checkpoint.mirror, is_whole), run.track():
        origin = load()
        log.info("%s: %s", phase, _described(config, run, phase))
        if done(origin) >= total:
            log.info("%s: all %d %s are done; a larger number makes the run longer", phase, total, unit)
        settings = without_places(config).model_dump(mode="json")
        with (
            closing(start()) as backend,
            Progress() as progress,
            run.timed(phase),
            Services(config.telemetry.loggers, config.telemetry.project, run, settings) as services,
        ):
            with progress.phase(phase, total, unit, min(done(origin), total)) as bar:
                while True:
                    try:
                        with closing(open_loop(backend, origin)) as loop:
                            services.open()
                            yield from _to_end(loop, bar, total, run, services)
                        return
                    except RoleDied as death:
                        if restart is None:
                            raise
                        origin = restart(death, backend, origin)


def _described(config: RunConfig, run: RunFolder, phase: str) -> str:
    """What a run is: task or videos, method, device, the checkpoint that it started from, and folder."""
    learns_from = config.video.name if phase == "pretrain" else config.env.task
    # Another cluster has devices of its own.
    known = config.device == "auto" and config.cluster in ("none", "auto")
    device = resolve_device("auto").type if known else config.device
    init = run.info.get("init")
    start = f", from {init['checkpoint']}" if isinstance(init, dict) and "checkpoint" in init else ""
    if phase == "finetune" and not start:
        start = ", from scratch"
    return f"{learns_from}, method {config.method}, device {device}{start}, in {run.path}"


def _to_end(loop: Loop, bar: Phase, total: int, run: RunFolder, services: Services) -> Iterator[Line]:
    latest: dict[str, float] = {}

    def lines() -> Iterator[Line]:
        for line in loop.metrics.new_lines():
            latest.update(line)
            loop.metrics.report_progress(min(loop.reached / total, 1.0))
            bar.look_at(status_table(latest))
            record_lost_log()
            services.write(line)
            yield line

    def record_lost_log() -> None:
        if (lost := lost_log()) and "lost_log" not in run.info:
            run.update(lost_log={"reason": lost, "update": int(latest.get("update", 0))})

    try:
        while not loop.finished:
            loop.advance()
            bar.reach(min(loop.reached, total), **loop.shown)
            yield from lines()
        loop.finish()
    except (KeyboardInterrupt, GeneratorExit):  # Ctrl-C, or who drives the loop leaves it
        if sys.is_finalizing():
            raise
        log.warning("interrupted: finishing the update and writing a checkpoint; a second Ctrl-C leaves without it")
        try:
            loop.interrupt()
            bar.reach(min(loop.reached, total), **loop.shown)  # with what saving finished first
        except RoleDied as death:  # the interrupt takes effect: nothing restarts
            log.warning("%s; the last checkpoint stands", death)
        record_lost_log()  # the warning above may have been the first line that nobody could read
        raise
    loop.save()
    loop.conclude()
    yield from lines()


def final_numbers(run: RunFolder, **counts: float) -> dict[str, float]:
    """Return ``counts`` with return and success of the last evaluation, as far as there are any."""
    numbers = dict(counts)
    if evaluations := run.evaluations():
        last = evaluations[-1]
        numbers["return"] = last.mean_return
        if last.success_rate is not None:
            numbers["success"] = last.success_rate
    return numbers
