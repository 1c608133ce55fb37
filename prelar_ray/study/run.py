"""A study on Ray Tune: every run a trial, placed whole or waiting, resumed from its own checkpoints."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from prelar_ray.checkpoint.compatibility import pretrained_checkpoint
from prelar_ray.distributed.ray_backend import cluster_nodes
from prelar_ray.distributed.resources import Resources
from prelar_ray.distributed.shared_folder import check_shared
from prelar_ray.errors import CheckpointError, ConfigError
from prelar_ray.storage.study_folder import StudyFolder
from prelar_ray.study.estimate import check_placeable, trial_nodes
from prelar_ray.study.plan import PlannedRun, recording, video_stores
from prelar_ray.study.proposals import Proposals
from prelar_ray.study.searcher import RunSearcher
from prelar_ray.study.sweep import Sweep
from prelar_ray.study.table import StudyTable
from prelar_ray.study.trial import Trial, trial_settings
from prelar_ray.telemetry.progress import Progress
from prelar_ray.video.recorder import discard, record
from prelar_ray.video.store import MANIFEST, is_complete

__all__ = ["check_inputs", "record_videos", "run_study"]

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 600
"""How long runs that are stopped together, by Ctrl-C or at the end of the budget, may take for their checkpoints."""


def check_inputs(sweep: Sweep, runs: Sequence[PlannedRun]) -> None:
    """Make sure that what the study starts from, and the optional packages that it names, are there.

    Raises:
        ConfigError: a video store or a package that it names is not.
        CheckpointError: a pre-training that it names is not, or does not fit.
    """
    searching = ("optuna",) if sweep.search.kind == "optuna" else ()
    for key, package in [("loggers", name) for name in sweep.loggers] + [("search.kind", name) for name in searching]:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{key}={package}: not installed; pip install {package}, or leave it out")
    for name, given in sweep.pretrain.videos.items() if sweep.pretrain else ():
        if isinstance(given, str) and not (Path(given) / MANIFEST).exists():
            raise ConfigError(
                f"pretrain.videos.{name}: {given} holds no video store; record one with prelar-ray record"
            )
    for run in {(run.init_path, run.method): run for run in runs if run.init_path}.values():
        assert run.init_path is not None
        try:
            pretrained_checkpoint(run.init_path, run.config)
        except CheckpointError as error:
            raise CheckpointError(f"finetune.init.{run.method}: {error}") from error


def record_videos(sweep: Sweep, folder: StudyFolder) -> None:
    """Record the data sets that the sweep file describes and that are not there yet; one that was cut off, anew.

    Raises:
        ConfigError: settings of a recording are wrong.
        DataError: what is there of a recording cannot be read.
    """
    for name, path in video_stores(sweep, folder.path).items():
        given = sweep.pretrain.videos[name] if sweep.pretrain else ""
        if isinstance(given, str):
            continue
        if path.exists():
            if (path / MANIFEST).exists() and is_complete(path):
                continue
            log.warning("%s: its recording was cut off; recording it anew", path)
            discard(path)
        config = recording(sweep, given)
        asked = config.record
        frames = len(asked.tasks) * asked.episodes_per_task * asked.frames_per_episode
        with Progress() as progress, progress.phase(f"record {name}", frames, "frames") as phase:
            record(config, path, phase.advance)


def run_study(sweep: Sweep, runs: Sequence[PlannedRun], folder: StudyFolder, retry_failed: bool) -> dict[str, str]:
    """Run what has not finished, on the Ray that this process is connected to; returns the status of every run.

    Args:
        retry_failed: also those that failed for good before.

    Raises:
        ResourceError: a run can never be placed, or the nodes do not share the study's folder.
        KeyboardInterrupt: after Ctrl-C, once the runs under way wrote their checkpoints.
    """
    failures = folder.failures()
    left = [
        run
        for run in runs
        if folder.status(run.name) not in ("finished", "stopped") and (retry_failed or run.name not in failures)
    ]
    nodes = trial_nodes(cluster_nodes(), sweep.concurrent)
    check_placeable(left, nodes)
    check_shared(folder.path)
    table = StudyTable(runs, folder)
    if left:
        for run in left:
            folder.note_failure(run.name, None)
        propose = Proposals(sweep, runs, folder) if sweep.search.kind == "optuna" else None
        searcher = RunSearcher(left, folder, lambda run: _settings(sweep, run, folder, nodes), propose)
        with table:
            _fit(_tuner(sweep, searcher, table, folder, len(left)))
    failures = folder.failures()
    return {run.name: "failed" if run.name in failures else folder.status(run.name) for run in runs}


def _settings(sweep: Sweep, run: PlannedRun, folder: StudyFolder, nodes: Sequence[Resources]) -> dict[str, Any]:
    config, init = run.config, run.init_path
    if run.init:
        init = folder.run_path(run.init)
    if sweep.mirror:
        address = f"{sweep.mirror.rstrip('/')}/{sweep.name}/{run.name.rpartition('/')[0]}"
        config = config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"mirror": address})})
    out = folder.run_path(run.name)
    labels = {"study": sweep.name, "method": run.method, "task": run.task, "seed": run.seed, "labels": dict(run.labels)}
    return {"name": run.name, "manifest": labels, **trial_settings(config, run.phase, out, nodes, init)}


def _tuner(sweep: Sweep, searcher: RunSearcher, table: StudyTable, folder: StudyFolder, runs: int) -> tune.Tuner:
    hours = sweep.budget.hours
    return tune.Tuner(
        Trial,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=_scheduler(sweep, folder),
            num_samples=runs,
            max_concurrent_trials=sweep.concurrent,
            time_budget_s=None if hours is None else hours * 3600,
            trial_name_creator=lambda trial: str(trial.config["name"]).replace("/", "_"),
            trial_dirname_creator=lambda trial: str(trial.config["name"]).replace("/", "_"),
        ),
        run_config=tune.RunConfig(
            name=f"session-{len(list(folder.tune.glob('session-*'))):03d}",
            storage_path=str(folder.tune),
            failure_config=tune.FailureConfig(max_failures=sweep.failures.retries),
            callbacks=[table, *_loggers(sweep)],
            verbose=0,
        ),
    )


def _scheduler(sweep: Sweep, folder: StudyFolder) -> TrialScheduler:
    asked = sweep.scheduler
    if asked.kind == "fifo":
        return _patient(FIFOScheduler)()
    settings: dict[str, Any] = {"time_attr": "env_steps", "metric": asked.metric, "mode": "max"}
    settings["grace_period"] = asked.grace_env_steps
    kind: type[TrialScheduler] = _MedianRule
    if asked.kind == "asha":
        kind = ASHAScheduler
        settings |= {"reduction_factor": asked.reduction, "max_t": 10**12}

    class Noting(_patient(kind)):  # type: ignore[misc]
        """Records whom it stops, so that a resumed study leaves them alone."""

        def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
            decision = str(super().on_trial_result(controller, trial, result))
            if decision == TrialScheduler.STOP:
                folder.note_stopped(trial.config["name"])
            return decision

    return Noting(**settings)


def _patient(kind: type[TrialScheduler]) -> type[TrialScheduler]:
    """The scheduler, with time for trials that are stopped together to write their checkpoints.

    Ray Tune kills those that take more than ten seconds, and has no setting for it; a trial looks up between lines of
    metrics only.
    """

    class Patient(kind):  # type: ignore[valid-type,misc]
        def on_trial_add(self, controller: Any, trial: Any) -> None:
            controller = getattr(controller, "_tune_controller", controller)
            controller._actor_force_cleanup_timeout = CHECKPOINT_SECONDS
            super().on_trial_add(controller, trial)

    return Patient


class _MedianRule(MedianStoppingRule):
    """Stops and nothing else: it neither pauses runs while there are few others, nor counts a run without numbers."""

    def _on_insufficient_samples(self, *_: Any) -> str:
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if self._time_attr in result and self._metric in result:
            super().on_trial_complete(tune_controller, trial, result)


def _loggers(sweep: Sweep) -> list[tune.Callback]:
    """Callbacks of the optional extras that the sweep file names; :func:`check_inputs` has looked for them."""
    places = {
        "wandb": ("ray.air.integrations.wandb", "WandbLoggerCallback", {"project": sweep.name}),
        "mlflow": ("ray.air.integrations.mlflow", "MLflowLoggerCallback", {"experiment_name": sweep.name}),
    }
    found = []
    for name in sweep.loggers:
        module, kind, options = places[name]
        found.append(getattr(importlib.import_module(module), kind)(**options))
    return found


def _fit(tuner: tune.Tuner) -> None:
    """Run the trials to their end.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once the trials under way wrote their checkpoints.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its newer tables are printed whatever `verbose` says
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # lines before the first evaluation lack its metric
    before = signal.getsignal(signal.SIGINT)
    try:
        tuner.fit()
        # Ray Tune puts a handler of its own there, which ends the trials and puts back what it found; where no signal
        # came it stays, and would swallow the next one.
        interrupted = signal.getsignal(signal.SIGINT) is before
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)
    if interrupted:
        raise KeyboardInterrupt
