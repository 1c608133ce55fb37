"""What runs and studies left behind, read so that a missing or damaged part costs that part only.

::

    STUDY/
      study.yaml      what was asked for
      plan.json       the planned runs
      failures.json   by name, why a run failed for good; it may never have come to a folder of its own
      stopped.json    names of runs that a scheduler stopped early
      runs/NAME/      the run folder of each; missing where the run has not begun
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from prelar_ray.config import yaml_text
from prelar_ray.errors import DataError
from prelar_ray.kinds import Kind, find_kind
from prelar_ray.reporting.prediction import PredictedFrames, read_prediction
from prelar_ray.reporting.protocols import protocol_of
from prelar_ray.reporting.scores import DAMAGED, FINISHED, NOT_BEGUN, RETURN, SUCCESS, RunScores
from prelar_ray.statistics import Interval, mean_interval, success_interval
from prelar_ray.storage.files import count_lines
from prelar_ray.storage.json_text import LARGEST
from prelar_ray.storage.reading import parse_record, read_bytes, read_json, read_record
from prelar_ray.storage.records import (
    Diagnostics,
    EvaluationRecord,
    NamesOfRuns,
    Plan,
    PlanEntry,
    ReasonsOfRuns,
    read_diagnostics,
)
from prelar_ray.storage.run_folder import IMPORT, RunFolder
from prelar_ray.telemetry.metrics import METRICS
from prelar_ray.telemetry.writers import read_metrics
from prelar_ray.wording import printable, shortened

__all__ = ["Run", "Study", "find_runs", "read_run", "read_scores_of", "read_study"]

T = TypeVar("T")
R = TypeVar("R", ReasonsOfRuns, NamesOfRuns)

MOST_TEXT = 2000
"""Characters of an error or command that a page shows."""

log = logging.getLogger(__name__)


@dataclass
class Run:
    """One run folder, as far as it could be read."""

    path: Path
    info: dict[str, Any] = field(default_factory=dict)
    """Content of ``run.json``."""
    config_text: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    evaluations: list[EvaluationRecord] = field(default_factory=list)
    metrics: list[dict[str, float | None]] = field(default_factory=list)
    prediction: PredictedFrames | None = None
    diagnosis: Diagnostics | None = None
    missing: dict[str, str] = field(default_factory=dict)
    """Per part that could not be read (``record``, ``config``, ``metrics``, ...): why."""

    def read(self, part: str, read: Callable[[], T], default: T) -> T:
        """Return what ``read`` returns or, where it finds damage, the default; the damage is noted."""
        try:
            return read()
        except DataError as error:
            self.missing[part] = str(error)
            return default

    @property
    def phase(self) -> str:
        """Phase, or the folder's name where ``run.json`` is damaged."""
        return str(self.info.get("phase", self.path.name))

    @property
    def method(self) -> str:
        """Name of the method, or nothing where the configuration is damaged."""
        return shortened(str(self.config.get("method", "")))

    @property
    def kind(self) -> Kind | None:
        """What was trained; None where nothing was, such as in a recording, or where the record is damaged."""
        return find_kind(self.phase, self.method)

    @property
    def env_steps(self) -> int:
        """Environment steps taken."""
        steps = [int(row["env_steps"] or 0) for row in self.metrics if "env_steps" in row]
        return max([*steps, *(evaluation.env_steps for evaluation in self.evaluations)], default=0)

    @property
    def updates(self) -> int:
        """Updates made."""
        return max((int(row["update"] or 0) for row in self.metrics), default=0)

    def scored(self, metric: str) -> list[EvaluationRecord]:
        """Return the evaluations that have this score."""
        return [of for of in self.evaluations if metric == RETURN or of.has_success]

    @cached_property
    def intervals(self) -> dict[str, list[Interval]]:
        """Score of each evaluation that has it, with its interval over episodes, by metric."""
        return {
            RETURN: [mean_interval(evaluation.returns) for evaluation in self.evaluations],
            SUCCESS: [self.success_of(of) for of in self.scored(SUCCESS)],
        }

    def success_of(self, evaluation: EvaluationRecord) -> Interval:
        """Return the success rate of an evaluation that has one, with its interval over episodes."""
        return success_interval(evaluation.successes)

    def series(self, name: str, over: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return where the finite values of a metric were taken (``over`` update or env_steps), and the values."""
        pairs = [(x, y) for row in self.metrics if _is_number(x := row.get(over)) and _is_number(y := row.get(name))]
        array = np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
        return array[:, 0], array[:, 1]

    def names(self, group: str) -> list[str]:
        """Return the metrics of a group (``loss``) of which there is at least one value, in their documented order."""
        return [name for name in METRICS if name.startswith(f"{group}/") and len(self.series(name, "update")[0])]


@dataclass(frozen=True)
class Study:
    """What was planned and what became of it."""

    path: Path
    text: str
    """Of ``study.yaml``; empty if it cannot be read."""
    runs: list[RunScores]


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders among the given folders and directly inside them.

    Raises:
        DataError: a folder is no run folder and holds none.
    """
    found: list[Path] = []
    for path in paths:
        folders = [path, *sorted(path.iterdir())] if path.is_dir() else []
        runs = [folder for folder in folders if (folder / "run.json").is_file()]
        if not runs:
            raise DataError(
                f"{path}: not a run folder, neither it nor a folder in it holds run.json; name one given as --out"
            )
        found += [run for run in runs if run not in found]
    return found


def read_run(path: Path) -> Run:
    """Read all of a run folder; what cannot be read is named in ``missing``."""
    run, folder = _begin(path), RunFolder(path, {})
    kind = run.kind
    if kind or folder.metrics_path.exists():
        run.metrics = run.read("metrics", lambda: _metrics(folder.metrics_path), [])
    evaluated = kind.is_evaluated if kind else run.phase not in ("record", IMPORT)
    if evaluated or folder.evaluations_path.exists():
        run.evaluations = run.read("evaluations", lambda: _evaluations(folder), [])
        if not run.evaluations:
            none = f"{folder.evaluations_path}: no evaluation yet; the run ended before its first one"
            run.missing.setdefault("evaluations", none)
    folder.info = run.info
    nothing: dict[str, str] = {}
    for name, missing in run.read("lines", folder.missing_lines, nothing).items():
        if not count_lines(run.path / name):  # else a damaged line is what matters
            run.missing.pop(Path(name).stem, None)
        run.missing.setdefault(Path(name).stem, missing)
    prediction = folder.frames / "prediction.npz"
    env = run.config.get("env")
    sees = not isinstance(env, dict) or env.get("image_size") != 0
    if (kind and kind.own_networks and sees) or prediction.exists():
        run.prediction = run.read("prediction", lambda: read_prediction(prediction), None)
    if folder.diagnostics_path.exists():
        run.diagnosis = run.read("diagnosis", lambda: read_diagnostics(folder.diagnostics_path), None)
    return run


def read_scores_of(paths: Sequence[Path]) -> list[RunScores]:
    """Read pre-training and fine-tuning runs that are of no study; they have no labels.

    Raises:
        DataError: a folder is no run folder and holds none.
    """
    found = []
    for run in map(_begin, find_runs(paths)):
        if run.info and run.kind:
            env, seed = run.config.get("env"), run.config.get("seed")
            entry = PlanEntry(
                name=run.path.name,
                phase=run.kind.phase,
                method=run.method or "unknown method",
                task=shortened(str(env.get("task"))) if isinstance(env, Mapping) and run.phase == "finetune" else None,
                seed=seed if isinstance(seed, int) and abs(seed) < 2**63 else 0,
            )
            found.append(_run_scores(run, str(run.path.parent), entry))
    return found


def read_study(path: Path) -> Study:
    """Read a study's plan and what its runs left so far.

    Raises:
        DataError: the plan is missing, half-written, malformed or empty. What is wrong with single runs is said in
            their ``reason``.
    """
    plan = _plan(path / "plan.json")
    failures, stopped = _by_name(ReasonsOfRuns, path / "failures.json"), _by_name(NamesOfRuns, path / "stopped.json")
    planned = {entry.name for entry in plan.runs}
    for name in [name for name in {**failures, **stopped} if name not in planned]:
        log.warning("%s: its failures.json or stopped.json names %s, which its plan has not", path, printable(name))
    runs: dict[str, RunScores] = {}
    for entry in plan.runs:
        run = _run_scores(_begin(path / "runs" / entry.name), path.resolve().name, entry)
        if run.status != FINISHED and entry.name in failures:
            run = replace(run, status="failed", reason=run.reason or _text(failures[entry.name]))
        elif run.status != FINISHED and entry.name in stopped:
            run = replace(run, status="stopped", reason="its scheduler stopped it early")
        init = runs.get(entry.init or "")
        if init and init.status != FINISHED and run.status == NOT_BEGUN and not run.reason:
            run = replace(run, reason=f"it starts from {entry.init}, which is {init.status}")
        runs[entry.name] = run
    try:
        text = read_bytes(path / "study.yaml").decode()
    except (DataError, ValueError):
        text = ""
    return Study(path, text, list(runs.values()))


def _begin(path: Path) -> Run:
    """Read a run's record and configuration; nothing where there is no record."""
    run = Run(path)
    if (path / "run.json").is_file():
        run.info = run.read("record", lambda: _texts(RunFolder.open(path).info), {})
        run.config = run.read("config", lambda: _config(run), {})
    return run


def _run_scores(run: Run, source: str, entry: PlanEntry) -> RunScores:
    damage = run.missing.get("record") or run.missing.get("config", "")
    status, reason = str(run.info.get("status", NOT_BEGUN)), str(run.info.get("error") or "") or damage
    if damage and status in (FINISHED, NOT_BEGUN):
        status = DAMAGED
    elif not run.info and run.path.is_dir():
        reason = "its folder holds no run.json"
    scores = pd.DataFrame()
    if run.info and run.config and entry.phase == "finetune":  # without them nobody knows when evaluations were due
        run.evaluations = run.read("evaluations", lambda: _evaluations(RunFolder(run.path, {})), [])
        scores = _scores(run)
        if "evaluations" in run.missing:
            status, reason = DAMAGED, run.missing["evaluations"]
        elif scores.empty and status == FINISHED:
            reason = reason or "it has no evaluation"
    return RunScores(
        name=entry.name,
        source=source,
        phase=entry.phase,
        method=shortened(entry.method),
        task=shortened(entry.task or ""),
        seed=entry.seed,
        labels=entry.labels,
        status=status,
        reason=reason,
        scores=scores,
        protocol={} if scores.empty else protocol_of(entry.task or "", run.evaluations, run.info, run.config),
        info=run.info,
        config=run.config,
    )


def _scores(run: Run) -> pd.DataFrame:
    """Return the mean scores of evaluations, each at the step at which it was due."""
    at: dict[int, EvaluationRecord] = {}
    every, total = _whole(run.config, "evaluation", "every_env_steps"), _whole(run.config, "finetune", "env_steps")
    for evaluation in run.evaluations:
        due = _due(evaluation.env_steps, every, total)
        if due not in at or due == total:  # at the end there may be two: the last is of the final weights
            at[due] = evaluation
    scores: dict[str, list[Any]] = {}
    if any(of.has_success for of in at.values()):
        scores[SUCCESS] = [math.nan if of.success_rate is None else of.success_rate for of in at.values()]
    scores[RETURN] = [np.mean(of.returns) for of in at.values()]
    return pd.DataFrame(scores, index=pd.Index(at, dtype=np.int64), dtype=np.float64).sort_index()


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


def _plan(path: Path) -> Plan:
    if not path.exists():
        raise DataError(
            f"{path}: cannot be read (No such file or directory); without its plan there is nothing to report on a "
            "study: begin it, or name its runs themselves"
        )
    remedy = "let the study write it again, or restore it from a copy"
    try:
        content = read_json(path, remedy)
        if isinstance(content, dict) and content.get("runs") == []:
            raise DataError(f"{path}: plans no run; there is nothing to report")
        return parse_record(Plan, content)
    except ValueError as error:
        raise DataError(f"{path}: half-written or damaged ({error}); {remedy}") from error
    except DataError as error:
        if "as JSON" in str(error):
            raise DataError(f"{path}: half-written or damaged, no JSON; {remedy}") from error
        raise


def _by_name(kind: type[R], path: Path) -> dict[str, Any]:
    """Return what a file of the study says about runs; nothing if it is missing."""
    return dict(read_record(kind, path, "restore it from a copy, or delete it").root) if path.exists() else {}


def _text(text: str) -> str:
    return printable(text, MOST_TEXT)


def _texts(value: Any) -> Any:
    """Return what a record says, with texts that no page has room for cut."""
    if isinstance(value, dict):
        return {printable(key): _texts(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_texts(inner) for inner in value]
    return _text(value) if isinstance(value, str) else value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _config(run: Run) -> dict[str, Any]:
    folder = RunFolder(run.path, run.info)
    content = read_bytes(folder.config_path)
    if folder.config_was_changed():
        log.warning("%s: was changed since the run wrote it, or is damaged: its checksum differs", folder.config_path)
    try:
        config = yaml_text.parse(content)
    except ValueError as error:
        raise DataError(f"{folder.config_path}: not YAML ({printable(str(error))})") from error
    if not isinstance(config, dict):
        raise DataError(f"{folder.config_path}: not a configuration, it holds no keys")
    run.config_text = content.decode("utf-8-sig")
    return {str(key): value for key, value in config.items()}


def _metrics(path: Path) -> list[dict[str, float | None]]:
    if not path.exists():
        raise DataError(f"{path}: missing; the run ended before its first log line, or the file was moved")
    rows = read_metrics(path)
    if not rows:
        raise DataError(f"{path}: empty; the run ended before its first log line (telemetry.every_updates)")
    return rows


def _evaluations(folder: RunFolder) -> list[EvaluationRecord]:
    return [
        of.model_copy(update={name: shortened(getattr(of, name)) for name in ("task", "success_rule", "policy")})
        for of in folder.evaluations()
    ]
