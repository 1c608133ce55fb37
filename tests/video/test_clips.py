from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelar_ray.config.training import PretrainConfig
from prelar_ray.errors import DataError
from prelar_ray.types import Frames
from prelar_ray.video.clips import ClipSampler, held_out_episodes, validation_clips
from prelar_ray.video.store import VideoStore, VideoWriter


def marked(index: int, length: int) -> Frames:
    """An episode whose pixels tell its index and the frame number."""
    frames = np.zeros((length, 64, 64, 3), np.uint8)
    frames[:, ..., 0] = index
    frames[:, ..., 1] = np.arange(length)[:, None, None]
    return frames


def record(path: Path, lengths: list[int], shard_frames: int = 10) -> VideoStore:
    with VideoWriter(path, {}, shard_frames) as writer:
        for index, length in enumerate(lengths):
            writer.append(marked(index, length), "test")
    return VideoStore(path)


def positions(clips: Frames, stride: int = 1) -> list[tuple[int, int]]:
    """Episode and start of each clip, after checking that it is of one episode, its frames ``stride`` steps apart."""
    result = []
    for clip in clips:
        index, start = int(clip[0, 0, 0, 0]), int(clip[0, 0, 0, 1])
        np.testing.assert_array_equal(clip, marked(index, start + stride * len(clip))[start::stride])
        result.append((index, start))
    return result


@settings(max_examples=15)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(1, 12),
    st.integers(0, 2**32),
)
def test_every_clip_is_of_one_episode_at_one_pace_and_every_start_is_reached(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    segment_length: int,
    stride: int,
    shard_frames: int,
    seed: int,
) -> None:
    store = record(tmp_path_factory.mktemp("videos"), lengths, shard_frames)
    span = (segment_length - 1) * stride + 1
    possible = {(i, start) for i, length in enumerate(lengths) for start in range(length - span + 1)}
    if not possible:
        with pytest.raises(DataError):
            ClipSampler(store, 2, segment_length, np.random.default_rng(seed), stride=stride)
        return
    sampler = ClipSampler(store, 60, segment_length, np.random.default_rng(seed), stride=stride)
    seen: set[tuple[int, int]] = set()
    for _ in range(20):  # a start is missed with probability (1 - 1/54) ** 1200 < 1e-9
        clips = sampler.sample()
        assert clips.shape == (60, segment_length, 64, 64, 3)
        assert clips.dtype == np.uint8
        seen.update(positions(clips, stride))
        if seen == possible:
            break
    assert seen == possible


def test_episodes_are_drawn_uniformly_and_starts_uniformly_within(tmp_path: Path) -> None:
    store = record(tmp_path / "videos", [3, 2, 12])  # the second is too short
    sampler = ClipSampler(store, 100, 3, np.random.default_rng(0))
    drawn = [position for _ in range(40) for position in positions(sampler.sample())]
    share = sum(index == 0 for index, _ in drawn) / len(drawn)
    assert share == pytest.approx(0.5, abs=0.04)  # 5 standard deviations
    starts = np.bincount([start for index, start in drawn if index == 2], minlength=10)
    np.testing.assert_allclose(starts / starts.sum(), 0.1, atol=0.035)


def test_batches_do_not_share_memory(tmp_path: Path) -> None:
    sampler = ClipSampler(record(tmp_path / "videos", [9]), 2, 3, np.random.default_rng(0))
    first = sampler.sample()
    kept = first.copy()
    second = sampler.sample()
    assert not np.shares_memory(first, second)
    assert first.flags.writeable
    np.testing.assert_array_equal(first, kept)


