"""``diagnostics.json``: what `prelar-ray diagnose` found out about a run, for people, programs and the report."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from prelar_ray.errors import DataError
from prelar_ray.files import atomic_file

__all__ = ["Diagnosis", "ProbeScores", "read_diagnosis", "write_diagnosis"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProbeScores(_Record):
    """How well a linear map finds the true action in the latent action, on episodes that it was not fitted to."""

    r2: float | None
    """Mean over the action's dimensions that vary; None where none does. 1 perfect, 0 no better than the mean."""
    r2_by_dimension: list[float | None]
    r2_permuted: float | None
    """The same with latent and true actions paired at random."""
    ridge: float
    """Penalty, chosen on a part of the training episodes."""
    train_episodes: int
    test_episodes: int
    test_steps: int
    unseen: bool
    """Whether pre-training did not see the test episodes either."""


class Diagnosis(_Record):
    """The diagnostics of one checkpoint on one video store."""

    checkpoint: str
    update: int
    videos: str
    episodes: int
    """Episodes that the clips were taken from."""
    clips: int
    held_out: bool
    """Whether these are episodes that pre-training did not see."""
    other_videos: bool = False
    """Whether the store is another one than pre-training's, so that nothing of it was seen."""
    metrics: dict[str, float | None]
    """By the names of :data:`~prelar_ray.telemetry.metrics.METRICS`."""
    kl_by_dimension: list[float]
    """Mean KL of the latent action to its prior, nats, largest first; empty for a deterministic one."""
    probe: ProbeScores | None
    without_probe: str
    """Why there is no probe."""


def write_diagnosis(path: Path, diagnosis: Diagnosis) -> None:
    """Write atomically.

    Raises:
        DataError: it cannot be written.
    """
    with atomic_file(path) as file:
        file.write(diagnosis.model_dump_json(indent=2).encode() + b"\n")


def read_diagnosis(path: Path) -> Diagnosis:
    """Read what :func:`write_diagnosis` wrote.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        return Diagnosis.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error.errors()[0]["msg"])
        raise DataError(f"{path}: cannot be read ({reason}); run `prelar-ray diagnose {path.parent}` again") from error
