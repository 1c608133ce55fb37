"""What each role asks of the cluster, and whether the cluster has it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prelar_ray.config import RunConfig
from prelar_ray.errors import ResourceError
from prelar_ray.roles import RoleId

__all__ = ["ALGORITHM", "Request", "Reservation", "Resources", "plan_resources"]

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


@dataclass(frozen=True)
class Request:
    """What a role may ask for, on a cluster that gives every role a ``share`` of the CPUs it would like."""

    config: RunConfig
    share: float
    learner_gpus: float

    def cpus(self, asked: float = 0.0, usual: float = 1.0) -> float:
        """What the configuration asks for, or the role's share of what such roles usually get."""
        return asked or math.floor(self.share * usual * 100) / 100  # rounding up could exceed the total

    @property
    def learner(self) -> Resources:
        """Of a process that learns."""
        return Resources(self.cpus(self.config.learner.cpus), self.learner_gpus)

    @property
    def worker(self) -> Resources:
        """Of a process that steps environments, with its workers."""
        collect = self.config.collect
        return Resources(self.cpus(collect.cpus, collect.busy_processes), collect.gpus)


@dataclass(frozen=True)
class Reservation:
    """What a trial of Ray Tune has reserved for its run; the trial's own process is not in the plan."""

    name: str  # of the run, which tells its logs and metrics from those of others on the cluster
    plan: dict[RoleId, Resources]


def plan_resources(
    config: RunConfig,
    nodes: Sequence[Resources],
    roles: Callable[[Request], dict[RoleId, Resources]],
    workers_key: str,
) -> dict[RoleId, Resources]:
    """Return what every role gets: what it asks for, or on a smaller cluster the same share of it for all.

    Shares concern CPUs, which are logical and only count. Learners get a GPU each if there are any and ``device``
    allows it.

    Args:
        config: of the run.
        nodes: what each node of the cluster has in all.
        roles: returns what the roles ask for.
        workers_key: the setting that says how many processes step environments.

    Raises:
        ResourceError: the cluster can never hold all roles at once; says what is missing.
    """
    gpus, ranks = sum(node.gpus for node in nodes), config.learner.ranks
    if config.device == "cuda" and not gpus:
        raise ResourceError(
            f"device=cuda: the learner needs {ranks} GPU{'s' * (ranks > 1)}, the cluster has {gpus:g}; "
            "add a GPU node or use device=cpu"
        )
    if config.device == "auto" and config.learner.gpus and not gpus:
        raise ResourceError(
            f"learner.gpus={config.learner.gpus:g}: the cluster has no GPU; add a GPU node, or use learner.gpus=0 to "
            "learn on the CPU"
        )
    per_rank = (config.learner.gpus or 1.0) if config.device != "cpu" and gpus > 0 else 0.0
    needed = round(sum(need.gpus for need in roles(Request(config, 1.0, per_rank)).values()), 4)  # as Ray counts
    if needed > gpus:
        raise _too_few_gpus(config, per_rank, needed, gpus, workers_key)
    share = 1.0
    while True:
        plan = roles(Request(config, share, per_rank))
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
                "learner.gpus, collect.cpus, collect.gpus, evaluation.gpus, replay.capacity_steps, learner.ranks or "
                f"{workers_key}, or add nodes"
            )


def _too_few_gpus(config: RunConfig, per_rank: float, needed: float, gpus: float, workers_key: str) -> ResourceError:
    ranks, section = config.learner.ranks, getattr(config, workers_key.partition(".")[0])
    workers = getattr(section, workers_key.partition(".")[2])
    fewer = int(gpus / per_rank) if per_rank else ranks
    there = "a run's part of the cluster is" if gpus % 1 else "the cluster has"
    evaluator = 0.0 if config.algorithm else config.evaluation.gpus
    less = "evaluation.gpus=0, collect.gpus=0, or " if evaluator else "collect.gpus=0, or "
    if gpus < ranks:
        less = f"learner.gpus={math.floor(gpus / ranks * 100) / 100:g} to share one, or "
    return ResourceError(
        f"learner.ranks={ranks} with {per_rank:g} GPU each and {workers_key}={workers} with "
        f"{config.collect.gpus:g} each"
        + (f", and the evaluator with evaluation.gpus={evaluator:g}," if evaluator else "")
        + f" need {needed:g} GPUs, {there} {gpus:g}; use "
        + (f"learner.ranks={fewer} or " if 0 < fewer < ranks else less)
        + "device=cpu"
    )


def _first_without_place(plan: dict[RoleId, Resources], nodes: Sequence[Resources]) -> RoleId | None:
    """A role that has no place once the larger ones have theirs; None if all have one."""
    left = list(nodes)
    for role, need in sorted(plan.items(), key=lambda item: (-item[1].gpus, -item[1].cpus)):
        places = [i for i, node in enumerate(left) if node.hold(need)]
        if not places:
            return role
        left[places[0]] = left[places[0]].without(need)
    return None
