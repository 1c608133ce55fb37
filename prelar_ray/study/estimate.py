"""What a study will cost, before anything starts: updates, hours, disk and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prelar_ray.config import RunConfig
from prelar_ray.distributed.resources import Resources
from prelar_ray.replay.memory import replay_bytes
from prelar_ray.study.plan import PlannedRun
from prelar_ray.study.sweep import Rates

__all__ = ["Estimate", "estimate", "measured_rates"]

CHECKPOINT_BYTES_PER_PARAMETER = 12
"""Float32 values and Adam's two moments."""


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
    config, gpus = run.config, sum(part.gpus for part in need)
    if config.algorithm:
        return Estimate(None, None, gpus, 0, 0)
    checkpoints = (config.checkpoint.keep_last + 1) * CHECKPOINT_BYTES_PER_PARAMETER * parameters
    if run.phase == "pretrain":
        updates, seconds, replay = config.pretrain.updates, rates.pretrain, 0
    else:
        tune = config.finetune
        updates = tune.initial_updates + (tune.env_steps - tune.random_steps) // tune.env_steps_per_update
        seconds, replay = rates.finetune, replay_bytes(config) * config.replay.shards
    hours = None if seconds is None else updates * seconds / 3600
    return Estimate(updates, hours, gpus, checkpoints + replay, replay)


def measured_rates(runs: Sequence[PlannedRun], updates: int = 3) -> Rates:
    """Seconds of an update of the first run of each phase on this machine, alone, on made-up batches."""
    import numpy as np

    from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
    from prelar_ray.types import IMAGE_SIZE, SequenceBatch

    rng = np.random.default_rng(0)

    def seconds(config: RunConfig, phase: str) -> float:
        settings = config.pretrain if phase == "pretrain" else config.finetune
        shape = settings.batch_size, settings.segment_length
        image = rng.integers(0, 256, (*shape, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
        if phase == "pretrain":
            pretrain = PretrainLearner(config)
            return float(np.median(_timed(lambda: pretrain.update(image), updates)))
        finetune, flags = FinetuneLearner(config, action=4), np.zeros(shape, np.bool_)
        action = rng.uniform(-1, 1, (*shape, 4)).astype(np.float32)
        batch = SequenceBatch(image, action, rng.normal(size=shape).astype(np.float32), flags, flags)
        return float(np.median(_timed(lambda: finetune.update(batch), updates)))

    first = {run.phase: run.config for run in reversed(runs) if not run.config.algorithm}
    return Rates(**{phase: seconds(config, phase) for phase, config in first.items()})


def _timed(update: Callable[[], object], updates: int) -> list[float]:
    import torch

    def done() -> None:
        update()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    done()  # the first holds what happens once
    seconds = []
    for _ in range(updates):
        began = time.perf_counter()
        done()
        seconds.append(time.perf_counter() - began)
    return seconds
