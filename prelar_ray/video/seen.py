"""Which videos a run was trained on, known by their content: their store may have grown, lost shards or be another."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

from prelar_ray.video.store import VideoStore

__all__ = ["SeenVideos"]


@dataclass(frozen=True)
class SeenVideos:
    """The shards that a run was trained on, without the episodes that were held out."""

    shards: dict[str, list[int]]
    """By a shard's checksum: the places in it of the episodes that were held out."""

    @classmethod
    def of(cls, store: VideoStore, held_out: Collection[int]) -> Self:
        """All videos of a store, but for the episodes ``held_out``."""
        shards: dict[str, list[int]] = {shard: [] for shard, _ in store.origins}
        for episode in held_out:
            shard, place = store.origins[episode]
            shards[shard].append(place)
        return cls(shards)

    @classmethod
    def load(cls, counters: Mapping[str, Any], store: VideoStore) -> Self:
        """From the counters of a checkpoint.

        Older ones do not say which shards they saw: ``store`` is taken to be theirs, and the oldest held nothing out.
        """
        if "shards" in counters:
            return cls(counters["shards"])
        return cls.of(store, [episode for episode in counters.get("held_out", []) if episode < len(store)])

    def know(self, store: VideoStore) -> bool:
        """Whether any of a store's videos were there."""
        return any(shard in self.shards for shard, _ in store.origins)

    def held_out(self, store: VideoStore) -> list[int]:
        """Return the episodes of a store that were there and held out."""
        return [episode for episode, (shard, place) in enumerate(store.origins) if place in self.shards.get(shard, ())]

    def unseen(self, store: VideoStore) -> list[int]:
        """Return the episodes of a store that were held out, or not there at all."""
        return [
            episode
            for episode, (shard, place) in enumerate(store.origins)
            if shard not in self.shards or place in self.shards[shard]
        ]

    def extended(self, store: VideoStore, held_out: Collection[int]) -> SeenVideos:
        """These and all videos of a store, but for its episodes ``held_out``."""
        return SeenVideos(self.shards | SeenVideos.of(store, held_out).shards)
