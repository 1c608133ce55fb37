"""The replay of a run as one, however many shards it has."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prelar_ray.config import RunConfig
from prelar_ray.replay.replay import Replay, ReplayStatus
from prelar_ray.replay.shard import ReplayShard
from prelar_ray.training.backend import Backend, Role

__all__ = ["ReplayGroup", "replay_names"]

log = logging.getLogger(__name__)


def replay_names(shards: int) -> list[str]:
    """Names of the roles; the first of them also counts for all."""
    return ["replay"] if shards == 1 else [f"replay-{shard}" for shard in range(shards)]


class ReplayGroup:
    """Shards behind one set of calls; episodes and batches pass by reference, and the driver waits for neither."""

    def __init__(self, backend: Backend, config: RunConfig, folder: Path) -> None:
        """Start the shards; several have a folder each within ``folder``."""
        self.backend, self.ranks, self.folder = backend, config.learner.ranks, folder
        names = replay_names(config.replay.shards)
        folders = [folder] if len(names) == 1 else [folder / f"shard-{shard}" for shard in range(len(names))]
        self.roles: list[Role] = [backend.start(names[0], Replay, config, folders[0])]
        self.roles += [
            backend.start(name, ReplayShard, config, folders[shard], shard)
            for shard, name in enumerate(names[1:], start=1)
        ]

    def status(self) -> ReplayStatus:
        """Counters and pace."""
        status: ReplayStatus = self.backend.get(self.roles[0].call("status"))
        return status

    def insert(self, env_steps: int, *parts: Any) -> Any:
        """Take finished episodes in and count ``env_steps`` taken; returns the future of a :class:`ReplayStatus`.

        Args:
            parts: futures of lists of episodes, one for each collector that answered.
        """
        held = [role.call("take_in", *parts) for role in self.roles]
        return self.roles[0].call("count", env_steps, *held)

    def sample(self) -> list[list[Any]]:
        """Sample a batch for one update; returns, for every rank, the futures of its parts."""
        plan = self.roles[0].call("plan", self.ranks)
        drawn = [role.call("draw", plan, returns=self.ranks) for role in self.roles]
        return [drawn] if self.ranks == 1 else [list(parts) for parts in zip(*drawn, strict=True)]

    def peek(self) -> Any:
        """One segment to look at, from the first shard that has any."""
        for role in self.roles[:-1]:
            if (batch := self.backend.get(role.call("peek"))) is not None:
                return batch
        return self.roles[-1].call("peek")

    def state_dict(self) -> list[dict[str, Any]]:
        """Of every shard, the first of them with the counters; JSON-able."""
        futures = [role.call("state_dict") for role in self.roles]
        return [self.backend.get(future) for future in futures]

    def restore(self, states: Sequence[dict[str, Any]], updates: int) -> ReplayStatus:
        """Go on from a checkpoint's states; it is said where episodes of then are no longer on disk.

        Args:
            states: from :meth:`state_dict`.
            updates: updates the restored learner has made.

        Raises:
            DataError: an episode file is damaged.
        """
        held = [role.call("reload", state) for role, state in zip(self.roles, states, strict=True)]
        status: ReplayStatus = self.backend.get(self.roles[0].call("restore", states[0], updates, *held))
        before = sum(state.get("episodes", 0) for state in states)
        if status.episodes < before:
            log.warning(
                "%s: holds %d of the %d episodes that the replay had at update %d; others were deleted, or are kept "
                "for the last checkpoints only. The run goes on with these",
                *(self.folder, status.episodes, before, updates),
            )
        return status
