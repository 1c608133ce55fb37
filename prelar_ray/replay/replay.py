"""The replay role: a shard of the experience, and the rate limiter over all shards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prelar_ray.config import RunConfig
from prelar_ray.replay.buffer import check_can_sample
from prelar_ray.replay.rate_limiter import RateLimiter
from prelar_ray.replay.shard import ReplayShard, ShardStatus
from prelar_ray.seeding import generator

__all__ = ["Replay", "ReplayStatus"]


@dataclass(frozen=True)
class ReplayStatus:
    """What the other roles need to know to keep pace."""

    env_steps: int  # collected in this run
    updates: int  # sampled for
    updates_due: int  # updates that may be sampled for now
    tolerance: int  # updates that may be due before collecting pauses
    steps: int  # held
    episodes: int  # held

    @property
    def may_insert(self) -> bool:
        """Whether learning is close enough behind for collecting to go on."""
        return self.updates_due <= self.tolerance

    def after(self, updates: int) -> ReplayStatus:
        """The status once samples have been taken for ``updates`` in all."""
        return replace(self, updates=updates, updates_due=self.updates_due - (updates - self.updates))


class Replay(ReplayShard):
    """The first shard, which also counts for all of them; where there is one shard, it is the whole replay.

    Shards do not know each other: the driver passes on here what they say they hold, and to them what is planned here.
    """

    def __init__(self, config: RunConfig, folder: Path) -> None:
        super().__init__(config, folder)
        tune = config.finetune
        self.tolerance = 0 if config.collect.synchronous else config.replay.tolerance_updates
        self.batch_size = tune.batch_size
        self.limiter = RateLimiter(tune.random_steps, tune.env_steps_per_update, tune.initial_updates)
        self.rng = generator(config.seed, "replay-shares")
        self._shards: tuple[ShardStatus, ...] = (self.holds(),) * self.shards

    def count(self, env_steps: int, *shards: ShardStatus) -> ReplayStatus:
        """Count ``env_steps`` taken, in open episodes too.

        Args:
            shards: what each shard holds, once it has taken in its part of the finished episodes.

        Raises:
            DataError: learning is due and no episode so far is as long as a segment.
        """
        self._shards = shards
        self.limiter.insert(env_steps)
        held = self._held()
        if self.limiter.env_steps >= self.limiter.random_steps and held.episodes:
            check_can_sample(held.eligible, held.longest, self.buffer.segment_length)
        return self.status()

    def plan(self, ranks: int) -> list[list[int]]:
        """Count an update, and say how many segments each rank takes from every shard: ranks x shards.

        Every episode of all shards is as likely as any other, as if they lay in one.

        Raises:
            RuntimeError: no update is due.
        """
        self.limiter.take()
        eligible = np.array([shard.eligible for shard in self._shards], dtype=np.float64)
        counts = self.rng.multinomial(self.batch_size // ranks, eligible / eligible.sum(), size=ranks)
        return [[int(count) for count in of_rank] for of_rank in counts]

    def status(self) -> ReplayStatus:
        """Counters and pace. No update is due before some episode is as long as a segment."""
        limiter, held = self.limiter, self._held()
        due = limiter.updates_due if held.eligible else 0
        return ReplayStatus(limiter.env_steps, limiter.updates, due, self.tolerance, held.steps, held.episodes)

    def _held(self) -> ShardStatus:
        steps, episodes, eligible = (
            sum(getattr(shard, name) for shard in self._shards) for name in ("steps", "episodes", "eligible")
        )
        return ShardStatus(steps, episodes, eligible, max(shard.longest for shard in self._shards))

    def state_dict(self) -> dict[str, Any]:
        """As of a shard, and the counters."""
        shares = self.rng.bit_generator.state
        return {**super().state_dict(), "env_steps": self.limiter.env_steps, "shares": shares}

    def restore(self, state: dict[str, Any], updates: int, *shards: ShardStatus) -> ReplayStatus:
        """Go on counting where a checkpoint was.

        Args:
            state: from :meth:`state_dict`.
            updates: updates the restored learner has made.
            shards: what each shard holds, reloaded.
        """
        self._shards = shards
        self.limiter.restore(state["env_steps"], updates)
        self.rng.bit_generator.state = state["shares"]
        return self.status()
