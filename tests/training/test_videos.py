"""The clips that a run learns from: read ahead, divided over ranks, continued after the last that was learnt from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prelar_ray.config import RunConfig, load_config
from prelar_ray.errors import DataError
from prelar_ray.seeding import generator
from prelar_ray.training.videos import ClipReader, Videos
from prelar_ray.types import Frames
from prelar_ray.video.clips import ClipSampler
from prelar_ray.video.mixture import VideoMixture


@pytest.fixture
def config(minute_config: RunConfig, videos: Path) -> RunConfig:
    settings = [f"video.path={videos}", "finetune.batch_size=8", "finetune.rehearsal.share=0.5"]
    return load_config(None, None, settings, base=minute_config)


def drawn(config: RunConfig, held_out: list[int], batches: int) -> list[Frames]:
    """The clips of a fine-tuning run in order."""
    store = VideoMixture.open(config.video, config.env.image_size)
    sampler = ClipSampler(store, 4, 5, generator(config.seed, "rehearsal"), held_out)
    return [sampler.sample() for _ in range(batches)]


def same(one: list[Frames], other: list[Frames]) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("calls", [(1, 1, 1, 1, 1), (3, 2), (1, 3, 1)])
@pytest.mark.parametrize("ranks", [1, 2])
def test_every_update_has_the_next_clips_and_every_rank_its_share(
    config: RunConfig, calls: tuple[int, ...], ranks: int
) -> None:
    videos = Videos(config, "finetune", None)
    reader = ClipReader(videos, ranks, None)
    found: list[Frames] = []
    for updates in calls:
        shares = reader.read(updates)
        assert [[len(clips) for clips in of_rank] for of_rank in shares] == [[4 // ranks] * updates] * ranks
        found += [np.concatenate(parts) for parts in zip(*shares, strict=True)]
    reader.close()
    assert same(found, drawn(config, videos.held_out, 5))


def test_a_checkpoint_continues_after_the_clips_that_were_learnt_from(config: RunConfig) -> None:
    reader = ClipReader(Videos(config, "finetune", None), 1, None)
    reader.read(2)
    reader.learnt()
    counters = reader.counters
    (cut_off,) = reader.read()  # read, and ahead of it others, but never learnt from
    assert reader.counters == counters
    reader.close()
    for _ in range(2):  # a restart may open the same videos again
        videos = Videos(config, "finetune", counters)
        for _ in range(2):
            again = ClipReader(videos, 1, counters)
            assert again.counters == counters
            assert same(again.read()[0], cut_off)
            again.close()


def test_the_two_phases_draw_different_clips(config: RunConfig) -> None:
    config = load_config(None, None, ["pretrain.batch_size=4"], base=config)
    readers = [ClipReader(Videos(config, phase, None), 1, None) for phase in ("pretrain", "finetune")]
    one, other = (reader.read()[0][0] for reader in readers)
    for reader in readers:
        reader.close()
    assert one.shape == other.shape
    assert not np.array_equal(one, other)


def test_what_pretraining_held_out_is_not_rehearsed(config: RunConfig) -> None:
    store = VideoMixture.open(config.video, config.env.image_size)
    (shard, place), *_ = (origin for origin in store.origins[2:])
    shards: dict[str, Any] = {key: [] for key, _ in store.origins}
    videos = Videos(config, "finetune", {"shards": shards | {shard: [place]}})
    assert videos.held_out == [2]
    assert Videos(config, "finetune", {"shards": shards}).held_out == []
    assert Videos(config, "finetune", None).held_out == [0]  # as a pre-training on these would choose


def test_videos_that_are_too_short_for_a_segment_are_refused_by_its_setting(config: RunConfig) -> None:
    config = load_config(None, None, ["finetune.segment_length=9"], base=config)
    with pytest.raises(DataError, match=r"the longest of 3 videos has 8 frames, .*set finetune\.segment_length to 8"):
        Videos(config, "finetune", None)
    config = load_config(None, None, ["pretrain.segment_length=9"], base=config)
    with pytest.raises(DataError, match=r"set pretrain\.segment_length to 8"):
        Videos(config, "pretrain", None)
