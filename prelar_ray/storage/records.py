"""Records that one part of the package writes and another reads, each defined once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prelar_ray.errors import DataError
from prelar_ray.storage.files import atomic_file

__all__ = [
    "ANY_STEP",
    "CHECKPOINT_META",
    "NO_SUCCESS",
    "RLLIB_META",
    "USED_RATIO",
    "CeilingScores",
    "Diagnostics",
    "EvaluationRecord",
    "Manifest",
    "Plan",
    "PlanEntry",
    "ProbeScores",
    "read_diagnostics",
    "write_diagnostics",
]

CHECKPOINT_META = "meta.json"
"""File of a checkpoint with configuration, counters and the checksum of its tensors; written last."""

RLLIB_META = "rllib.json"
"""The corresponding file in a checkpoint of an RLlib algorithm."""

ANY_STEP, NO_SUCCESS = "any step", "none"
"""Rules by which episodes count as a success: any of their steps succeeds; the task has no success."""

WITHOUT_SUCCESS = ("dmc",)
"""Families of tasks without success, of which records of earlier versions say that no episode succeeded."""

USED_RATIO = 1.5
"""Errors of open-loop prediction, shuffled over own, from which on the latent action counts as used."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _OpenRecord(BaseModel):
    """Unknown keys are ignored, so that later versions can add some."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class EvaluationRecord(_OpenRecord):
    """One line of ``evaluations.jsonl``: an evaluation, episode by episode."""

    update: int
    env_steps: int
    task: str
    returns: tuple[float, ...]
    successes: tuple[bool, ...]
    """Whether each episode counts as a success by ``success_rule``; none where the task has no success."""
    success_rule: str
    """:data:`ANY_STEP` or :data:`NO_SUCCESS`, or another rule of another version."""
    policy: str
    """How actions were chosen: ``mode``."""

    @property
    def mean_return(self) -> float:
        """Mean over the episodes."""
        return sum(self.returns) / len(self.returns)

    @property
    def has_success(self) -> bool:
        """Whether the task has success."""
        return bool(self.successes) and self.task.partition("/")[0] not in WITHOUT_SUCCESS

    @property
    def success_rate(self) -> float | None:
        """Share of the episodes that succeeded; None where the task has no success."""
        return sum(self.successes) / len(self.successes) if self.has_success else None

    @classmethod
    def parse(cls, row: dict[str, Any], source: Path) -> EvaluationRecord:
        """Read a line of the file ``source``.

        Raises:
            DataError: a key is missing or of the wrong type.
        """
        try:
            return cls.model_validate(row)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            reason = f"lacks '{key}'" if first["type"] == "missing" else f"is malformed ({key}: {first['msg']})"
            raise DataError(f"{source}: an evaluation {reason}; delete that line to use the rest") from error


class PlanEntry(_OpenRecord):
    """A planned run of a study, an entry of ``plan.json``."""

    name: str = Field(min_length=1)
    """Path of its folder below ``runs/``."""
    phase: Literal["pretrain", "finetune"]
    method: str
    task: str | None = None
    """None for a pre-training."""
    seed: int = 0
    labels: dict[str, Any] = Field(default_factory=dict)
    """Settings chosen from the study's spaces, by dotted key."""
    init: str | None = None
    """The pre-training that it starts from: a name of this study, or a path."""


class Plan(_OpenRecord):
    """Content of ``plan.json``."""

    runs: list[PlanEntry] = Field(min_length=1)


class Manifest(_Record):
    """Content of a run's ``manifest.json``: its place in the study, and the command that repeats it."""

    study: str
    method: str
    task: str
    seed: int
    labels: dict[str, Any]
    command: str
    versions: dict[str, Any] | None
    commit: str | None
    hardware: dict[str, Any] | None


class CeilingScores(_Record):
    """Scores of a small network that was trained with the true actions on the frames, on the probe's test episodes."""

    r2: float | None
    """As of the probe: what the frames show of the true action, to a network of a minute."""
    r2_by_dimension: list[float | None]
    train_episodes: int
    trained_pairs: int
    """Pairs of frames trained on until the error on validation episodes was lowest, each as often as it came."""


class ProbeScores(_Record):
    """Scores of the linear map from latent to true action, on episodes that it was not fitted to."""

    r2: float | None
    """Mean over the action's dimensions that vary; None where none does. 1 perfect, 0 no better than the mean."""
    r2_by_dimension: list[float | None]
    r2_permuted: float | None
    """The same with latent and true actions paired at random."""
    ridge: float
    """Ridge penalty, chosen on a part of the training episodes."""
    train_episodes: int
    test_episodes: int
    test_steps: int
    unseen: bool
    """Whether the test episodes were held out of pre-training as well."""
    ceiling: CeilingScores | None = None
    """None where it was left out."""
    r2_over_ceiling: float | None = None
    """Share of the ceiling that the linear map reaches, over the dimensions whose ceiling is 0.01 or more; None without
    any.
    """
    r2_by_held_out_task: dict[str, float | None] = Field(default_factory=dict)
    """R² on all episodes of a source of the store, of a map fitted to all others; empty where there is one source."""
    explained_by_action: float | None = None
    """Share of the latent action's variance that the true action explains linearly."""
    explained_by_nuisance: float | None = None
    """The same of the motion of what moves by itself; None where it is not known."""

    @property
    def r2_held_out_task(self) -> float | None:
        """Mean over the sources."""
        known = [value for value in self.r2_by_held_out_task.values() if value is not None]
        return sum(known) / len(known) if known else None

    @property
    def comparisons(self) -> dict[str, float | None]:
        """What ``r2`` is read beside, where it was measured, by name of the metric."""
        found: dict[str, float | None] = {}
        if self.ceiling is not None:
            found |= {"probe/ceiling": self.ceiling.r2, "probe/r2_over_ceiling": self.r2_over_ceiling}
        others = {
            "probe/r2_held_out_task": self.r2_held_out_task,
            "probe/explained_by_action": self.explained_by_action,
            "probe/explained_by_nuisance": self.explained_by_nuisance,
        }
        return found | {name: value for name, value in others.items() if value is not None}


class Diagnostics(_Record):
    """``diagnostics.json``: the diagnostics of one checkpoint on one video store."""

    checkpoint: str
    update: int
    videos: str
    episodes: int
    """Episodes that the clips were taken from."""
    clips: int
    held_out: bool
    """Whether these episodes were held out of pre-training."""
    other_videos: bool = False
    """Whether pre-training used another store, and thus none of these videos."""
    metrics: dict[str, float | None]
    """Values by name, see :data:`~prelar_ray.telemetry.metrics.METRICS`."""
    kl_by_dimension: list[float]
    """Mean KL of the latent action to its prior, nats, largest first; empty for a deterministic one."""
    probe: ProbeScores | None
    without_probe: str
    """Why there is no probe."""

    @property
    def used(self) -> bool:
        """Whether the decoder uses the latent action, as far as that shows without true actions."""
        return (self.metrics.get("open_loop/shuffled_over_own") or 0.0) >= USED_RATIO


def write_diagnostics(path: Path, diagnostics: Diagnostics) -> None:
    """Write atomically.

    Raises:
        DataError: it cannot be written.
    """
    with atomic_file(path) as file:
        file.write(diagnostics.model_dump_json(indent=2).encode() + b"\n")


def read_diagnostics(path: Path) -> Diagnostics:
    """Read what :func:`write_diagnostics` wrote.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        return Diagnostics.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error.errors()[0]["msg"])
        raise DataError(f"{path}: cannot be read ({reason}); run `prelar-ray diagnose {path.parent}` again") from error