def test_a_restored_sampler_continues_the_exact_sequence(tmp_path: Path) -> None:
    store = record(tmp_path / "videos", [9, 5, 7])
    sampler = ClipSampler(store, 3, 4, np.random.default_rng(1))
    sampler.sample()
    state = json.loads(json.dumps(sampler.state_dict()))
    expected = [sampler.sample() for _ in range(5)]
    restored = ClipSampler(VideoStore(tmp_path / "videos"), 3, 4, np.random.default_rng(2))
    assert not np.array_equal(restored.sample(), expected[0])
    restored.load_state_dict(state)
    for clips in expected:
        np.testing.assert_array_equal(restored.sample(), clips)


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(3, 9), min_size=1, max_size=6),
    ranks=st.integers(1, 4),
    each=st.integers(1, 3),
    seed=st.integers(0, 2**32),
    resumed=st.integers(0, 3),
)
def test_ranks_divide_each_batch_all_of_it_and_none_of_it_twice(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], ranks: int, each: int, seed: int, resumed: int
) -> None:
    store = record(tmp_path_factory.mktemp("videos"), lengths)
    whole = ClipSampler(store, ranks * each, 3, np.random.default_rng(seed))
    one_rank = [positions(whole.sample()) for _ in range(4)]

    shared = ClipSampler(store, ranks * each, 3, np.random.default_rng(seed))
    for number, expected in enumerate(one_rank):
        if number == resumed:  # by a run that has only this
            state = shared.state_dict()
            shared = ClipSampler(store, ranks * each, 3, np.random.default_rng(seed + 1))
            shared.load_state_dict(state)
        draw = shared.draw()
        by_rank = [positions(shared.read(draw.share(rank, ranks))) for rank in range(ranks)]
        assert [len(clips) for clips in by_rank] == [each] * ranks
        assert [clip for clips in by_rank for clip in clips] == expected  # in this order: no row is of two ranks


def test_the_clips_of_all_ranks_together_reach_every_start_as_often(tmp_path: Path) -> None:
    store = record(tmp_path / "videos", [7, 7])
    sampler = ClipSampler(store, 40, 3, np.random.default_rng(0))
    counts = np.zeros((2, 2, 5))  # rank, episode, start
    for _ in range(100):
        draw = sampler.draw()
        for rank in range(2):
            share = draw.share(rank, 2)
            np.add.at(counts[rank], (share.episodes, share.starts), 1)
    np.testing.assert_allclose(counts / counts.sum(axis=(1, 2), keepdims=True), 0.1, atol=0.034)  # 5 deviations


def test_videos_shorter_than_a_clip_are_refused(tmp_path: Path) -> None:
    store = record(tmp_path / "videos", [4, 7, 5])
    with pytest.raises(
        DataError, match=r"longest of 3 videos has 7 frames, a clip needs 25; set pretrain\.segment_length to 7 or less"
    ):
        ClipSampler(store, 2, 25, np.random.default_rng(0))


def test_episodes_recorded_meanwhile_take_part_after_a_refresh(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "videos", {}, 4) as writer:
        writer.append(marked(0, 4), "test")
        store = VideoStore(tmp_path / "videos")
        sampler = ClipSampler(store, 20, 3, np.random.default_rng(0))
        writer.append(marked(1, 6), "test")
        assert {index for index, _ in positions(sampler.sample())} == {0}
        assert store.refresh()
        assert {index for index, _ in positions(sampler.sample())} == {0, 1}


@pytest.mark.parametrize(
    ("lengths", "share", "expected"),
    [
        ([5] * 20, 0.1, 2),
        ([5] * 20, 0.0, 0),
        ([5] * 20, 0.001, 1),  # at least one
        ([5] * 20, 0.99, 19),  # never all
        ([5] * 2, 0.05, 1),
        ([5], 0.5, 0),  # the only one is for training
        ([1, 5, 1, 5, 1], 0.5, 1),  # of those that a clip fits in
        ([1, 1], 0.5, 0),
    ],
)
def test_a_share_of_the_episodes_is_held_out(tmp_path: Path, lengths: list[int], share: float, expected: int) -> None:
    store = record(tmp_path / "videos", lengths)
    held_out = held_out_episodes(store, 3, share)
    assert len(held_out) == expected
    assert held_out == sorted(set(held_out))
    assert all(lengths[index] >= 3 for index in held_out)
    assert held_out == held_out_episodes(VideoStore(tmp_path / "videos"), 3, share)


