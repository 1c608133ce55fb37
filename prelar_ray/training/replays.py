"""The replay of a run, however many shards it has, and the pace at which it is sampled."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prelar_ray.config import RunConfig
from prelar_ray.replay.rate_limiter import RateLimiter
from prelar_ray.replay.shard import Parts, ReplayShard, ShardStatus
from prelar_ray.roles import RoleId
from prelar_ray.seeding import generator
from prelar_ray.training.backend import Backend, Future, Role, by_reference
from prelar_ray.types import Episode, SequenceBatch

__all__ = ["Insertion", "ReplayGroup"]

log = logging.getLogger(__name__)

Part = Future[Parts]
"""What one shard gives one learner rank."""


@dataclass(frozen=True)
class Insertion:
    """Episodes on their way to the shards."""

    number: int
    env_steps: int
    answers: list[Future[ShardStatus]]


class ReplayGroup:
    """Shards behind one set of calls. Episodes and batches pass by reference, and the driver waits for neither.

    The group alone counts environment steps and updates. Steps count once the shards have their episodes. So an
    update is never made before the steps that pay for it, and learning lags by at most ``tolerance_updates`` plus what
    the requests in flight bring.
    """

    def __init__(self, backend: Backend, config: RunConfig, folder: Path) -> None:
        """Start the shards; several have a folder each within ``folder``."""
        self.backend, self.ranks, self.folder = backend, config.learner.ranks, folder
        self.rows = config.finetune.replay_rows
        tune = config.finetune
        self.limiter = RateLimiter(tune.random_steps, tune.env_steps_per_update, tune.initial_updates)
        self.tolerance_updates = 0 if config.collect.synchronous else config.replay.tolerance_updates
        """Updates that may be due before collecting pauses."""
        self._shares = generator(config.seed, "replay-shares")
        ids = RoleId.several("replay", config.replay.shards)
        folders = [folder] if len(ids) == 1 else [folder / f"shard-{shard}" for shard in range(len(ids))]
        self.shards: list[Role[ReplayShard]] = [
            backend.start(role, ReplayShard, config, folders[shard], shard) for shard, role in enumerate(ids)
        ]
        self._status = [ShardStatus()] * len(ids)
        self._insertions = self._newest = 0

    # Pace

    @property
    def env_steps(self) -> int:
        """Environment steps collected in this run, in open episodes too."""
        return self.limiter.env_steps

    @property
    def updates_due(self) -> int:
        """Updates that may be sampled for now; none before an episode has finished."""
        return self.limiter.updates_due if self.status.episodes else 0

    @property
    def may_collect(self) -> bool:
        """Whether learning is close enough behind for collecting to continue."""
        return self.updates_due <= self.tolerance_updates

    @property
    def status(self) -> ShardStatus:
        """What all shards hold together, as they last said."""
        return ShardStatus(*(sum(getattr(shard, name) for shard in self._status) for name in ("steps", "episodes")))

    # Experience

    def insert(self, env_steps: int, parts: Sequence[Future[list[Episode]]]) -> Insertion:
        """Send finished episodes to the shards; :meth:`inserted` counts the steps once they have them.

        Args:
            env_steps: environment steps taken, in open episodes too.
            parts: of each collector that answered.
        """
        self._insertions += 1
        episodes = [by_reference(part) for part in parts]
        answers = [shard.call(ReplayShard.insert, *episodes) for shard in self.shards]
        return Insertion(self._insertions, env_steps, answers)

    def inserted(self, insertion: Insertion) -> None:
        """Wait for an insertion, and count its steps."""
        status = [self.backend.get(answer) for answer in insertion.answers]
        if insertion.number > self._newest:  # else a later insertion was looked at before, and said more
            self._newest, self._status = insertion.number, status
        self.limiter.insert(insertion.env_steps)

    def sample(self, updates: int = 1) -> list[list[Part]]:
        """Sample batches for successive updates; returns, for every rank, the futures of its parts.

        Every episode that the shards last said they hold is as likely as any other, as if one shard held them all.

        Raises:
            RuntimeError: fewer updates are due.
        """
        episodes = np.array([shard.episodes for shard in self._status], dtype=np.float64)
        rows = []
        for _ in range(updates):
            self.limiter.take()
            of_rank = self.rows // self.ranks
            rows.append(self._shares.multinomial(of_rank, episodes / episodes.sum(), size=self.ranks))
        counts: list[list[list[int]]] = np.stack(rows).transpose(2, 0, 1).tolist()  # shards x updates x ranks
        if self.ranks == 1:
            alone = [[count for (count,) in of_shard] for of_shard in counts]
            return [[shard.call(ReplayShard.sample, of) for shard, of in zip(self.shards, alone, strict=True)]]
        drawn = [
            shard.call_each(self.ranks, ReplayShard.sample_shares, of)
            for shard, of in zip(self.shards, counts, strict=True)
        ]
        return [list(parts) for parts in zip(*drawn, strict=True)]

    def peek(self) -> Future[SequenceBatch | None]:
        """One segment to look at, from the first shard that has any."""
        for shard in self.shards[:-1]:
            future = shard.call(ReplayShard.peek)
            if self.backend.get(future) is not None:
                return future
        return self.shards[-1].call(ReplayShard.peek)

    # Checkpoints

    def state_dict(self) -> list[dict[str, Any]]:
        """Of every shard, and with that of the first the counters; JSON-able."""
        futures = [shard.call(ReplayShard.state_dict) for shard in self.shards]
        first, *others = (self.backend.get(future) for future in futures)
        counters = {"env_steps": self.env_steps, "shares": self._shares.bit_generator.state}
        return [{**first, **counters}, *others]

    def restore(self, states: Sequence[dict[str, Any]], updates: int) -> None:
        """Continue from a checkpoint's states; warns where episodes of then are no longer on disk.

        Args:
            states: from :meth:`state_dict`.
            updates: updates that the restored learner has made.

        Raises:
            DataError: an episode file is damaged.
        """
        futures = [shard.call(ReplayShard.restore, state) for shard, state in zip(self.shards, states, strict=True)]
        self._status = [self.backend.get(future) for future in futures]
        self.limiter.restore(states[0]["env_steps"], updates)
        self._shares.bit_generator.state = states[0]["shares"]
        before = sum(state.get("episodes", 0) for state in states)
        if self.status.episodes < before:
            log.warning(
                "%s: holds %d of the %d episodes that the replay had at update %d; others were deleted, or are kept "
                "for the last checkpoints only. The run continues with these",
                *(self.folder, self.status.episodes, before, updates),
            )
