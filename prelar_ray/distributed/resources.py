"""What each role asks of the cluster, and whether the cluster has it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prelar_ray.config import RunConfig
from prelar_ray.errors import ResourceError
from prelar_ray.replay.memory import GIB, check_replay_fits, replay_bytes
from prelar_ray.types import RoleId

__all__ = ["ALGORITHM", "Resources", "plan_resources"]

ALGORITHM = RoleId("algorithm")
"""The process of an RLlib algorithm, which learns too; others step environments, the env runners."""

_SMALLEST_SHARE = 0.02  # of the CPUs wanted: what two decimals can still tell from nothing


@dataclass(frozen=True)
class Resources:
    """Logical resources of one actor, or of one node."""

    cpus: float
    gpus: float
    memory: float = 0.0
    """GiB; only the replay asks for any."""

    def hold(self, other: Resources) -> bool:
        """Whether ``other`` fits."""
        return other.cpus <= self.cpus and other.gpus <= self.gpus and other.memory <= self.memory

    def without(self, other: Resources) -> Resources:
        """What is left; Ray counts in ten-thousandths."""
        cpus, gpus, memory = self.cpus - other.cpus, self.gpus - other.gpus, self.memory - other.memory
        return Resources(round(cpus, 4), round(gpus, 4), memory)

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU {self.gpus:g} GPU" + (f" {self.memory:.3g} GiB" if self.memory else "")


def plan_resources(config: RunConfig, nodes: Sequence[Resources], phase: str = "finetune") -> dict[RoleId, Resources]:
    """Return what every role asks for; pre-training has learner ranks alone, a baseline roles of its own.

    Each rank of the learner, each collector and the evaluator get a CPU each, and the replay half of one, unless the
    configuration says otherwise; a smaller cluster gives all of them the same share of that, for logical CPUs only
    count. Each rank gets a GPU if there are any and ``device`` allows it.

    Args:
        nodes: what each node of the cluster has in all.

    Raises:
        ResourceError: the cluster can never hold all roles at once; says what is missing.
    """
    gpus = sum(node.gpus for node in nodes)
    ranks, collect = config.learner.ranks, config.collect
    actors, key = collect.collectors, "collect.collectors"
    if config.algorithm:
        actors, key = config.rllib.env_runners, "rllib.env_runners"
    if config.device == "cuda" and not gpus:
        raise ResourceError(
            f"device=cuda: the learner needs {ranks} GPU{'s' * (ranks > 1)}, the cluster has {gpus:g}; "
            "add a GPU node or use device=cpu"
        )
    on_gpu = config.device != "cpu" and gpus > 0
    if phase == "finetune" and not config.algorithm:
        check_replay_fits(config, int(max(node.memory for node in nodes) * GIB), "the largest node")
    per_rank = (config.learner.gpus or 1.0) if on_gpu else 0.0
    needed = ranks * per_rank + (actors * collect.gpus if phase == "finetune" else 0.0)
    if needed > gpus:
        fewer = int(gpus / per_rank) if per_rank else ranks
        there = "a run's part of the cluster is" if gpus % 1 else "the cluster has"
        less = "collect.gpus=0, or "
        if gpus < ranks:
            less = f"learner.gpus={math.floor(gpus / ranks * 100) / 100:g} to share one, or "
        raise ResourceError(
            f"learner.ranks={ranks} with {per_rank:g} GPU each and {key}={actors} with "
            f"{collect.gpus:g} each need {needed:g} GPUs, {there} {gpus:g}; use "
            + (f"learner.ranks={fewer} or " if 0 < fewer < ranks else less)
            + "device=cpu"
        )
    share = 1.0
    while True:
        plan = _plan(config, phase, per_rank, share)
        unplaced = _first_without_place(plan, nodes)
        if unplaced is None:
            return plan
        cpus, wanted = sum(node.cpus for node in nodes), sum(need.cpus for need in plan.values())
        share = min(share * 0.9, share * cpus / wanted) if wanted else 0.0
        if share < _SMALLEST_SHARE:
            listing = ", ".join(str(node) for node in nodes)
            raise ResourceError(
                f"{unplaced} needs {plan[unplaced]}, and no node has that left beside the other {len(plan) - 1} "
                f"roles ({wanted:g} CPU {needed:g} GPU in all; nodes: {listing}); ask for less with learner.cpus, "
                f"learner.gpus, collect.cpus, collect.gpus, replay.capacity_steps, learner.ranks or {key}, or add nodes"
            )


def _plan(config: RunConfig, phase: str, learner_gpus: float, share: float) -> dict[RoleId, Resources]:
    def cpus(asked: float, usual: float = 1.0) -> float:
        return asked or math.floor(share * usual * 100) / 100  # rounding up could exceed the total

    collector = Resources(cpus(config.collect.cpus), config.collect.gpus)
    if config.algorithm:
        plan = {ALGORITHM: Resources(cpus(config.learner.cpus), learner_gpus)}
        return plan | {RoleId("env-runner", index): collector for index in range(config.rllib.env_runners)}
    learner = Resources(cpus(config.learner.cpus), learner_gpus)
    plan = dict.fromkeys(RoleId.several("learner", config.learner.ranks), learner)
    if phase == "finetune":
        shard = Resources(cpus(0, 0.5), 0.0, replay_bytes(config) / GIB)
        plan |= dict.fromkeys(RoleId.several("replay", config.replay.shards), shard)
        plan[RoleId("evaluator")] = Resources(cpus(0), 0.0)
        plan |= {RoleId("collector", index): collector for index in range(config.collect.collectors)}
    return plan


def _first_without_place(plan: dict[RoleId, Resources], nodes: Sequence[Resources]) -> RoleId | None:
    """A role that has no place once the larger ones have theirs; None if all have one."""
    left = list(nodes)
    for role, need in sorted(plan.items(), key=lambda item: (-item[1].gpus, -item[1].cpus)):
        places = [i for i, node in enumerate(left) if node.hold(need)]
        if not places:
            return role
        left[places[0]] = left[places[0]].without(need)
    return None
