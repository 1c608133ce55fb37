"""A shard of the replay: a buffer and the durable episodes behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prelar_ray.config import RunConfig
from prelar_ray.replay.buffer import ReplayBuffer
from prelar_ray.replay.memory import check_replay_fits, memory_limit
from prelar_ray.replay.segments import EpisodeStore
from prelar_ray.seeding import generator
from prelar_ray.types import Episode, SequenceBatch

__all__ = ["Parts", "ReplayShard", "ShardStatus", "shard_of"]

Parts = list[SequenceBatch | None]
"""What a shard gives a rank for successive updates."""


@dataclass(frozen=True)
class ShardStatus:
    """What a shard holds."""

    steps: int = 0
    episodes: int = 0


class ReplayShard:
    """Plain class; a Ray actor may own one. Inserts are durable when :meth:`insert` returns."""

    def __init__(self, config: RunConfig, folder: Path, shard: int = 0) -> None:
        """Open shard number ``shard`` of ``config.replay.shards``; it takes its share of the capacity.

        Raises:
            ResourceError: this machine lacks the memory to hold it once it is full.
            DataError: ``folder`` cannot hold episodes.
        """
        check_replay_fits(config, memory_limit(), "this machine")
        tune = config.finetune
        self.shard, self.shards = shard, config.replay.shards
        rng = generator(config.seed, f"replay-{shard}" if shard else "replay")
        self.buffer = ReplayBuffer(config.replay.capacity_steps // self.shards, tune.segment_length, rng)
        self.store = EpisodeStore(folder)
        # Checkpoints that can be restored whole: those kept, and the last one while the next is not written yet.
        self._restorable = max(2, config.checkpoint.keep_last)
        self._evicted: list[list[str]] = [[]]  # keys since each of them, which those before still need

    def insert(self, *parts: list[Episode]) -> ShardStatus:
        """Add the finished episodes of this shard, in the same order whoever collected what.

        Args:
            parts: episodes of every collector that answered, those of other shards included.

        Raises:
            DataError, NonFiniteError: see :meth:`ReplayBuffer.add`; nothing of that episode is kept.
        """
        own = [episode for part in parts for episode in part if shard_of(episode, self.shards) == self.shard]
        for episode in sorted(own, key=lambda episode: (episode.env_index, episode.number)):
            self._evicted[-1] += [old.key for old in self.buffer.add(episode.owned())]
            self.store.append(episode)
        return self.status()

    def status(self) -> ShardStatus:
        """What the shard holds."""
        return ShardStatus(self.buffer.steps, len(self.buffer))

    def sample(self, counts: Sequence[int]) -> Parts:
        """Sample for successive updates ``counts`` segments each, ``(B, T, ...)``; None where that is 0."""
        return [self.buffer.sample(count) if count else None for count in counts]

    def sample_shares(self, counts: Sequence[Sequence[int]]) -> tuple[Parts, ...]:
        """Sample for successive updates, each shared out over learner ranks; returns what every rank gets.

        Args:
            counts: segments by update and rank.
        """
        shares = [self._shared(by_rank) for by_rank in counts]
        return tuple(list(of_rank) for of_rank in zip(*shares, strict=True))

    def _shared(self, counts: Sequence[int]) -> Parts:
        (batch,) = self.sample([sum(counts)])
        if batch is None:
            return [None] * len(counts)
        return [share if count else None for share, count in zip(batch.split(counts), counts, strict=True)]

    def peek(self) -> SequenceBatch | None:
        """Sample one segment to look at, without effect on later samples; None where there is none."""
        if not self.buffer.can_sample:
            return None
        state = self.buffer.state_dict()
        batch = self.buffer.sample(1)
        self.buffer.load_state_dict(state)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """JSON-able, for a checkpoint: sampler, how many episodes are held and the position in the durable ones.

        Episodes that only checkpoints before the last ``checkpoint.keep_last`` need are removed from disk now.
        """
        self._evicted.append([])
        for keys in self._evicted[: -self._restorable]:
            self.store.discard(keys)
        self._evicted = self._evicted[-self._restorable :]
        return {"buffer": self.buffer.state_dict(), "episodes": len(self.buffer), "appended": self.store.appended}

    def restore(self, state: dict[str, Any]) -> ShardStatus:
        """Load the episodes that a checkpoint knew; later ones are removed, for the run collects them again.

        Args:
            state: from :meth:`state_dict`.

        Raises:
            DataError: an episode file is damaged.
        """
        known = set(self.store.keys(state["appended"]))
        self.store.discard([key for key in self.store.keys() if key not in known])
        for episode in self.store.iterate(state["appended"]):
            self._evicted[-1] += [old.key for old in self.buffer.add(episode)]
        self.buffer.load_state_dict(state["buffer"])
        return self.status()


def shard_of(episode: Episode, shards: int) -> int:
    """The shard that an episode belongs to: whoever collected it, and evenly also where environments are few."""
    return (episode.env_index + episode.number) % shards
