"""The videos that a run was trained on, identified by content: a store may grow, lose shards or be replaced.

Where a store lies, and how its path is spelt, identifies nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from prelar_ray.video.mixture import VideoMixture
from prelar_ray.video.store import VideoStore

__all__ = ["SeenVideos", "VideoIdentity", "content_digest"]


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


@dataclass(frozen=True)
class VideoIdentity:
    """The videos that a run trains on at a time: the shards in use of each store, by checksum."""

    stores: list[list[str]]

    @classmethod
    def of(cls, mixture: VideoMixture) -> Self:
        """Return the identity of stores as they are now."""
        return cls([list(dict.fromkeys(shard for shard, _ in store.origins)) for store in mixture.stores])

    def continues(self, counters: Mapping[str, Any], skip_bad: bool) -> bool:
        """Whether these are the videos of a checkpoint, or the same stores grown.

        Args:
            counters: of the checkpoint; older ones say of all videos so far only which shards they were.
            skip_bad: shards that are damaged now may be missing.
        """
        now = [set(store) for store in self.stores]
        if "videos" not in counters:
            return "shards" not in counters or any(store & set(counters["shards"]) for store in now)
        before = [set(store) for store in counters["videos"]]
        if len(before) != len(now):
            return False
        pairs = list(zip(before, now, strict=True))
        return all(bool(old & new) if skip_bad else old <= new for old, new in pairs)

    def __str__(self) -> str:
        shards = sum(map(len, self.stores))
        stores = f"{len(self.stores)} stores, " if len(self.stores) > 1 else ""
        digest = content_digest([shard for store in self.stores for shard in [*store, ""]])
        return f"{stores}{shards} shard{'s' * (shards != 1)} of content {digest[:8]}"


def content_digest(shards: Sequence[str]) -> str:
    """Return one checksum for the checksums of a store's shards, in order."""
    return hashlib.sha256("\n".join(shards).encode()).hexdigest()
