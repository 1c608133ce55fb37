"""The videos that a run learns from: what it holds out of them, and its clips, read while the learner is busy."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

from prelar_ray.config import RunConfig
from prelar_ray.seeding import generator
from prelar_ray.types import Frames
from prelar_ray.video.clips import ClipSampler, held_out_episodes
from prelar_ray.video.mixture import VideoMixture
from prelar_ray.video.seen import SeenVideos, VideoIdentity
from prelar_ray.wording import counted

__all__ = ["ClipReader", "Videos"]

Phase = Literal["pretrain", "finetune"]

log = logging.getLogger(__name__)


class Videos:
    """The stores of ``video.path``: which episodes are learnt from, and what checkpoints say of them.

    Attributes:
        store: all of them.
        held_out: episodes that training does not see.
        sampler: of clips from the others.
    """

    def __init__(self, config: RunConfig, phase: Phase, counters: Mapping[str, Any] | None) -> None:
        """Open the stores.

        Args:
            config: of the run.
            phase: whose batches the clips are for.
            counters: of the checkpoint that knows what was held out, where there is one.

        Raises:
            DataError: a store cannot be used, or no video is long enough.
        """
        rows = config.pretrain.batch_size if phase == "pretrain" else config.finetune.clip_rows
        key = f"{phase}.segment_length"
        segment_length = (config.pretrain if phase == "pretrain" else config.finetune).segment_length
        stride = config.pretrain.stride
        rng = generator(config.seed, "clips" if phase == "pretrain" else "rehearsal")
        self.store = VideoMixture.open(config.video, config.env.image_size)
        seen = SeenVideos({}) if counters is None else SeenVideos.load(counters, self.store)
        self.held_out = _held_out(config, self.store, seen)
        self.store.log_shares(config.video.paths, (segment_length - 1) * stride + 1)
        self._counters = {
            "held_out": self.held_out,
            "shards": seen.extended(self.store, self.held_out).shards,
            "videos": VideoIdentity.of(self.store).stores,
        }
        self.sampler = ClipSampler(self.store, rows, segment_length, rng, self.held_out, stride, key)

    def counters(self, position: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a checkpoint says, JSON-able: the videos, and the ``position`` in the sequence of clips."""
        return self._counters | {"sampler": position}


def _held_out(config: RunConfig, store: VideoMixture, seen: SeenVideos) -> list[int]:
    """Return the episodes that training shall not see.

    What was held out before stays so, even if the share has changed or the store has grown since. Of videos that the
    run was not trained on so far, other episodes are held out.
    """
    if seen.know(store):
        return seen.held_out(store)
    held_out = held_out_episodes(store, config.pretrain.clip_span, config.pretrain.validation_share)
    if seen.shards:
        count, path = counted(len(held_out), "episode"), config.video.name
        log.warning("%s: other videos than this run was trained on before; %s held out of these", path, count)
    return held_out


class _Batch(NamedTuple):
    shares: list[Frames]
    """Of each rank."""
    position: dict[str, Any]
    """Of the sampler, after them."""


class ClipReader:
    """Reads the clips of the next updates in a thread of its own, while the learner learns from those before."""

    def __init__(self, videos: Videos, ranks: int, counters: Mapping[str, Any] | None) -> None:
        """Begin, where ``counters`` of a checkpoint are given exactly after the clips that it has learnt from."""
        self._videos, self._ranks = videos, ranks
        if counters is not None:
            videos.sampler.load_state_dict(counters["sampler"])
        self._read = self._learnt = videos.sampler.state_dict()
        self._ahead: deque[Future[_Batch]] = deque()
        self._thread = ThreadPoolExecutor(1, "clips")

    def read(self, updates: int = 1) -> list[list[Frames]]:
        """Return, for every rank, its clips ``(rows, T, Hpx, Wpx, C)`` of each of successive updates.

        The clips of as many more are read meanwhile.

        Raises:
            DataError: a video is damaged.
        """
        self._read_ahead(updates)
        batches = [self._ahead.popleft().result() for _ in range(updates)]
        self._read_ahead(updates)
        self._read = batches[-1].position
        return [list(shares) for shares in zip(*(batch.shares for batch in batches), strict=True)]

    def learnt(self) -> None:
        """Say that what was read last is learnt from, or will be before the next checkpoint."""
        self._learnt = self._read

    @property
    def counters(self) -> dict[str, Any]:
        """What a checkpoint says, from which the sequence of clips continues after those learnt from; JSON-able."""
        return self._videos.counters(self._learnt)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _read_ahead(self, updates: int) -> None:
        while len(self._ahead) < updates:
            self._ahead.append(self._thread.submit(self._sample))

    def _sample(self) -> _Batch:
        sampler, ranks = self._videos.sampler, self._ranks
        draw = sampler.draw()
        return _Batch([sampler.read(draw.share(rank, ranks)) for rank in range(ranks)], sampler.state_dict())
