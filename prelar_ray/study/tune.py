"""The adapter to Ray Tune: beside :mod:`prelar_ray.study.trial`, the only module of studies that knows it.

Tune places, starts, retries and logs trials. Which runs there are, which of them is next and what became of them, the
study keeps itself. Where Tune is overruled, a comment says why, as of Ray 2.60.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from prelar_ray.distributed.gauges import Gauges
from prelar_ray.interrupts import STOPPING
from prelar_ray.storage.study_folder import StudyFolder
from prelar_ray.study.plan import PlannedRun
from prelar_ray.study.queue import RunQueue
from prelar_ray.study.sweep import Scheduler, Sweep
from prelar_ray.study.table import StudyTable
from prelar_ray.study.trial import Trial

__all__ = ["CHECKPOINT_SECONDS", "make_scheduler", "run_trials"]

CHECKPOINT_SECONDS = 600
"""How long runs that are stopped together, by Ctrl-C or at the end of the budget, may take for their checkpoints."""

RESTORE_HINT = "Resume experiment with: "
"""What Tune's own advice has, at the end of a study that was stopped."""


def run_trials(
    sweep: Sweep,
    folder: StudyFolder,
    queue: RunQueue,
    settings: Callable[[PlannedRun], dict[str, Any]],
    table: StudyTable,
    gauges: Gauges,
) -> None:
    """Run what is in the queue, each run as a trial, until nothing is left or the budget is spent.

    Args:
        settings: what the trial of a run is configured with.
        table: is told what happens.
        gauges: show how many runs are in which state, and how much of the study is done.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once the trials that were running wrote their checkpoints.
    """
    # The newer console output (ray-project/ray#33609) prints a summary whatever `verbose` says.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # A result without the scheduler's metric is an error by default (ray-project/ray#10972), and lines of metrics
    # before the first evaluation have none. Both schedulers skip them.
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    hours = sweep.budget.hours
    signals = StopSignals()
    tuner = tune.Tuner(
        Trial,
        tune_config=tune.TuneConfig(
            search_alg=QueueSearcher(queue, settings),
            scheduler=make_scheduler(sweep.scheduler, folder),
            num_samples=len(queue.pending),
            max_concurrent_trials=sweep.concurrent,
            time_budget_s=None if hours is None else hours * 3600,
            trial_name_creator=_folder_name,
            trial_dirname_creator=_folder_name,
        ),
        run_config=tune.RunConfig(
            name=f"session-{len(list(folder.tune.glob('session-*'))):03d}",
            storage_path=str(folder.tune),
            failure_config=tune.FailureConfig(max_failures=sweep.failures.retries),
            callbacks=[Events(folder, table, gauges), signals, *_loggers(sweep)],
            verbose=0,
        ),
    )
    with _without_hint(), signals.heard():
        tuner.fit()


def _folder_name(trial: Any) -> str:
    """Of a trial, in Tune's own records."""
    return _run_name(trial).replace("/", "_")


def _run_name(trial: Any) -> str:
    return str(trial.config["name"])


@contextmanager
def _without_hint() -> Iterator[None]:
    """Leave out how Tune would continue a study that was stopped, ``Tuner.restore``: only ``--resume`` does."""
    log = logging.getLogger("ray.tune.tune")
    log.addFilter(_is_no_hint)
    try:
        yield
    finally:
        log.removeFilter(_is_no_hint)


def _is_no_hint(record: logging.LogRecord) -> bool:
    return RESTORE_HINT not in record.getMessage()