def test_held_out_episodes_are_scattered(tmp_path: Path) -> None:
    held_out = held_out_episodes(record(tmp_path / "videos", [4] * 40), 3, 0.25)
    assert {index % 2 for index in held_out} == {0, 1}  # recorders take turns: expert, random, expert, ...
    assert min(held_out) < 20 <= max(held_out)  # and go from task to task


def test_training_never_sees_what_is_held_out_and_validation_sees_nothing_else(tmp_path: Path) -> None:
    store = record(tmp_path / "videos", [6] * 10)
    held_out = held_out_episodes(store, 3, 0.3)
    sampler = ClipSampler(store, 50, 3, np.random.default_rng(0), without=held_out)
    trained = {index for _ in range(10) for index, _ in positions(sampler.sample())}
    assert trained == set(range(10)) - set(held_out)
    validated = {index for index, _ in positions(validation_clips(store, 100, 3, held_out))}
    assert validated == set(held_out)


def test_validation_clips_are_the_same_every_time_and_of_any_episode_where_none_is_held_out(tmp_path: Path) -> None:
    store = record(tmp_path / "videos", [6] * 4)
    clips = validation_clips(store, 40, 3, [])
    assert {index for index, _ in positions(clips)} == {0, 1, 2, 3}
    np.testing.assert_array_equal(clips, validation_clips(store, 40, 3, []))


def test_the_same_seed_draws_the_same_starts_at_every_pace_where_they_are_as_many(tmp_path: Path) -> None:
    store = record(tmp_path / "videos", [7])
    near, far = (ClipSampler(store, 30, length, np.random.default_rng(0), stride=k) for length, k in [(5, 1), (3, 2)])
    assert positions(near.sample()) == positions(far.sample(), 2)


def test_a_clip_with_gaps_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = record(tmp_path / "videos", [9])
    asked: list[tuple[int, int]] = []
    read = VideoStore.read

    def counting(self: VideoStore, episode: int, start: int, stop: int, out: Frames | None = None) -> Frames:
        asked.append((start, stop))
        return read(self, episode, start, stop, out)

    monkeypatch.setattr(VideoStore, "read", counting)
    ((_, start),) = positions(ClipSampler(store, 1, 3, np.random.default_rng(0), stride=3).sample(), 3)
    assert asked == [(start, start + 7)]  # a compressed chunk is opened once, and nothing after the last frame is read


@pytest.mark.parametrize(
    ("stride", "advice"),
    [
        (1, "set pretrain.segment_length to 4 or less, or use longer videos"),
        (2, "set pretrain.segment_length to 2 or less, or a lower pretrain.stride than 2, or use longer videos"),
        (5, "set a lower pretrain.stride than 5, or use longer videos"),
    ],
)
def test_videos_too_short_for_a_clip_are_refused_with_what_would_fit(tmp_path: Path, stride: int, advice: str) -> None:
    store = record(tmp_path / "videos", [4, 2])
    with pytest.raises(DataError) as error:
        ClipSampler(store, 1, 5, np.random.default_rng(0), stride=stride)
    span = 4 * stride + 1
    assert str(error.value) == f"the longest of 2 videos has 4 frames, a clip needs {span}; {advice}"


def test_clips_with_gaps_are_validated_on_episodes_that_are_long_enough(tmp_path: Path) -> None:
    settings = PretrainConfig(segment_length=3, stride=3)
    assert settings.clip_span == 7
    store = record(tmp_path / "videos", [6, 7, 6, 7, 7])
    held_out = held_out_episodes(store, settings.clip_span, 0.4)
    assert set(held_out) < {1, 3, 4}
    clips = validation_clips(store, 20, settings.segment_length, held_out, settings.stride)
    assert {index for index, _ in positions(clips, 3)} == set(held_out)
