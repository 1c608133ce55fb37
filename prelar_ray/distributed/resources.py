"""What each role asks of the cluster, and whether the cluster has it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from prelar_ray.config.schema import RunConfig
from prelar_ray.errors import ResourceError

__all__ = ["RoleResources", "plan_resources"]


@dataclass(frozen=True)
class RoleResources:
    """Logical resources of one actor."""

    cpus: float
    gpus: float


def plan_resources(
    config: RunConfig, cluster_cpus: float, cluster_gpus: float, phase: str = "finetune"
) -> dict[str, RoleResources]:
    """Return what one learner rank, one collector, the evaluator and the replay ask for; pre-training has ranks alone.

    Each rank of the learner, each collector and the evaluator get a CPU each, and the replay half of one; a smaller
    cluster gives all of them the same share of that, for logical CPUs only count. Each rank gets a GPU if there are
    any and ``device`` allows it.

    Raises:
        ResourceError: ``device=cuda`` without a GPU in the cluster, or GPUs for some of the ranks alone.
    """
    ranks = config.learner.ranks
    if config.device == "cuda" and cluster_gpus < 1:
        raise ResourceError(
            f"device=cuda: the learner needs {ranks} GPU{'s' * (ranks > 1)}, the cluster has {cluster_gpus:g}; "
            "add a GPU node or use device=cpu"
        )
    if config.device != "cpu" and 1 <= cluster_gpus < ranks:
        raise ResourceError(
            f"learner.ranks={ranks}: each needs a GPU, the cluster has {cluster_gpus:g}; "
            f"use learner.ranks={int(cluster_gpus)} or device=cpu"
        )
    wanted = ranks if phase == "pretrain" else ranks + config.collect.collectors + 1 + 0.5
    share = min(1.0, cluster_cpus / wanted)
    cpu = math.floor(share * 100) / 100  # Ray counts in ten-thousandths; rounding up could exceed the total
    gpus = 1.0 if config.device != "cpu" and cluster_gpus >= 1 else 0.0
    if phase == "pretrain":
        return {"learner": RoleResources(cpu, gpus)}
    return {
        "learner": RoleResources(cpu, gpus),
        "collector": RoleResources(cpu, 0.0),
        "evaluator": RoleResources(cpu, 0.0),
        "replay": RoleResources(math.floor(share * 50) / 100, 0.0),
    }
