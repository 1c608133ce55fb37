"""Where the trials of a study are placed: what each of their processes gets, and whether a node can hold it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prelar_ray.config import RunConfig
from prelar_ray.distributed.resources import Resources
from prelar_ray.errors import ResourceError
from prelar_ray.kinds import Phase, kind_of
from prelar_ray.roles import RoleId
from prelar_ray.study.plan import PlannedRun

__all__ = ["at_once", "check_placeable", "placement", "role_plan", "trial_nodes"]


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


def role_plan(config: RunConfig, phase: Phase, nodes: Sequence[Resources]) -> dict[RoleId, Resources]:
    """What every role of a trial gets beside the trial's own process.

    Raises:
        ResourceError: the nodes can never hold it; with the arithmetic.
    """
    kind = kind_of(config, phase)
    return kind.plan(config, [node.without(kind.driver) for node in nodes] if kind.driver else nodes)


def placement(config: RunConfig, phase: Phase, nodes: Sequence[Resources]) -> dict[RoleId, Resources]:
    """What every process of a trial gets, its own included.

    Raises:
        ResourceError: the nodes can never hold it; with the arithmetic.
    """
    roles, driver = role_plan(config, phase, nodes), kind_of(config, phase).driver
    return {RoleId("trial"): driver, **roles} if driver else roles


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
