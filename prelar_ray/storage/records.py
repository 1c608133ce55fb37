"""Records that one part of the package writes and another reads, each defined once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator

from prelar_ray.errors import DataError
from prelar_ray.storage.files import filter_json_lines, read_json_lines, write_json
from prelar_ray.storage.names import name_problem
from prelar_ray.storage.reading import first_mistake, read_record, validated

__all__ = [
    "ANY_STEP",
    "CHECKPOINT_META",
    "NO_SUCCESS",
    "RLLIB_META",
    "USED_RATIO",
    "CeilingScores",
    "Count",
    "Diagnostics",
    "EvaluationRecord",
    "Fetched",
    "FileName",
    "Finite",
    "Holder",
    "Manifest",
    "MetricLine",
    "NamesOfRuns",
    "Plan",
    "PlanEntry",
    "ProbeScores",
    "ProcessRecord",
    "ReasonsOfRuns",
    "RunRecord",
    "count_lines_until",
    "drop_lines_after",
    "finite",
    "read_diagnostics",
    "write_diagnostics",
]

Count = Annotated[int, Field(ge=0, lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def finite(value: float) -> float | None:
    """Return a number as records hold it: None for NaN and infinities, which JSON lacks."""
    return value if math.isfinite(value) else None


def _refuse_path(name: str) -> str:
    if problem := name_problem(name):
        raise ValueError(f"a name that {problem}")
    return name


FileName = Annotated[str, AfterValidator(_refuse_path)]
"""A path that stays in its folder."""
SettingKey = Annotated[str, Field(max_length=200, pattern=r"^[^\p{Cc}\p{Zl}\p{Zp}]+$")]
"""Dotted key of a setting."""

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


class ProcessRecord(_OpenRecord):
    """A process, as :func:`~prelar_ray.storage.processes.this_process` identifies it."""

    host: str
    pid: Annotated[int, Field(ge=1, lt=2**31)]
    started: Finite


class Holder(ProcessRecord):
    """Content of the file of a lock: the process that holds it, or that did until it was killed."""

    since: str | None = None


class _Hardware(_OpenRecord):
    cpu: str = ""
    instructions: list[str] = []
    cores: Count | None = None
    memory_gib: Finite | None = None
    gpus: list[str] = []


class RunRecord(_OpenRecord):
    """What ``run.json`` must hold to be used; it may hold more."""

    phase: str
    status: Literal["running", "finished", "interrupted", "failed"]
    versions: dict[str, str]
    hardware: _Hardware
    timings: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    summary: dict[str, bool | int | Finite | str | None]
    id: str | None = None
    created: str | None = None
    finished: str | None = None
    resumed: list[str] = []
    error: str | None = None
    command: str | None = None
    commit: str | None = None
    process: ProcessRecord | None = None
    config_sha256: str | None = None
    lines: dict[str, Count] = {}
    """Of metrics and evaluations, when the run ended."""

    @property
    def last_start(self) -> str | None:
        """When its process began: at the last resume, where there was one."""
        return self.resumed[-1] if self.resumed else self.created


class Fetched(_OpenRecord):
    """``fetched.json``: where a run folder was copied from. Such a run was written by whoever could write there."""

    address: str
    """Without keys and options."""
    time: str
    files: Count
    bytes: Count
    trusted: str | None = None
    """When somebody said that its pickles may be executed."""


class MetricLine(BaseModel):
    """One line of ``metrics.jsonl``; all other keys are metrics, null where one was not finite."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, float | None]

    update: Count
    env_steps: Count = 0
    time: Finite = 0.0


