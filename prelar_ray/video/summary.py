"""What a video store holds, in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from prelar_ray.video.store import VideoStore

__all__ = ["Summary", "summarise"]

BINS = 8


@dataclass(frozen=True)
class Summary:
    """Numbers about the episodes of a store."""

    episodes: int
    frames: int
    bytes: int
    """Of the shards."""
    shards: int
    sources: dict[str, int]
    """Episodes by source, the most frequent first."""
    shortest: int
    median: float
    longest: int
    """Lengths of episodes, frames."""
    histogram: list[tuple[int, int, int]]
    """First and last length of a range, and the episodes in it."""
    too_short: int
    """Episodes with fewer frames than a segment spans."""


def summarise(store: VideoStore, clip_span: int) -> Summary:
    """Count what a store holds; ``clip_span`` is the number of frames from the first to the last of a segment."""
    lengths = store.lengths
    return Summary(
        episodes=len(store),
        frames=store.total_frames,
        bytes=store.bytes,
        shards=len(store.shards),
        sources=dict(Counter(store.sources).most_common()),
        shortest=int(lengths.min()),
        median=float(np.median(lengths)),
        longest=int(lengths.max()),
        histogram=_histogram(lengths.min(), lengths.max(), lengths),
        too_short=int((lengths < clip_span).sum()),
    )


def _histogram(shortest: int, longest: int, lengths: np.typing.NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Return ranges of whole numbers that cover all lengths, about equally wide, each with its count."""
    edges = np.unique(np.linspace(shortest, longest + 1, BINS + 1).astype(np.int64))
    counts, _ = np.histogram(lengths, bins=[*edges[:-1], longest + 1])
    stops = [*edges[1:-1], longest + 1]
    return [
        (int(first), int(stop) - 1, int(count)) for first, stop, count in zip(edges[:-1], stops, counts, strict=True)
    ]
