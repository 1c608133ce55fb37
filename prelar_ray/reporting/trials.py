"""Runs as rows of a comparison: what each was, how it ended, its scores over environment steps; and series of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from prelar_ray.errors import UsageError

__all__ = [
    "DAMAGED",
    "FINISHED",
    "METRICS",
    "NOT_BEGUN",
    "RETURN",
    "SUCCESS",
    "SYMBOLS",
    "Points",
    "Trial",
    "name_series",
    "shown",
    "varying_labels",
]

SUCCESS, RETURN = "success_rate", "episode_return"
METRICS = {SUCCESS: "success rate", RETURN: "episode return"}
"""What a run is scored by, as columns of tables name it and as readers do."""

FINISHED, NOT_BEGUN, DAMAGED = "finished", "not begun", "damaged"
"""States of a trial beside those that ``run.json`` knows: running, interrupted, failed."""

SYMBOLS = {
    "loss.action_kl_weight": "β_a",
    "loss.consistency_weight": "β_r",
    "loss.dynamics_kl_weight": "β",
    "finetune.bonus.weight": "β_int",
    "pretrain.seed": "pre-training seed",
}
"""How names of series call settings: as the paper does, or where the last part of the key would mislead."""

Points = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""Environment steps, ascending, and the score at each: both ``(E,)``."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One run: a method with its settings, on a task, from a seed."""

    name: str
    """Names it among those of its source."""
    source: str
    """Study, folder or file that it comes from."""
    phase: str
    method: str
    task: str
    """Empty where pre-training is of no one task."""
    seed: int
    labels: Mapping[str, Any] = field(default_factory=dict)
    """Settings by dotted key that tell runs of one method apart."""
    status: str = FINISHED
    reason: str = ""
    """Why it did not finish, or why what it left cannot be used."""
    scores: Mapping[str, Points] = field(default_factory=dict)
    """By metric; only those that the run has."""
    protocol: Mapping[str, str] = field(default_factory=dict)
    """How its scores were measured, item by item; empty where nobody says."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """Content of ``run.json``."""
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether it ran to its end and has scores."""
        return self.status == FINISHED and bool(self.scores)

    @property
    def last_step(self) -> int:
        """The last environment step at which it was evaluated; 0 if it never was."""
        return max((int(steps[-1]) for steps, _ in self.scores.values()), default=0)

    def score_at(self, metric: str, step: int) -> float | None:
        """Return the score of the evaluation at exactly ``step``, None if there was none."""
        if metric not in self.scores:
            return None
        steps, values = self.scores[metric]
        found = np.flatnonzero(steps == step)
        return float(values[found[0]]) if len(found) else None


def name_series(trials: Iterable[Trial]) -> dict[str, list[Trial]]:
    """Group trials into series: a method, with those of its settings that vary among its trials.

    Raises:
        UsageError: two trials with scores are the same seed of one series on one task.
    """
    trials = list(trials)
    varying = varying_labels(trials)
    series: dict[str, list[Trial]] = {}
    for trial in trials:
        series.setdefault(_series_name(trial, varying[trial.method]), []).append(trial)
    for name, members in series.items():
        _refuse_duplicates(name, members)
    return series


def varying_labels(trials: Iterable[Trial]) -> dict[str, list[str]]:
    """Return per method the dotted keys of the settings that differ among its trials."""
    by_method: dict[str, list[Trial]] = {}
    for trial in trials:
        by_method.setdefault(trial.method, []).append(trial)
    varying = {}
    for method, members in by_method.items():
        keys = dict.fromkeys(key for trial in members for key in trial.labels)
        varying[method] = [key for key in keys if len({_label(trial, key) for trial in members}) > 1]
    return varying


def shown(value: object) -> str:
    """Return a setting's value as text; values that are the same number read the same."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"{value:.12g}"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _label(trial: Trial, key: str) -> str | None:
    return shown(trial.labels[key]) if key in trial.labels else None


def _series_name(trial: Trial, keys: Sequence[str]) -> str:
    short = _short_names(keys)
    settings = [f"{short[key]}={value}" for key in keys if (value := _label(trial, key)) is not None]
    return f"{trial.method} ({', '.join(settings)})" if settings else trial.method


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return what each dotted key is called: its symbol or last part, or all of it where two would be the same."""
    last = [SYMBOLS.get(key, key.rpartition(".")[2]) for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def _refuse_duplicates(name: str, members: Sequence[Trial]) -> None:
    seen: dict[tuple[str, int], Trial] = {}
    for trial in members:
        if not trial.scores:
            continue
        first = seen.setdefault((trial.task, trial.seed), trial)
        if first is not trial:
            raise UsageError(
                f"{name} on {trial.task}, seed {trial.seed}, is there twice: {first.name} of {first.source} and "
                f"{trial.name} of {trial.source}; a seed counts once, leave one of them out"
            )