class EvaluationRecord(_OpenRecord):
    """One line of ``evaluations.jsonl``: an evaluation, episode by episode."""

    update: Count
    env_steps: Count
    task: str
    returns: tuple[float, ...]
    successes: tuple[bool, ...]
    """Whether each episode counts as a success by ``success_rule``; none where the task has no success."""
    success_rule: str
    """:data:`ANY_STEP` or :data:`NO_SUCCESS`, or another rule of another version."""
    policy: str
    """How actions were chosen: ``mode``."""
    replaced: Count = 0
    """More episodes that failed and were replaced; success and return are of those that did not fail."""

    @model_validator(mode="after")
    def _can_be_averaged(self) -> Self:
        expected, counts = len(self.returns), "as many of each"
        if self.success_rule == NO_SUCCESS:
            expected, counts = 0, "returns alone"
        if not self.returns or len(self.successes) != expected or not all(map(math.isfinite, self.returns)):
            raise ValueError(
                f"the evaluation at {self.env_steps} environment steps has {len(self.returns)} returns and "
                f"{len(self.successes)} successes, expected {counts}, all finite"
            )
        return self

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
            DataError: a key is missing or of the wrong type, or it has no episodes.
        """
        try:
            return validated(cls, row)
        except ValidationError as error:
            first = error.errors()[0]
            reason = f"an evaluation is malformed ({first_mistake(error)})"
            if first["type"] == "missing":
                reason = f"an evaluation lacks {first['loc'][0]!r}"
            elif first["type"] == "value_error":
                reason = first_mistake(error)
            raise DataError(f"{source}: {reason}; delete that line to use the rest") from error


def drop_lines_after(path: Path, update: int) -> None:
    """Drop the lines of metrics or evaluations after ``update``, the checkpoint from which a run resumes.

    Raises:
        DataError: a line is damaged, or the file cannot be written.
    """
    filter_json_lines(path, lambda row: _update(row, path) <= update)


def count_lines_until(path: Path, update: int) -> int:
    """Return how many lines of metrics or evaluations there are up to ``update``; 0 where there is no file.

    Raises:
        DataError: a line is damaged.
    """
    rows = read_json_lines(path) if path.exists() else []
    return sum(_update(row, path) <= update for row in rows)


def _update(row: dict[str, Any], path: Path) -> int:
    update = row.get("update", 0)
    if not isinstance(update, int) or isinstance(update, bool):
        raise DataError(f"{path}: a line has no whole number as its update; delete that line to use the rest")
    return update


class PlanEntry(_OpenRecord):
    """A planned run of a study, an entry of ``plan.json``."""

    name: FileName
    """Path of its folder below ``runs/``."""
    phase: Literal["pretrain", "finetune"]
    method: str
    task: str | None = None
    """None for a pre-training."""
    seed: Annotated[int, Field(gt=-(2**63), lt=2**63)] = 0
    labels: dict[SettingKey, Any] = Field(default_factory=dict)
    """Settings chosen from the study's spaces, by dotted key."""
    init: str | None = None
    """The pre-training that it starts from: a name of this study, or a path."""


class Plan(_OpenRecord):
    """Content of ``plan.json``."""

    runs: list[PlanEntry] = Field(min_length=1)


class ReasonsOfRuns(RootModel[dict[str, str]]):
    """Content of ``failures.json``: by name, why a run failed for good."""


class NamesOfRuns(RootModel[dict[str, bool]]):
    """Content of ``stopped.json``: runs that a scheduler stopped."""


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

    r2: Finite | None
    """Mean over the action's dimensions that vary; None where none does. 1 perfect, 0 no better than the mean."""
    r2_by_dimension: list[Finite | None]
    r2_permuted: Finite | None
    """The same with latent and true actions paired at random."""
    ridge: Finite
    """Ridge penalty, chosen on a part of the training episodes."""
    train_episodes: Count
    test_episodes: Count
    test_steps: Count
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
    update: Count
    videos: str
    episodes: Count
    """Episodes that the clips were taken from."""
    clips: Count
    held_out: bool
    """Whether these episodes were held out of pre-training."""
    other_videos: bool = False
    """Whether pre-training used another store, and thus none of these videos."""
    metrics: dict[str, Finite | None]
    """Values by name, see :data:`~prelar_ray.telemetry.metrics.METRICS`."""
    kl_by_dimension: list[Finite]
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
    write_json(path, diagnostics.model_dump(mode="json"))


def read_diagnostics(path: Path) -> Diagnostics:
    """Read what :func:`write_diagnostics` wrote.

    Raises:
        DataError: the file is missing or damaged.
    """
    return read_record(Diagnostics, path, f"run `prelar-ray diagnose {path.parent}` again")
