"""Clips sampled from a video store, on which the world model is pre-trained."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from prelar_ray.errors import DataError
from prelar_ray.seeding import generator
from prelar_ray.types import Frames
from prelar_ray.video.mixture import VideoMixture
from prelar_ray.video.store import VideoStore
from prelar_ray.wording import counted

__all__ = ["ClipSampler", "Draw", "held_out_episodes", "validation_clips"]


def held_out_episodes(store: VideoStore | VideoMixture, clip_span: int, share: float) -> list[int]:
    """Choose the episodes that are held out of training, the same for every run and seed on this store.

    They are a share of the episodes with at least ``clip_span`` frames: at least one if ``share`` is above 0, and
    never all.
    """
    eligible = np.flatnonzero(store.lengths >= clip_span)
    if share == 0 or len(eligible) < 2:
        return []
    count = min(max(1, round(share * len(eligible))), len(eligible) - 1)
    order = generator(0, "held-out-episodes").permutation(len(eligible))
    return sorted(eligible[order[:count]].tolist())


class Draw(NamedTuple):
    """Which clips a batch has.

    The ranks of a learner divide a draw among them. The draws do not depend on how many they are, so the clips of a
    seed are the same for any number of ranks, and a run may resume with another number.
    """

    episodes: npt.NDArray[np.int64]
    """``(B,)``."""
    starts: npt.NDArray[np.int64]
    """First frame of each clip, ``(B,)``."""

    def share(self, rank: int, ranks: int) -> Draw:
        """Return the clips of one of ``ranks``, which are a divisor of ``B``."""
        return Draw(np.split(self.episodes, ranks)[rank], np.split(self.starts, ranks)[rank])


class ClipSampler:
    """Draws an episode among those that are long enough for a clip, then a start uniformly within it.

    The ``T`` frames of a clip are ``stride`` steps apart and span ``(T-1) * stride + 1`` frames of the video. Episodes
    are equally likely where the mixture says nothing else.
    """

    def __init__(
        self,
        store: VideoStore | VideoMixture,
        batch_size: int,
        segment_length: int,
        rng: np.random.Generator,
        without: Collection[int] = (),
        stride: int = 1,
        key: str = "pretrain.segment_length",
    ) -> None:
        """Sample ``B`` clips of ``T`` frames at a time, also from episodes that ``store.refresh()`` adds later.

        Episodes in ``without`` are never sampled; ``key`` is the setting that says ``T``, for messages.

        Raises:
            DataError: no episode is long enough.
        """
        self._store = store if isinstance(store, VideoMixture) else VideoMixture([store])
        self._batch_size = batch_size
        self._segment_length = segment_length
        self._stride = stride
        self._span = (segment_length - 1) * stride + 1
        self._rng = rng
        self._without = frozenset(without)
        self._key = key
        self._index()

    def sample(self) -> Frames:
        """Return clips, a new uint8 array ``(B, T, Hpx, Wpx, C)``."""
        return self.read(self.draw())

    def draw(self) -> Draw:
        """Choose the next clips, without reading them."""
        if len(self._store) != self._seen:
            self._index()
        if self._cumulated is None:
            rows = self._rng.integers(len(self._eligible), size=self._batch_size)  # (B,)
        else:
            rows = np.searchsorted(self._cumulated, self._rng.random(self._batch_size), side="right")  # (B,)
        return Draw(self._eligible[rows], self._rng.integers(self._starts[rows]))

    def read(self, draw: Draw) -> Frames:
        """Read chosen clips, a new uint8 array ``(len(draw.starts), T, Hpx, Wpx, C)``."""
        length, size = self._segment_length, self._store.image_size
        clips = np.empty((len(draw.starts), length, size, size, 3), np.uint8)
        for clip, episode, start in zip(clips, draw.episodes.tolist(), draw.starts.tolist(), strict=True):
            if self._stride == 1:
                self._store.read(episode, start, start + length, out=clip)
            else:  # of an uncompressed shard a view, of which only these frames are touched
                clip[:] = self._store.read(episode, start, start + self._span)[:: self._stride]
        return clips

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state, JSON-serialisable."""
        return {"generator": self._rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the sequence of clips exactly, given the same store."""
        self._rng.bit_generator.state = state["generator"]

    def _shorter(self, longest: int) -> str:
        """Return which settings make clips of videos of so many frames."""
        if self._stride == 1:
            return f"set {self._key} to {longest} or less"
        fitting = (longest - 1) // self._stride + 1
        lower = f"{self._key} to {fitting} or less, or " if fitting > 1 else ""
        return f"set {lower}a lower pretrain.stride than {self._stride}"

    def _index(self) -> None:
        """Find the episodes that are long enough and how many starts each has."""
        lengths = self._store.lengths
        self._seen = len(lengths)
        long_enough = np.flatnonzero(lengths >= self._span)
        self._eligible = np.array([i for i in long_enough.tolist() if i not in self._without], dtype=np.int64)
        self._starts = lengths[self._eligible] - self._span + 1
        if len(self._eligible) == 0 and len(long_enough):
            raise DataError(
                f"all {len(long_enough)} videos of {self._span} frames or more are held out of training; "
                "record more videos, or start a new run"
            )
        if len(self._eligible) == 0:
            raise DataError(
                f"the longest of {counted(self._seen, 'video')} has {lengths.max()} frames, a clip needs "
                f"{self._span}; {self._shorter(int(lengths.max()))}, or use longer videos"
            )
        likely = self._store.probabilities(self._starts, self._eligible)
        self._cumulated = None if likely is None else np.cumsum(likely)
        if self._cumulated is not None:
            self._cumulated[-1] = 1.0  # rounding must not let a draw fall beyond the last


def validation_clips(
    store: VideoStore | VideoMixture, count: int, segment_length: int, held_out: Collection[int], stride: int = 1
) -> Frames:
    """Return ``(count, T, Hpx, Wpx, C)`` clips of the held-out episodes, or of any episodes if none are held out.

    The clips are the same for every run on this store.
    """
    seen = set(range(len(store))) - set(held_out) if held_out else set()
    return ClipSampler(store, count, segment_length, generator(0, "validation-clips"), seen, stride).sample()