class StopSignals(tune.Callback):
    """Turns Ctrl-C, which Tune takes for itself and returns from as from the end of the study, into KeyboardInterrupt.

    Other signals that ask to stop do as Ctrl-C does; at the end the handler that they had before hears of the first: it
    knows with which exit code the process ends. As a callback it takes SIGUSR1 back, which Tune takes when it starts.

    Tune's handler of SIGINT is what gives the trials time for their checkpoints, so it is not disabled. It puts back
    the handler that it found when a signal comes, and only then: after an undisturbed study it would swallow the next
    Ctrl-C (ray-project/ray#37737). So the handler afterwards tells whether a signal came, and is restored here.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._came: list[int] = []

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: see :meth:`Events.__getstate__`."""
        return {}

    def setup(self, *args: Any, **info: Any) -> None:
        """Tune starts, and has just taken its signals."""
        self._hear()

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Hear signals while the block lasts.

        Raises:
            KeyboardInterrupt: one came.
        """
        if threading.current_thread() is not threading.main_thread():  # Tune installs no handler there either
            yield
            return
        interrupt = signal.getsignal(signal.SIGINT)
        handlers = {number: signal.getsignal(number) for number in STOPPING}
        self._before = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
        self._hear()
        try:
            yield
            interrupted = signal.getsignal(signal.SIGINT) is interrupt
        finally:
            for number, handler in {signal.SIGINT: interrupt, **handlers}.items():
                signal.signal(number, handler)
        if interrupted:
            if self._came and callable(self._before[self._came[0]]):
                signal.raise_signal(self._came[0])
            raise KeyboardInterrupt

    def _hear(self) -> None:
        for number in self._before:
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._came.append(number)
        signal.raise_signal(signal.SIGINT)


class QueueSearcher(Searcher):
    """Gives Tune the runs of a queue, as a search algorithm that knows them all beforehand."""

    def __init__(self, queue: RunQueue, settings: Callable[[PlannedRun], dict[str, Any]]) -> None:
        super().__init__()
        self._queue, self._settings = queue, settings
        self._runs: dict[str, PlannedRun] = {}  # by trial

    def suggest(self, trial_id: str) -> Any:
        """Settings of the next trial; None while the runs left wait for one that is running; FINISHED without any."""
        run = self._queue.next()
        if run is None:
            return None if self._queue.pending else str(Searcher.FINISHED)
        self._runs[trial_id] = run
        return self._settings(run)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Tell the queue."""
        if run := self._runs.pop(trial_id, None):
            self._queue.ended(run)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: run folders hold it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see :meth:`save`."""


class Events(tune.Callback):
    """Records how trials ended, tells the table, and shows to Prometheus what the table counts."""

    def __init__(self, folder: StudyFolder, table: StudyTable, gauges: Gauges) -> None:
        self._folder, self._table, self._gauges = folder, table, gauges
        self._show()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks for ``Tuner.restore``, which no study uses, and a terminal cannot be."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial started, or was restarted after a failure."""
        self._table.started(_run_name(trial))
        self._show()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial wrote a line of metrics."""
        self._table.progressed(_run_name(trial), result)
        self._show()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended by itself, or was stopped."""
        name = _run_name(trial)
        self._folder.note_failure(name, None)
        self._table.ended(name, self._folder.status(name))
        self._show()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed for good."""
        name, reason = _run_name(trial), _reason(trial)
        self._folder.note_failure(name, reason)
        self._table.failed(name, reason)
        self._show()

    def _show(self) -> None:
        for state, count in self._table.counts.items():
            self._gauges.show({"study_runs": count}, state=state)
        self._gauges.show({"study_progress": self._table.progress})


def _reason(trial: Any) -> str:
    """The last line of what a trial raised: the exception itself."""
    error = trial.get_error()
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class Patient(TrialScheduler):
    """Gives trials that are stopped together the time to write their checkpoints.

    A trial notices that it is stopped between two lines of metrics. At the end of an experiment Tune kills those that
    take more than ten seconds: ``TuneController._actor_force_cleanup_timeout``, a constant. The setting
    ``TUNE_FORCE_TRIAL_CLEANUP_S`` (600 s by default since ray-project/ray#28449) is for trials stopped before the end
    only. Tune shows its controller to nobody but the scheduler, so it is changed here.
    """

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        controller = getattr(tune_controller, "_tune_controller", tune_controller)  # without the wrapper
        controller._actor_force_cleanup_timeout = CHECKPOINT_SECONDS
        super().on_trial_add(tune_controller, trial)


class Stopping(Patient):
    """Records the runs that it stops, so that a resumed study leaves them stopped."""

    def __init__(self, note_stopped: Callable[[str], None], **settings: Any) -> None:
        super().__init__(**settings)  # type: ignore[no-untyped-call]
        self._note_stopped = note_stopped

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == TrialScheduler.STOP:
            self._note_stopped(_run_name(trial))
        return decision


class Fifo(Patient, FIFOScheduler):
    """Stops nobody."""


class Asha(Stopping, ASHAScheduler):
    """Stops all but the best of those that came as far."""


class MedianRule(Stopping, MedianStoppingRule):
    """Stops a run whose best is below the median of the others' means."""

    def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
        """Let a run continue where there are few others to compare it with.

        Tune pauses it instead in favour of a pending one; there is no option against it. A pause ends the trial's
        actors, and the replay has to be read again afterwards. ray-project/ray#5402 has the same objection.
        """
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Leave out a run that ended without a number.

        ``MedianStoppingRule`` checks the keys in ``on_trial_result`` but not here, and raises a KeyError at the next
        comparison, for instance where a pre-training ended.
        """
        if self._time_attr in result and self._metric in result:
            super().on_trial_complete(tune_controller, trial, result)


def make_scheduler(asked: Scheduler, folder: StudyFolder) -> TrialScheduler:
    """Return the scheduler that a sweep file asks for."""
    if asked.kind == "fifo":
        return Fifo()  # type: ignore[no-untyped-call]
    settings = {"time_attr": "env_steps", "metric": asked.metric, "mode": "max", "grace_period": asked.grace_env_steps}
    if asked.kind == "median":
        return MedianRule(folder.note_stopped, **settings)
    # A run ends by itself: the highest rung is out of its reach.
    return Asha(folder.note_stopped, reduction_factor=asked.reduction, max_t=10**12, **settings)


def _loggers(sweep: Sweep) -> list[tune.Callback]:
    """Callbacks of the optional extras that the sweep file names; ``check_inputs`` has looked for them."""
    places = {
        "wandb": ("ray.air.integrations.wandb", "WandbLoggerCallback", {"project": sweep.name}),
        "mlflow": ("ray.air.integrations.mlflow", "MLflowLoggerCallback", {"experiment_name": sweep.name}),
    }
    found = []
    for name in sweep.loggers:
        module, kind, options = places[name]
        found.append(getattr(importlib.import_module(module), kind)(**options))
    return found
