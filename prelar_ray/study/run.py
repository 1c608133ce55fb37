"""A study: what is left to run, whether it has a place, the runs, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any

from prelar_ray.distributed.gauges import Gauges
from prelar_ray.distributed.ray_backend import cluster_nodes
from prelar_ray.distributed.resources import Resources
from prelar_ray.distributed.shared_folder import check_shared
from prelar_ray.storage.study_folder import StudyFolder
from prelar_ray.study.placement import check_placeable
from prelar_ray.study.plan import PlannedRun
from prelar_ray.study.proposals import Proposals
from prelar_ray.study.queue import RunQueue
from prelar_ray.study.sweep import Sweep
from prelar_ray.study.table import StudyTable
from prelar_ray.study.trial import trial_settings
from prelar_ray.study.tune import run_trials

__all__ = ["run_study"]


def run_study(sweep: Sweep, runs: Sequence[PlannedRun], folder: StudyFolder, retry_failed: bool) -> dict[str, str]:
    """Run what has not finished, on the Ray that this process is connected to; returns the status of every run.

    Args:
        retry_failed: also those that failed for good before.

    Raises:
        ResourceError: a run can never be placed, or the nodes do not share the study's folder.
        KeyboardInterrupt: after Ctrl-C, once the runs that were at work wrote their checkpoints.
    """
    left = _left(runs, folder, retry_failed)
    nodes = cluster_nodes()
    check_placeable(left, nodes, sweep.concurrent)
    check_shared(folder.path)
    if left:
        for run in left:
            folder.note_failure(run.name, None)
        queue = RunQueue(left, folder, Proposals(sweep, runs, folder) if sweep.search.kind == "optuna" else None)
        before = {run.name: folder.status(run.name) for run in runs}
        with StudyTable(runs, before) as table, closing(Gauges(study=sweep.name)) as gauges:
            run_trials(sweep, folder, queue, partial(_settings, sweep, folder, nodes), table, gauges)
    failures = folder.failures()
    return {run.name: "failed" if run.name in failures else folder.status(run.name) for run in runs}


def _left(runs: Sequence[PlannedRun], folder: StudyFolder, retry_failed: bool) -> list[PlannedRun]:
    """The runs that have not ended, and of those that failed for good all or none."""
    failures = folder.failures()
    return [
        run
        for run in runs
        if folder.status(run.name) not in ("finished", "stopped") and (retry_failed or run.name not in failures)
    ]


def _settings(sweep: Sweep, folder: StudyFolder, nodes: Sequence[Resources], run: PlannedRun) -> dict[str, Any]:
    """What the trial of a run is configured with."""
    config, init = run.config, run.init_path
    if run.init:
        init = folder.run_path(run.init)
    if sweep.mirror:
        address = f"{sweep.mirror.rstrip('/')}/{sweep.name}/{run.name.rpartition('/')[0]}"
        config = config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"mirror": address})})
    out = folder.run_path(run.name)
    labels = {"study": sweep.name, "method": run.method, "task": run.task, "seed": run.seed, "labels": dict(run.labels)}
    return {
        "name": run.name,
        "manifest": labels,
        **trial_settings(config, run.phase, out, nodes, init, sweep.concurrent),
    }
