"""Studies and plain run folders as trials: a plan, and what each planned run left behind.

::

    STUDY/
      study.yaml      what was asked for
      plan.json       {"runs": [{"name", "phase", "method", "task", "seed", "labels", "init"}, ...]}
      failures.json   by name, why a run failed for good; it may never have come to a folder of its own
      stopped.json    names of runs that a scheduler stopped early
      runs/NAME/      the run folder of each; missing where the run has not begun
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from prelar_ray.errors import DataError
from prelar_ray.reporting.protocols import protocol_of
from prelar_ray.reporting.runs import config_mapping, find_runs
from prelar_ray.reporting.trials import DAMAGED, FINISHED, NOT_BEGUN, RETURN, SUCCESS, Points, Trial
from prelar_ray.storage.records import EvaluationRecord, Plan, PlanEntry
from prelar_ray.storage.run_folder import RunFolder

__all__ = ["Study", "is_study", "read_runs", "read_study"]

WITHOUT_SUCCESS = ("dmc",)
"""Families of tasks whose episodes never count as a success, so that a rate of 0 says nothing."""


@dataclass(frozen=True)
class Study:
    """What was planned and what became of it."""

    path: Path
    text: str
    """Of ``study.yaml``; empty if it cannot be read."""
    trials: list[Trial]


def is_study(path: Path) -> bool:
    """Whether ``path`` is the folder of a study."""
    return (path / "study.yaml").is_file()


def read_study(path: Path) -> Study:
    """Read a study's plan and what its runs left so far.

    Raises:
        DataError: the plan is missing, half-written, malformed or empty. What is wrong with single runs is said in
            their ``reason``.
    """
    plan = _plan(path / "plan.json")
    source = path.resolve().name
    failures, stopped = _by_name(path / "failures.json"), _by_name(path / "stopped.json")
    trials: dict[str, Trial] = {}
    for run in plan.runs:
        trial = _trial(path / "runs" / run.name, source, run)
        if trial.status != FINISHED and run.name in failures:
            trial = replace(trial, status="failed", reason=trial.reason or str(failures[run.name]))
        elif trial.status != FINISHED and run.name in stopped:
            trial = replace(trial, status="stopped", reason="its scheduler stopped it early")
        if run.init and trial.status == NOT_BEGUN and (init := trials.get(run.init)) and not trial.reason:
            if init.status != FINISHED:
                trial = replace(trial, reason=f"it starts from {run.init}, which is {init.status}")
        trials[run.name] = trial
    try:
        text = (path / "study.yaml").read_text()
    except (OSError, ValueError):
        text = ""
    return Study(path, text, list(trials.values()))


def read_runs(paths: Sequence[Path]) -> list[Trial]:
    """Read pre-training and fine-tuning runs that are of no study; they have no labels.

    Raises:
        DataError: a folder is no run folder and holds none.
    """
    trials = []
    for path in find_runs(paths):
        record, config, _ = _record_and_config(path)
        phase = record.get("phase")
        if phase in ("pretrain", "finetune"):
            env = config.get("env")
            seed = config.get("seed")
            run = PlanEntry(
                name=path.name,
                phase=phase,
                method=str(config.get("method", "unknown method")),
                task=str(env.get("task")) if isinstance(env, Mapping) and phase == "finetune" else None,
                seed=seed if isinstance(seed, int) else 0,
            )
            trials.append(_trial(path, str(path.parent), run))
    return trials


def _plan(path: Path) -> Plan:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); without its plan there is nothing to report on a "
            "study: begin it, or name its runs themselves"
        ) from error
    try:
        return Plan.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        if first["type"] == "too_short" and place == "runs":
            raise DataError(f"{path}: plans no run; there is nothing to report") from error
        raise DataError(
            f"{path}: half-written or damaged ({place}: {first['msg']}); let the study write it again, or restore it "
            "from a copy"
        ) from error


def _by_name(path: Path) -> dict[str, Any]:
    """Return what a file of the study says about runs; nothing if it is missing.

    Raises:
        DataError: it is no JSON object.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); restore it from a copy, or delete it") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds no JSON object of runs by name; restore it from a copy, or delete it")
    return content


