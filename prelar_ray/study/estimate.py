"""What a study will cost, before anything starts: updates, hours, disk and memory."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from prelar_ray.distributed.resources import Resources
from prelar_ray.kinds import kind_of
from prelar_ray.study.plan import PlannedRun
from prelar_ray.study.sweep import Rates

__all__ = ["Estimate", "estimate", "measured_rates"]


@dataclass(frozen=True)
class Estimate:
    """Of one run."""

    updates: int | None
    """None for an algorithm of RLlib, which paces itself."""
    hours: float | None
    """Of wall time; None where no rate is known."""
    gpus: float
    """Held while it runs."""
    disk_bytes: int
    replay_bytes: int
    """In memory, over all shards."""

    @property
    def gpu_hours(self) -> float | None:
        """None where no rate is known."""
        return None if self.hours is None else self.hours * self.gpus


def estimate(run: PlannedRun, rates: Rates, need: Sequence[Resources], parameters: int) -> Estimate:
    """Estimate one run; of an algorithm of RLlib nothing is known but its GPUs.

    Args:
        rates: seconds per update.
        need: what each of its processes gets.
        parameters: trainable parameters of its networks.
    """
    gpus = sum(part.gpus for part in need)
    cost = kind_of(run.config, run.phase).cost(run.config, parameters)
    if cost is None:
        return Estimate(None, None, gpus, 0, 0)
    seconds: float | None = getattr(rates, run.phase)
    hours = None if seconds is None else cost.updates * seconds / 3600
    return Estimate(cost.updates, hours, gpus, cost.disk_bytes, cost.replay_bytes)


def measured_rates(runs: Sequence[PlannedRun], updates: int = 3) -> Rates:
    """Seconds of an update of the first run of each phase on this machine, alone, on made-up batches."""
    seconds: dict[str, float] = {}
    for run in runs:
        if run.phase not in seconds and (measured := kind_of(run.config, run.phase).measure(run.config, updates)):
            seconds[run.phase] = statistics.median(measured)
    return Rates(**seconds)
