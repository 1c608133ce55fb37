"""Folders of runs and studies in the middle of their work, with times that a test chooses."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prelar_ray.config import to_yaml
from prelar_ray.storage.files import append_json_line
from prelar_ray.storage.processes import this_process
from prelar_ray.storage.run_folder import RunFolder
from tests.tiny import tiny_config

BEGAN = 1_800_000_000.0
"""When runs begin, seconds since the epoch."""
TASK = "prelar/point-reach"


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def begin(path: Path, phase: str = "finetune", *overrides: str, began: float = BEGAN) -> RunFolder:
    """A run of 1000 environment steps or updates that this process has begun; nobody holds its lock."""
    settings = (f"env.task={TASK}", "finetune.env_steps=1000", "finetune.random_steps=10", "pretrain.updates=1000")
    folder = RunFolder.create(path, to_yaml(tiny_config(*settings, *overrides)), phase)
    folder.close()
    folder.update(created=iso(began))
    return folder


def write_lines(folder: RunFolder, lines: Iterable[tuple[float, int]], **metrics: float) -> None:
    """Lines of metrics: seconds after the beginning, and updates, which are the environment steps too."""
    for seconds, count in lines:
        row = {"time": BEGAN + seconds, "update": count, "env_steps": count, **metrics}
        append_json_line(folder.metrics_path, row)


def write_evaluation(folder: RunFolder, returns: list[float], successes: list[bool]) -> None:
    row = {"update": 1, "env_steps": 1, "task": TASK, "returns": returns, "successes": successes}
    append_json_line(folder.evaluations_path, {**row, "success_rule": "any step", "policy": "mode"})


def finish(folder: RunFolder, seconds: float, status: str = "finished", **fields: Any) -> None:
    """The run ends after so many seconds."""
    phase = folder.info["phase"]
    folder.update(status=status, finished=iso(BEGAN + seconds), timings={phase: seconds}, **fields)


def gone_process() -> dict[str, Any]:
    """The identity of a process that has ended."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    return {**this_process(), "pid": ended.pid, "started": 1.0}


def kill(folder: RunFolder, checkpoint: bool = True) -> None:
    """The run's process is gone without a word."""
    folder.update(process=gone_process())
    if checkpoint:
        (folder.checkpoints / "000000001").mkdir(parents=True)


def plan_entry(name: str, **fields: Any) -> dict[str, Any]:
    phase, method, *_, seed = name.split("/")
    task = TASK if phase == "finetune" else None
    seed = int(seed.removeprefix("seed-"))
    return {"name": name, "phase": phase, "method": method, "task": task, "seed": seed, "labels": {}, **fields}


def make_study(path: Path, *names: str, init: dict[str, str] | None = None) -> Path:
    """A study of runs named PHASE/METHOD/seed-N, none of which has begun."""
    path.mkdir(parents=True)
    (path / "study.yaml").write_text(f"name: {path.name}-name\n")
    plan = [plan_entry(name, init=(init or {}).get(name)) for name in names]
    (path / "plan.json").write_text(json.dumps({"runs": plan}))
    return path


def drive(study: Path, process: dict[str, Any] | None = None, since: float = BEGAN) -> None:
    """A process is at work on the study: this one, or another."""
    record = (process or this_process()) | {"since": iso(since)}
    (study / "driver.json").write_text(json.dumps(record))


def contents(top: Path) -> dict[str, tuple[int, bytes]]:
    """When each entry below a folder was changed, and what it holds."""
    return {
        str(path.relative_to(top)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(top.rglob("*"))
    }