def _trial(path: Path, source: str, run: PlanEntry) -> Trial:
    record, config, damage = _record_and_config(path)
    status, why = str(record.get("status", NOT_BEGUN)), str(record.get("error") or "") or damage
    if damage and status in (FINISHED, NOT_BEGUN):
        status = DAMAGED
    elif not record and path.is_dir():
        why = "its folder holds no run.json"
    scores: dict[str, Points] = {}
    protocol: dict[str, str] = {}
    if record and config and run.phase == "finetune":  # without configuration nobody knows when evaluations were due
        try:
            episodes = _evaluations(path)
            scores = _scores(episodes, config, run.task or "")
            protocol = protocol_of(
                run.task or "",
                [of.success_rule for of in episodes],
                [of.policy for of in episodes],
                [len(of.returns) for of in episodes],
                record,
                config,
            )
            if not scores and status == FINISHED:
                why = why or "it has no evaluation"
        except DataError as error:
            status, why = DAMAGED, str(error)
    return Trial(
        name=run.name,
        source=source,
        phase=run.phase,
        method=run.method,
        task=run.task or "",
        seed=run.seed,
        labels=run.labels,
        status=status,
        reason=why,
        scores=scores,
        protocol=protocol if scores else {},
        info=record,
        config=config,
    )


def _record_and_config(path: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return what can be read of a run's record and configuration, and what is wrong with them."""
    if not (path / "run.json").is_file():
        return {}, {}, ""
    try:
        record = RunFolder.open(path).info
    except DataError as error:
        return {}, {}, str(error)
    config_path = path / "config.yaml"
    try:
        return record, config_mapping(config_path, config_path.read_text()), ""
    except DataError as error:
        return record, {}, str(error)
    except (OSError, ValueError) as error:
        return record, {}, f"{config_path}: cannot be read ({error})"


def _evaluations(path: Path) -> list[EvaluationRecord]:
    """Return the evaluations of a run.

    Raises:
        DataError: a line is damaged, or holds no episodes or a return that is no number.
    """
    folder = RunFolder(path, {})
    episodes = folder.evaluations()
    for of in episodes:
        if not of.returns or len(of.returns) != len(of.successes) or not all(map(math.isfinite, of.returns)):
            raise DataError(
                f"{folder.evaluations_path}: the evaluation at {of.env_steps} environment steps has "
                f"{len(of.returns)} returns and {len(of.successes)} successes, expected as many of each, all finite; "
                "delete that line to use the rest"
            )
    return episodes


def _scores(episodes: Sequence[EvaluationRecord], config: Mapping[str, Any], task: str) -> dict[str, Points]:
    """Return the mean scores of evaluations, each at the step at which it was due."""
    at: dict[int, EvaluationRecord] = {}
    every, total = _whole(config, "evaluation", "every_env_steps"), _whole(config, "finetune", "env_steps")
    for of in episodes:
        due = _due(of.env_steps, every, total)
        if due not in at or due == total:  # at the end there may be two: the last is of the final weights
            at[due] = of
    if not at:
        return {}
    steps = np.array(sorted(at), np.int64)
    returns = np.array([np.mean(at[step].returns) for step in steps.tolist()])
    successes = np.array([np.mean(at[step].successes) for step in steps.tolist()])
    scores: dict[str, Points] = {RETURN: (steps, returns)}
    if task.partition("/")[0] not in WITHOUT_SUCCESS:
        scores = {SUCCESS: (steps, successes), **scores}
    return scores


def _due(env_steps: int, every: int | None, total: int | None) -> int:
    """Return the step at which an evaluation was due.

    Collectors work in parallel, so evaluations begin some steps after they are due, and not the same number in every
    run; at the steps where they are due runs can be compared.
    """
    if every is None or total is None:
        return env_steps
    due = env_steps - env_steps % every
    return total if env_steps >= total else due or env_steps


def _whole(config: Mapping[str, Any], section: str, key: str) -> int | None:
    part = config.get(section)
    value = part.get(key) if isinstance(part, Mapping) else None
    return value if isinstance(value, int) and value > 0 else None
