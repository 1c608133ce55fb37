"""What runs cost: wall time as they recorded it, and the GPUs they kept for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prelar_ray.config import RLLIB
from prelar_ray.reporting.trials import Trial

__all__ = ["HOW", "Cost", "TotalCost", "cost_of", "total_cost"]

HOW = (
    "GPU hours are wall time × GPUs. Wall time is what run.json records for the run's phase, all resumes together; it "
    "is written when a run stops. GPUs are those the run's configuration keeps busy: learner.ranks × learner.gpus (0 "
    "means a whole one), in fine-tuning plus collect.collectors × collect.gpus; none with device=cpu, or with "
    "device=auto on a machine that showed no GPU."
)


@dataclass(frozen=True)
class Cost:
    """Of one run, or of several; None where a part is not known."""

    seconds: float | None
    gpus: float | None = None

    @property
    def gpu_hours(self) -> float | None:
        """Wall time in hours times GPUs."""
        return None if self.seconds is None or self.gpus is None else self.seconds / 3600 * self.gpus


@dataclass(frozen=True)
class TotalCost:
    """Of several runs, as far as it is known."""

    seconds: float
    gpu_hours: float
    unknown: int
    """Runs whose cost is not known, or not entirely."""


def cost_of(trial: Trial) -> Cost:
    """Return the wall time of a run, seconds, and the GPUs it kept."""
    timings = trial.info.get("timings")
    seconds = timings.get(trial.phase) if isinstance(timings, Mapping) else None
    known = float(seconds) if isinstance(seconds, int | float) else None
    return Cost(known, _gpus(trial.config, trial.info, trial.phase))


def total_cost(trials: Iterable[Trial]) -> TotalCost:
    """Add up what is known of the runs that began."""
    costs = [cost_of(trial) for trial in trials if trial.info]
    return TotalCost(
        seconds=sum(cost.seconds or 0.0 for cost in costs),
        gpu_hours=sum(cost.gpu_hours or 0.0 for cost in costs),
        unknown=sum(cost.gpu_hours is None for cost in costs),
    )


def _gpus(config: Mapping[str, Any], info: Mapping[str, Any], phase: str) -> float | None:
    try:
        device = config["device"]
        if device == "cpu" or (device == "auto" and not info["hardware"].get("gpus")):
            return 0.0
        learner, collect = config["learner"], config["collect"]
        gpus = float(learner["ranks"]) * (float(learner["gpus"]) or 1.0)
        if phase == "finetune" and not str(config["method"]).startswith(RLLIB):  # whose environments have no GPU
            gpus += float(collect["collectors"]) * float(collect["gpus"])
        return gpus
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
