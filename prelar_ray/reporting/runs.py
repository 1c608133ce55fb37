"""What a run left behind, read so that a missing or damaged part costs that part only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import yaml

from prelar_ray.config import RLLIB
from prelar_ray.errors import DataError
from prelar_ray.statistics import Interval, mean_interval, success_interval
from prelar_ray.storage.records import Diagnostics, EvaluationRecord, read_diagnostics
from prelar_ray.storage.run_folder import IMPORT, RunFolder
from prelar_ray.telemetry.metrics import METRICS
from prelar_ray.telemetry.writers import read_metrics
from prelar_ray.types import Frames, check_frames

__all__ = ["Evaluation", "Prediction", "Run", "config_mapping", "find_runs", "load_run"]

T = TypeVar("T")

WITH_METRICS = ("pretrain", "finetune")
"""Phases that write metrics and predicted frames; the others are not blamed for having none."""


@dataclass(frozen=True)
class Evaluation:
    """One line of ``evaluations.jsonl``, with intervals over its episodes."""

    env_steps: int
    update: int
    task: str
    episodes: int
    returns: Interval
    success: Interval
    rule: str
    policy: str

    @classmethod
    def of(cls, row: EvaluationRecord) -> Evaluation:
        """Add intervals.

        Raises:
            DataError: there are no episodes.
        """
        returns, success = mean_interval(row.returns), success_interval(row.successes)
        count = len(row.returns)
        return cls(row.env_steps, row.update, row.task, count, returns, success, row.success_rule, row.policy)


@dataclass(frozen=True)
class Prediction:
    """``frames/prediction.npz``."""

    true: Frames
    reconstructed: Frames
    open_loop: Frames
    context: int  # frames that the model saw before it went on without looking


@dataclass
class Run:
    """One run, as far as it could be read."""

    path: Path
    info: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, float | None]] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    prediction: Prediction | None = None
    diagnosis: Diagnostics | None = None
    config_text: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Per part that could not be read (``record``, ``config``, ``metrics``, ...): why."""

    @property
    def phase(self) -> str:
        """Phase, or the folder's name where ``run.json`` is damaged."""
        return str(self.info.get("phase", self.path.name))

    @property
    def method(self) -> str:
        """Name of the method, or nothing where the configuration is damaged."""
        return str(self.config.get("method", ""))

    @property
    def is_baseline(self) -> bool:
        """Whether an algorithm of RLlib was trained, with other networks than this package's."""
        return self.method.startswith(RLLIB)

    @property
    def env_steps(self) -> int:
        """Environment steps taken."""
        return max(
            [int(row.get("env_steps") or 0) for row in self.metrics] + [e.env_steps for e in self.evaluations],
            default=0,
        )

    @property
    def updates(self) -> int:
        """Updates made."""
        return max((int(row.get("update") or 0) for row in self.metrics), default=0)

    def series(self, name: str, over: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return where the finite values of a metric were taken (``over`` update or env_steps), and the values."""
        pairs = [
            (row[over], row[name]) for row in self.metrics if _is_number(row.get(name)) and _is_number(row.get(over))
        ]
        array = np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
        return array[:, 0], array[:, 1]

    def names(self, group: str) -> list[str]:
        """Return the metrics of a group (``loss``) of which there is at least one value, in their documented order."""
        return [name for name in METRICS if name.startswith(f"{group}/") and len(self.series(name, "update")[0])]


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


def load_run(path: Path) -> Run:
    """Read a run folder; what cannot be read is named in ``missing``."""
    run = Run(path)
    run.info = _read(run, "record", lambda: RunFolder.open(path).info, {})
    folder = RunFolder(path, run.info)
    run.config_text = _read(run, "config", lambda: _text(folder.config_path), "")
    run.config = (
        _read(run, "config", lambda: config_mapping(folder.config_path, run.config_text), {}) if run.config_text else {}
    )
    if run.phase in WITH_METRICS or folder.metrics_path.exists():
        run.metrics = _read(run, "metrics", lambda: _metrics(folder.metrics_path), [])
    if run.phase not in ("record", "pretrain", IMPORT) or folder.evaluations_path.exists():
        run.evaluations = _read(run, "evaluations", lambda: _evaluations(folder), [])
    prediction = folder.frames / "prediction.npz"
    if (run.phase in WITH_METRICS and not run.is_baseline) or prediction.exists():
        run.prediction = _read(run, "prediction", lambda: _prediction(prediction), None)
    if folder.diagnostics_path.exists():
        run.diagnosis = _read(run, "diagnosis", lambda: read_diagnostics(folder.diagnostics_path), None)
    return run


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _read(run: Run, part: str, read: Callable[[], T], default: T) -> T:
    try:
        return read()
    except DataError as error:
        run.missing[part] = str(error)
        return default


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def config_mapping(path: Path, text: str) -> dict[str, Any]:
    """Return the keys of a configuration that was read from ``path``.

    Raises:
        DataError: it is no YAML, or holds no keys.
    """
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(config, dict):
        raise DataError(f"{path}: not a configuration, it holds no keys")
    return config


def _metrics(path: Path) -> list[dict[str, float | None]]:
    if not path.exists():
        raise DataError(f"{path}: missing; the run ended before its first log line, or the file was moved")
    rows = read_metrics(path)
    if not rows:
        raise DataError(f"{path}: empty; the run ended before its first log line (telemetry.every_updates)")
    return rows


def _evaluations(folder: RunFolder) -> list[Evaluation]:
    rows = folder.evaluations()
    if not rows:
        raise DataError(f"{folder.evaluations_path}: no evaluation yet; the run ended before its first one")
    return [Evaluation.of(row) for row in rows]


def _prediction(path: Path) -> Prediction:
    if not path.exists():
        raise DataError(f"{path}: missing; the run ended before it wrote predicted frames")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            true, reconstructed, open_loop = (
                check_frames(arrays[key], f"{path}: {key}") for key in ("true", "reconstructed", "open_loop")
            )
            context = int(arrays["context"])
    except Exception as error:  # damaged archives raise whatever zip, zlib and NumPy come upon
        raise DataError(f"{path}: damaged or of another format ({error})") from error
    if not len(true) == len(reconstructed) == len(open_loop) > 0:
        raise DataError(
            f"{path}: has {len(true)} true, {len(reconstructed)} reconstructed, {len(open_loop)} open-loop frames"
        )
    if not 0 < context <= len(true):
        raise DataError(f"{path}: context is {context}, expected 1 to {len(true)} frames")
    return Prediction(true, reconstructed, open_loop, context)
