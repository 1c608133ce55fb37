"""Settings of what a run writes: checkpoints and metrics."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from prelar_ray.config.component import Component, PositiveInt

__all__ = ["CheckpointConfig", "TelemetryConfig"]


class CheckpointConfig(Component):
    """Checkpoints."""

    every_updates: PositiveInt = 1_000
    """Updates between checkpoints, which are due at its multiples."""
    keep_last: Annotated[int, Field(ge=1)] = 3
    """Newest checkpoints kept; the best by evaluation return stays beside them."""
    mirror: str = ""
    """Address, of any kind that pyarrow.fs knows (s3://bucket/runs), below which a copy of the run folder is kept."""


class TelemetryConfig(Component):
    """Logging."""

    every_updates: PositiveInt = 50
    """Updates between log lines, which are due at its multiples; metrics leave the device then."""
    loggers: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Services that get every line of metrics too: wandb, mlflow; each is an extra of its name."""
    project: Annotated[str, Field(min_length=1)] = "prelar_ray"
    """Project of Weights & Biases and experiment of MLflow that the run is a part of."""
