"""The videos that a run was trained on, identified by content: a store may grow, lose shards or be replaced."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

from prelar_ray.video.mixture import VideoMixture
from prelar_ray.video.store import VideoStore

__all__ = ["SeenVideos"]


@dataclass(frozen=True)
class SeenVideos:
    """The shards that a run was trained on, without the episodes that were held out."""

    shards: dict[str, list[int]]
    """Positions of the held-out episodes in each shard, by the shard's checksum."""

    @classmethod
    def of(cls, store: VideoStore | VideoMixture, held_out: Collection[int]) -> Self:
        """Return all videos of a store except the episodes ``held_out``."""
        origins = store.origins
        shards: dict[str, list[int]] = {shard: [] for shard, _ in origins}
        for episode in held_out:
            shard, place = origins[episode]
            shards[shard].append(place)
        return cls(shards)

    @classmethod
    def load(cls, counters: Mapping[str, Any], store: VideoStore | VideoMixture) -> Self:
        """Read the counters of a checkpoint.

        Older checkpoints do not record their shards: ``store`` is assumed to be theirs. The oldest held nothing out.
        """
        if "shards" in counters:
            return cls(counters["shards"])
        return cls.of(store, [episode for episode in counters.get("held_out", []) if episode < len(store)])

    def know(self, store: VideoStore | VideoMixture) -> bool:
        """Whether the run had any of a store's videos."""
        return any(shard in self.shards for shard, _ in store.origins)

    def held_out(self, store: VideoStore | VideoMixture) -> list[int]:
        """Return the episodes of a store that the run held out."""
        return [episode for episode, (shard, place) in enumerate(store.origins) if place in self.shards.get(shard, ())]

    def unseen(self, store: VideoStore | VideoMixture) -> list[int]:
        """Return the episodes of a store that the run held out or did not have."""
        return [
            episode
            for episode, (shard, place) in enumerate(store.origins)
            if shard not in self.shards or place in self.shards[shard]
        ]

    def extended(self, store: VideoStore | VideoMixture, held_out: Collection[int]) -> SeenVideos:
        """Return these and all videos of a store except its episodes ``held_out``."""
        return SeenVideos(self.shards | SeenVideos.of(store, held_out).shards)
