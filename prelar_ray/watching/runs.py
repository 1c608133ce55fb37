"""What one run is doing, from its record and the ends of its files of lines."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from prelar_ray.config import RunConfig
from prelar_ray.errors import DataError
from prelar_ray.kinds import find_kind
from prelar_ray.storage.files import read_last_json_lines
from prelar_ray.storage.reading import read_record, read_yaml
from prelar_ray.storage.records import EvaluationRecord, PlanEntry, RunRecord
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.writers import read_last_metrics
from prelar_ray.watching.problems import Problems
from prelar_ray.watching.records import ProcessStatus, RunState, RunStatus
from prelar_ray.wording import counted, shortened

__all__ = ["look_at_run", "seconds_between"]

Rows = Sequence[Mapping[str, Any]]

SILENT_SECONDS = 120.0
"""A run is silent after so long at the least."""
SILENT_INTERVALS = 10
"""A run is silent after so many usual intervals between its lines."""
SILENT_LONGEST = 2
"""A run is silent after so many of its longest recent intervals, in which it may have evaluated."""


def look_at_run(path: Path, now: float, problems: Problems, entry: PlanEntry | None = None) -> RunStatus | None:
    """Return what a run is doing; None, with its problem noted, where its record cannot be read.

    Args:
        path: its folder.
        now: seconds since the epoch.
        problems: is told of what cannot be read.
        entry: of the plan of its study; None for a run of none, which is told how to resume.
    """
    record = problems.read(lambda: read_record(RunRecord, path / "run.json"), None)
    if record is None:
        return None
    folder = RunFolder(path, {})
    process = ProcessStatus.of(record.process, record.last_start) if record.process else None
    state: RunState = record.status
    reason = record.error or ""
    if process and state == "running" and process.alive is False:
        state, reason = "interrupted", f"its process {process.pid} is gone"
    settings = _Settings()
    if entry is None or state != "finished":  # a plan and a run that has finished say the rest
        settings = problems.read(lambda: _settings(folder.config_path), settings)
    method, task, seed = (entry.method, entry.task, entry.seed) if entry else settings[:3]
    found: dict[str, Any] = _evaluation(folder, problems)
    if state != "finished":
        found |= _pace(folder, record, settings.config, state == "running", now, problems)
    resume = None
    if entry is None and state in ("interrupted", "failed") and folder.last_checkpoint():
        resume = f"prelar-ray {record.phase} --resume --out {shlex.quote(str(path))}"
    return RunStatus(
        name=entry.name if entry else str(path),
        path=str(path),
        phase=shortened(record.phase),
        method=shortened(method),
        task=shortened(task) if task and record.phase == "finetune" else None,
        seed=seed,
        labels=entry.labels if entry else {},
        status=state,
        created=record.created,
        finished=record.finished,
        process=process,
        reason=shortened(reason),
        resume=resume,
        **{"seconds": record.timings.get(record.phase), **found},
    )


def seconds_between(earlier: str | None, later: float | str | None) -> float | None:
    """Return the time from a time of a record to another or to seconds since the epoch; None where one is missing."""
    begin, end = _epoch(earlier), _epoch(later) if later is None or isinstance(later, str) else later
    return None if begin is None or end is None else max(0.0, end - begin)


def _epoch(text: str | None) -> float | None:
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


class _Settings(NamedTuple):
    """What is read of a configuration."""

    method: str = ""
    task: str | None = None
    seed: int | None = None
    config: RunConfig | None = None
    """None where another version wrote it that had other settings."""


def _settings(path: Path) -> _Settings:
    try:
        written = path.stat().st_mtime_ns
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it from a copy") from error
    return _parsed(path, written)


@lru_cache(maxsize=1000)
def _parsed(path: Path, written: int) -> _Settings:
    """Read a configuration as of when it was ``written``: YAML is slow, and who watches reads it again and again."""
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise DataError(f"{path}: not a configuration, it holds no keys; restore it from a copy")
    env, seed = tree.get("env"), tree.get("seed")
    task = env.get("task") if isinstance(env, dict) else None
    try:
        config = RunConfig.model_validate(tree, strict=True)
    except ValidationError:
        config = None
    return _Settings(str(tree.get("method", "")), task and str(task), seed if isinstance(seed, int) else None, config)


def _last_lines(path: Path, read: Callable[[Path], tuple[Rows, int]], problems: Problems) -> Rows:
    """Return the last lines of a file; none where it is missing, as before the first of them."""
    nothing: tuple[Rows, int] = ([], 0)
    rows, damaged = problems.read(lambda: read(path), nothing) if path.exists() else nothing
    if damaged:
        problems.add(f"{path}: {counted(damaged, 'line')} near its end cannot be read; left out")
    return rows


def _evaluation(folder: RunFolder, problems: Problems) -> dict[str, Any]:
    """Return the scores of the last evaluation; nothing where there is none."""
    path = folder.evaluations_path
    rows = _last_lines(path, read_last_json_lines, problems)
    last = problems.read(lambda: EvaluationRecord.parse(dict(rows[-1]), path) if rows else None, None)
    return {"evaluation_return": last.mean_return, "evaluation_success": last.success_rate} if last else {}


def _pace(
    folder: RunFolder, record: RunRecord, config: RunConfig | None, running: bool, now: float, problems: Problems
) -> dict[str, Any]:
    """Return how far a run is, how fast, and whether it is silent."""
    rows = _last_lines(folder.metrics_path, read_last_metrics, problems)
    found: dict[str, Any] = {f"train_{what}": _last(rows, f"train/episode_{what}") for what in ("return", "success")}
    kind = config and find_kind(record.phase, config.method)
    length = kind.length(config) if kind and config else None
    if length:
        done = int(max((row.get(length.counter) or 0 for row in rows), default=0))
        progress = min(1.0, done / length.total)
        found |= {"unit": length.unit, "done": done, "total": length.total, "progress": progress}
    if not running:
        return found
    spent = seconds_between(record.last_start, now)
    if spent is None:
        return found
    found["seconds"] = record.timings.get(record.phase, 0.0) + spent
    of_now = [row for row in rows if (row.get("time") or 0.0) >= now - spent]  # of this process
    times = [now - spent, *(row["time"] or 0.0 for row in of_now)]
    age = max(0.0, now - times[-1])
    found |= {"last_line_age": age, "silent": age > _patience(times)}
    if length and (rate := _rate(of_now, length.counter)):
        found |= {"rate": rate, "seconds_left": max(0, length.total - found["done"]) / rate}
    return found


def _patience(times: Sequence[float]) -> float:
    """Return after how long without a line a run counts as silent: never before its first line, seconds."""
    intervals = [max(0.0, later - earlier) for earlier, later in pairwise(times)]
    if not intervals:
        return float("inf")
    usual, longest = SILENT_INTERVALS * statistics.median(intervals), SILENT_LONGEST * max(intervals)
    return max(SILENT_SECONDS, usual, longest)


def _rate(rows: Rows, counter: str) -> float | None:
    """Return the units per second over lines; None where they do not tell.

    Evaluations are written later than what they count, so that the largest count matters, not the last.
    """
    if len(rows) < 2:
        return None
    seconds = (rows[-1].get("time") or 0.0) - (rows[0].get("time") or 0.0)
    units = max(row.get(counter) or 0 for row in rows) - (rows[0].get(counter) or 0)
    return units / seconds if seconds > 0 and units > 0 else None


def _last(rows: Rows, name: str) -> float | None:
    """Return the last value of a metric."""
    return next((value for row in reversed(rows) if (value := row.get(name)) is not None), None)
