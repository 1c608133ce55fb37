"""Where the trials of a study are placed: what each of their processes gets, and whether a node can hold it.

A trial is placed on one node, collectors and evaluator beside the learner's GPU, if a node can hold it: nothing leaves
the node then, and with as many trials as GPUs each has one. Only a trial that is too large for any node is spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from prelar_ray.config import RunConfig
from prelar_ray.distributed.resources import Resources
from prelar_ray.errors import ConfigError, ResourceError
from prelar_ray.kinds import Phase, kind_of
from prelar_ray.roles import RoleId
from prelar_ray.study.plan import PlannedRun

__all__ = ["Placement", "at_once", "check_placeable", "place", "trial_nodes"]

LIMITLESS = 1e6
"""CPUs, and GiB, that no node has."""
SPREAD = 2 / 3
"""What a trial over several nodes is worth, beside one on one node."""


@dataclass(frozen=True)
class Placement:
    """What a trial reserves, and where."""

    roles: dict[RoleId, Resources]
    """What every role of the run gets."""
    driver: Resources | None
    """What the trial's own process gets; None where that is a role."""
    nodes: tuple[Resources, ...]
    """What of each node the trial may use; one where it is placed on one node."""
    one_node: bool
    """Whether all of it must be on one node; otherwise it is spread over as few as possible."""

    @property
    def processes(self) -> dict[RoleId, Resources]:
        """What every process gets, the trial's own first."""
        return {RoleId("trial"): self.driver, **self.roles} if self.driver else self.roles


def place(config: RunConfig, phase: Phase, nodes: Sequence[Resources], concurrent: int | None = None) -> Placement:
    """Plan a trial: on one node if one can hold it, else over several.

    A node with GPUs is divided among as many trials as its GPUs are enough for, or, with ``concurrent``, among the
    trials that are to run at once; where its part has fewer CPUs than a trial would like, all its processes get less.
    Of all ways the one is taken with which most trials run at once. One that gets a part of the CPUs that it would like
    counts by the square root of that part, and one that is spread over nodes by :data:`SPREAD`.

    Args:
        config: of the run.
        phase: pretrain or finetune.
        nodes: what each node of the cluster has in all.
        concurrent: trials that run at once; None for as many as fit.

    Raises:
        ResourceError: the nodes can never hold it; with the arithmetic.
    """
    driver = kind_of(config, phase).driver
    spread = trial_nodes(nodes, concurrent)
    anywhere = Placement(_roles(config, phase, spread), driver, tuple(spread), one_node=False)
    gpus = round(sum(need.gpus for need in anywhere.roles.values()), 4)  # as Ray counts
    wanted = _cpus(_roles(config, phase, [Resources(LIMITLESS, gpus, LIMITLESS)]))
    able = [node for node in nodes if node.gpus >= gpus]
    found = [anywhere]
    for node in set(able):
        for part in _parts(node, gpus, math.ceil(concurrent / len(able)) if concurrent else None):
            with suppress(ConfigError, ResourceError):  # it is too small, or its part of the memory is
                found.append(Placement(_roles(config, phase, [part]), driver, (part,), one_node=True))

    def worth(one: Placement) -> tuple[float, bool, float]:
        together = min(at_once([one], nodes), concurrent or math.inf)
        share = math.sqrt(_cpus(one.roles) / wanted) * (1 if one.one_node else SPREAD)
        return round(together * share, 6), one.one_node, _cpus(one.roles)

    return max(found, key=worth)


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
        return _part(node, per_node, math.floor(share) if gpus >= concurrent and share >= 1 else share)

    return [part(node) for node in nodes]


def _parts(node: Resources, gpus: float, trials: int | None) -> list[Resources]:
    """Parts of a node for trials that need so many GPUs each, all on that node: the smallest first.

    Args:
        node: what it has in all.
        gpus: of a trial.
        trials: that are to share it; None for as many as its GPUs are enough for.
    """
    if trials is not None:
        return [*trial_nodes([node], trials)]
    most = math.floor(round(node.gpus / gpus, 4)) if gpus else 1
    return [_part(node, count, node.gpus / count) for count in range(most, 0, -1)]


def _part(node: Resources, trials: int, gpus: float) -> Resources:
    return Resources(math.floor(node.cpus / trials * 100) / 100, gpus, node.memory / trials)


def _roles(config: RunConfig, phase: Phase, nodes: Sequence[Resources]) -> dict[RoleId, Resources]:
    """What every role gets on nodes that hold the trial's own process too."""
    kind = kind_of(config, phase)
    return kind.plan(config, [node.without(kind.driver) for node in nodes] if kind.driver else nodes)


def _cpus(roles: dict[RoleId, Resources]) -> float:
    return round(sum(need.cpus for need in roles.values()), 4)


def at_once(placements: Sequence[Placement], nodes: Sequence[Resources]) -> int:
    """How many of the largest trial have a place on empty nodes together."""
    if not placements:
        return 0
    largest = max(placements, key=lambda one: (sum(x.gpus for x in one.roles.values()), _cpus(one.roles)))
    left, count = list(nodes), 0
    while count < 10_000 and (fitted := _fit(largest, left)) is not None:
        left, count = fitted, count + 1
    return count


def _fit(placement: Placement, nodes: Sequence[Resources]) -> list[Resources] | None:
    """What is left of the nodes with one more such trial; None where it has no place."""
    needs = sorted(placement.processes.values(), key=lambda need: (-need.gpus, -need.cpus))
    for tried in [[index] for index in range(len(nodes))] if placement.one_node else [list(range(len(nodes)))]:
        left = list(nodes)
        for need in needs:
            where = next((index for index in tried if left[index].hold(need)), None)
            if where is None:
                break
            left[where] = left[where].without(need)
        else:
            return left
    return None


def check_placeable(
    runs: Sequence[PlannedRun], nodes: Sequence[Resources], concurrent: int | None
) -> dict[str, Placement]:
    """How every run is placed, by run.

    Raises:
        ResourceError: one run can never be placed; names it.
    """
    found = {}
    for run in runs:
        try:
            found[run.name] = place(run.config, run.phase, nodes, concurrent)
        except ResourceError as error:
            raise ResourceError(f"{run.name}: {error}") from error
    return found
