"""What a study is doing: who drives it, what became of its runs, and when it will be done."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from prelar_ray.storage.reading import read_record, read_yaml
from prelar_ray.storage.records import Holder, PlanEntry
from prelar_ray.storage.study_folder import DRIVER, StudyFolder
from prelar_ray.watching.forecast import seconds_left
from prelar_ray.watching.problems import Problems
from prelar_ray.watching.records import ProcessStatus, RunState, RunStatus, StudyStatus
from prelar_ray.watching.runs import look_at_run, seconds_between
from prelar_ray.wording import shortened

__all__ = ["look_at_study"]

ORDER: tuple[RunState, ...] = ("finished", "running", "pending", "failed", "interrupted", "stopped")


def look_at_study(path: Path, now: float, problems: Problems) -> StudyStatus | None:
    """Return what a study is doing; None, with its problem noted, where its plan cannot be read.

    Args:
        path: its folder.
        now: seconds since the epoch.
        problems: is told of what cannot be read.
    """
    folder = StudyFolder(path)
    plan: list[PlanEntry] | None = problems.read(folder.plan, None)
    if plan is None:
        return None
    driver = _driver(path, problems)
    driven = driver is not None and driver.alive is not False
    nobody: dict[str, str] = {}
    none_stopped: dict[str, bool] = {}
    failures, stopped = problems.read(folder.failures, nobody), problems.read(folder.stopped, none_stopped)
    runs = [run for entry in plan if (run := _planned(folder, entry, failures, stopped, now, problems))]
    begun = {run.name for run in runs}
    pending = [entry for entry in plan if entry.name not in begun]
    counts = Counter[RunState](run.status for run in runs) + Counter[RunState]({"pending": len(pending)})
    begin_again = ["prelar-ray", "tune", str(path / "study.yaml"), "--out", str(path), "--resume"]
    cluster = problems.read(folder.cluster, "auto")
    begin_again += ["--cluster", cluster] if cluster != "auto" else []
    begin_again += ["--retry-failed"] if counts["failed"] else []
    left = len(plan) - counts["finished"] - counts["stopped"]
    return StudyStatus(
        name=_name(path, problems),
        path=str(path),
        driver=driver,
        driven=driven,
        counts={state: counts[state] for state in ORDER if counts[state]},
        pending=dict(Counter(entry.phase for entry in pending)),
        seconds=seconds_between(driver.since, now) if driver and driven else _span(runs),
        seconds_left=seconds_left(runs, pending) if driven else None,
        resume=shlex.join(begin_again) if left and not driven else None,
        runs=runs,
    )


def _planned(
    folder: StudyFolder,
    entry: PlanEntry,
    failures: Mapping[str, str],
    stopped: Mapping[str, bool],
    now: float,
    problems: Problems,
) -> RunStatus | None:
    """Return what a planned run is doing; None where it has not begun."""
    path, failure = folder.run_path(entry.name), failures.get(entry.name)
    begun = (path / "run.json").exists()
    run = look_at_run(path, now, problems, entry) if begun else None
    if run is None and begun:
        failure = failure or "its run.json cannot be read"
    if run is None:
        return None if failure is None else _failed(path, entry, failure)
    if run.status != "finished" and failure is not None:
        return run.model_copy(update={"status": "failed", "reason": run.reason or shortened(failure)})
    if run.status != "finished" and entry.name in stopped:
        return run.model_copy(update={"status": "stopped", "reason": ""})
    return run


def _failed(path: Path, entry: PlanEntry, reason: str) -> RunStatus:
    """Return the status of a run that failed before it left anything that can be read."""
    return RunStatus(
        name=entry.name,
        path=str(path),
        phase=entry.phase,
        method=shortened(entry.method),
        task=shortened(entry.task) if entry.task else None,
        seed=entry.seed,
        labels=entry.labels,
        status="failed",
        reason=shortened(reason),
    )


def _driver(path: Path, problems: Problems) -> ProcessStatus | None:
    """Return the process that holds a study's lock, or did until it was killed."""
    lock = path / DRIVER
    holder = problems.read(lambda: read_record(Holder, lock), None) if lock.exists() else None
    return ProcessStatus.of(holder, holder.since) if holder else None


def _name(path: Path, problems: Problems) -> str:
    tree = problems.read(lambda: read_yaml(path / "study.yaml"), None)
    name = tree.get("name") if isinstance(tree, dict) else None
    return shortened(str(name or path.resolve().name))


def _span(runs: Sequence[RunStatus]) -> float | None:
    """Return the time from the start of the first run to the end of the last, seconds."""
    begun = min((run.created for run in runs if run.created), default=None)
    return seconds_between(begun, max((run.finished for run in runs if run.finished), default=None))
