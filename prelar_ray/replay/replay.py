"""The replay role: buffer, rate limiter and durable episodes behind a few calls."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prelar_ray.config.schema import RunConfig
from prelar_ray.replay.buffer import ReplayBuffer
from prelar_ray.replay.rate_limiter import RateLimiter
from prelar_ray.replay.segments import EpisodeStore
from prelar_ray.seeding import generator
from prelar_ray.types import Episode, SequenceBatch

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


class Replay:
    """Plain class; a Ray actor may own one. Inserts are durable when :meth:`insert` returns."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        tune = config.finetune
        self.tolerance = 0 if config.collect.synchronous else config.replay.tolerance_updates
        self.batch_size = tune.batch_size
        self.buffer = ReplayBuffer(config.replay.capacity_steps, tune.segment_length, generator(config.seed, "replay"))
        self.limiter = RateLimiter(tune.random_steps, tune.env_steps_per_update, tune.initial_updates)
        self.store = EpisodeStore(folder)
        self._left: list[str] = []  # out of the buffer, but still needed to restore the last checkpoint
        self._left_before: list[str] = []

    def insert(self, episodes: list[Episode], env_steps: int) -> ReplayStatus:
        """Add finished episodes, and count ``env_steps`` taken, in open episodes too.

        Raises:
            DataError, NonFiniteError: see :meth:`ReplayBuffer.add`; nothing of that episode is kept.
            DataError: learning is due and no episode so far is as long as a segment.
        """
        for episode in episodes:
            self._left += [old.key for old in self.buffer.add(episode.owned())]
            self.store.append(episode)
        self.limiter.insert(env_steps)
        if self.limiter.env_steps >= self.limiter.random_steps and len(self.buffer):
            self.buffer.check_can_sample()
        return self.status()

    def insert_turn(self, env_steps: int, *parts: list[Episode]) -> ReplayStatus:
        """As :meth:`insert`, what several collectors brought in one turn: the same order whoever collected what."""
        episodes = [episode for part in parts for episode in part]
        return self.insert(sorted(episodes, key=lambda episode: (episode.env_index, episode.number)), env_steps)

    def sample(self) -> SequenceBatch:
        """Sample one batch and count it as an update.

        Raises:
            RuntimeError: no update is due.
        """
        self.limiter.take()
        return self.buffer.sample(self.batch_size)

    def sample_shares(self, ranks: int) -> tuple[SequenceBatch, ...]:
        """As :meth:`sample`, in equal shares of its rows."""
        return self.sample().split(ranks)

    def peek(self) -> SequenceBatch:
        """Sample one batch to look at; it counts as nothing and leaves the sequence of samples as it was."""
        state = self.buffer.state_dict()
        batch = self.buffer.sample(1)
        self.buffer.load_state_dict(state)
        return batch

    def status(self) -> ReplayStatus:
        """Counters and pace. No update is due before some episode is as long as a segment."""
        limiter, buffer = self.limiter, self.buffer
        due = limiter.updates_due if buffer.can_sample else 0
        return ReplayStatus(limiter.env_steps, limiter.updates, due, self.tolerance, buffer.steps, len(buffer))

    def state_dict(self) -> dict[str, Any]:
        """JSON-able, for a checkpoint: sampler, counters, and the position in the durable episodes.

        Episodes that had left the buffer before the previous checkpoint are removed from disk now.
        """
        self.store.discard(self._left_before)
        self._left_before, self._left = self._left, []
        return {
            "buffer": self.buffer.state_dict(),
            "env_steps": self.limiter.env_steps,
            "appended": self.store.appended,
        }

    def restore(self, state: dict[str, Any], updates: int) -> ReplayStatus:
        """Reload the episodes that a checkpoint knew; later ones are removed, for the run collects them anew.

        Args:
            state: from :meth:`state_dict`.
            updates: updates the restored learner has made.

        Raises:
            DataError: an episode file is damaged.
        """
        known = set(self.store.keys(state["appended"]))
        self.store.discard([key for key in self.store.keys() if key not in known])
        for episode in self.store.iterate(state["appended"]):
            self._left += [old.key for old in self.buffer.add(episode)]
        self.buffer.load_state_dict(state["buffer"])
        self.limiter.restore(state["env_steps"], updates)
        return self.status()
