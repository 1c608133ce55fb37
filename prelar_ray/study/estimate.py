"""What a study will cost, before anything starts: updates, hours, disk, memory, and whether a trial has a place."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prelar_ray.config import RunConfig
from prelar_ray.distributed.resources import Resources, plan_resources
from prelar_ray.errors import ResourceError
from prelar_ray.replay.memory import replay_bytes
from prelar_ray.study.plan import PlannedRun
from prelar_ray.study.sweep import Rates
from prelar_ray.study.trial import DRIVER
from prelar_ray.types import RoleId

__all__ = ["Estimate", "at_once", "check_placeable", "estimate", "measured_rates", "placement", "trial_nodes"]

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
    """Held while it goes on."""
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


def trial_nodes(nodes: Sequence[Resources], concurrent: int | None) -> list[Resources]:
    """What of every node one trial may use: all, or its part where so many are to run at once.

    Where there are at least as many GPUs as trials, each trial gets whole ones.
    """
    if concurrent is None:
        return list(nodes)
    gpus = sum(node.gpus for node in nodes)
    per_node = math.ceil(concurrent / len(nodes))

    def part(node: Resources) -> Resources:
        share = node.gpus / per_node
        whole = math.floor(share) if gpus >= concurrent and share >= 1 else share
        return Resources(math.floor(node.cpus / per_node * 100) / 100, whole, node.memory / per_node)

    return [part(node) for node in nodes]


def placement(config: RunConfig, phase: str, nodes: Sequence[Resources]) -> dict[RoleId, Resources]:
    """What every process of a trial gets, its own included.

    Raises:
        ResourceError: the nodes can never hold it; with the arithmetic.
    """
    return {RoleId("trial"): DRIVER, **plan_resources(config, [node.without(DRIVER) for node in nodes], phase)}


def at_once(needs: Sequence[dict[RoleId, Resources]], nodes: Sequence[Resources]) -> int:
    """How many of the largest trial have a place on empty nodes together."""
    if not needs:
        return 0
    need = max(needs, key=lambda plan: (sum(x.gpus for x in plan.values()), sum(x.cpus for x in plan.values())))
    left, count = list(nodes), 0
    while count < 10_000:
        for part in sorted(need.values(), key=lambda x: (-x.gpus, -x.cpus)):
            place = next((i for i, node in enumerate(left) if node.hold(part)), None)
            if place is None:
                return count
            left[place] = left[place].without(part)
        count += 1
    return count


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


def check_placeable(runs: Sequence[PlannedRun], nodes: Sequence[Resources]) -> dict[str, dict[RoleId, Resources]]:
    """What every process of every run gets, by run.

    Raises:
        ResourceError: one run can never be placed; names it.
    """
    found = {}
    for run in runs:
        try:
            found[run.name] = placement(run.config, run.phase, nodes)
        except ResourceError as error:
            raise ResourceError(f"{run.name}: {error}") from error
    return found
