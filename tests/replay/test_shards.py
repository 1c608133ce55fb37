from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from prelar_ray.config import RunConfig, load_config
from prelar_ray.replay.segments import EpisodeStore
from prelar_ray.replay.shard import ReplayShard, shard_of
from prelar_ray.training.local_backend import LocalBackend
from prelar_ray.training.replays import ReplayGroup
from prelar_ray.types import Episode, SequenceBatch

Make = Callable[..., Episode]
SETTINGS = (
    "finetune.random_steps=10 finetune.env_steps_per_update=1 finetune.initial_updates=2 finetune.batch_size=6 "
    "finetune.segment_length=4 replay.capacity_steps=4000 replay.shards=3"
).split()


@pytest.fixture
def config(minute_config: RunConfig) -> RunConfig:
    return load_config(None, None, SETTINGS, base=minute_config)


def group(config: RunConfig, folder: Path, ranks: int = 1) -> ReplayGroup:
    made = ReplayGroup(LocalBackend(), config, folder)
    made.ranks = ranks
    return made


def shards(replay: ReplayGroup) -> list[ReplayShard]:
    return [role.target for role in replay.shards]  # type: ignore[attr-defined]


def insert(replay: ReplayGroup, *parts: list[Episode], env_steps: int = 0) -> ReplayGroup:
    replay.inserted(replay.insert(env_steps, parts))  # type: ignore[arg-type]
    return replay


def sample(replay: ReplayGroup) -> list[list[SequenceBatch | None]]:
    return [[replay.backend.get(part)[0] for part in parts] for parts in replay.sample()]


def numbers_in(batch: SequenceBatch) -> list[int]:
    """Which episodes the segments of a batch come from; see the fixture ``make_episode``."""
    return [int(value) for value in batch.reward[:, 0] // 1000]


def test_every_episode_is_in_one_shard_and_counted_once(config: RunConfig, tmp_path: Path, make_episode: Make) -> None:
    replay = group(config, tmp_path)
    episodes = [replace(make_episode(n), env_index=env) for env in range(2) for n in range(5)]
    insert(replay, episodes[:4], episodes[4:], env_steps=80)
    held = [[episode.key for episode in shard.buffer] for shard in shards(replay)]
    assert sorted(key for keys in held for key in keys) == sorted(episode.key for episode in episodes)
    assert all(len(keys) >= 3 for keys in held)  # evenly, though there are two environments
    assert (replay.env_steps, replay.status.episodes, replay.status.steps) == (80, 10, 80)
    stored = [EpisodeStore(tmp_path / f"shard-{shard}").keys() for shard in range(3)]
    assert stored == held


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(2, 12), min_size=1, max_size=30),
    count=st.integers(1, 5),
)
def test_shards_part_any_episodes_without_loss(lengths: list[int], count: int) -> None:
    keys = [(env, n) for n, env in enumerate(lengths)]
    found = Counter(shard_of(Key(env, n), count) for env, n in keys)  # type: ignore[arg-type]
    assert set(found) <= set(range(count))
    assert sum(found.values()) == len(keys)


class Key:
    """What of an episode decides where it goes."""

    def __init__(self, env_index: int, number: int) -> None:
        self.env_index, self.number = env_index, number


def test_sampling_is_uniform_over_the_episodes_of_all_shards(
    config: RunConfig, tmp_path: Path, make_episode: Make
) -> None:
    replay = group(config, tmp_path, ranks=2)
    # Unequal shards: 6 episodes in the first, 2 in the second, 1 in the third.
    numbers = [0, 3, 6, 9, 12, 15, 1, 4, 2]
    insert(replay, [make_episode(n) for n in numbers], env_steps=2000)
    seen: Counter[int] = Counter()
    for _ in range(1000):
        for parts in sample(replay):
            assert sum(len(part.reward) for part in parts if part is not None) == 3
            seen.update(number for part in parts if part is not None for number in numbers_in(part))
    assert set(seen) == set(numbers)
    assert stats.chisquare([seen[n] for n in numbers]).pvalue > 0.01


def test_batches_do_not_depend_on_how_many_ranks_share_them(
    config: RunConfig, tmp_path: Path, make_episode: Make
) -> None:
    one = load_config(None, None, ["replay.shards=1"], base=config)
    episodes = [make_episode(n) for n in range(5)]
    alone, shared = group(one, tmp_path / "a"), group(one, tmp_path / "b", ranks=2)
    for replay in (alone, shared):
        insert(replay, episodes, env_steps=40)
    for _ in range(3):
        ((whole,),) = sample(alone)
        halves = [part for (part,) in sample(shared)]
        assert whole is not None
        assert [len(half.reward) for half in halves if half is not None] == [3, 3]
        joined = SequenceBatch.joined([half for half in halves if half is not None])
        np.testing.assert_array_equal(whole.reward, joined.reward)
        np.testing.assert_array_equal(whole.image, joined.image)


def test_shards_restored_from_a_checkpoint_give_the_same_next_batches(
    config: RunConfig, tmp_path: Path, make_episode: Make
) -> None:
    replay = group(config, tmp_path, ranks=2)
    insert(replay, [make_episode(n) for n in range(7)], env_steps=56)
    sample(replay)
    states = json.loads(json.dumps(replay.state_dict()))
    expected = [sample(replay) for _ in range(3)]
    insert(replay, [make_episode(7), make_episode(8)], env_steps=16)  # the checkpoint does not know these

    resumed = group(config, tmp_path, ranks=2)
    resumed.restore(states, updates=1)
    assert (resumed.env_steps, resumed.limiter.updates, resumed.status.episodes) == (56, 1, 7)
    for batches in expected:
        for parts, others in zip(batches, sample(resumed), strict=True):
            for part, other in zip(parts, others, strict=True):
                assert (part is None) == (other is None)
                if part is not None and other is not None:
                    np.testing.assert_array_equal(part.reward, other.reward)


def test_episodes_that_a_restored_checkpoint_misses_are_counted_in_a_warning(
    config: RunConfig, tmp_path: Path, make_episode: Make, caplog: pytest.LogCaptureFixture
) -> None:
    replay = group(config, tmp_path)
    insert(replay, [make_episode(n) for n in range(7)], env_steps=56)
    states = json.loads(json.dumps(replay.state_dict()))
    group(config, tmp_path).restore(states, updates=0)
    assert caplog.text == ""
    for file in sorted(tmp_path.glob("shard-1/*.arrow"))[:2]:
        file.unlink()
    partial = group(config, tmp_path)
    partial.restore(states, updates=0)
    assert partial.status.episodes == 5
    assert f"{tmp_path}: holds 5 of the 7 episodes that the replay had at update 0" in caplog.text


def test_no_update_is_due_before_any_shard_can_be_sampled(
    config: RunConfig, tmp_path: Path, make_episode: Make
) -> None:
    replay = group(config, tmp_path)
    assert insert(replay, [], env_steps=20).updates_due == 0
    assert insert(replay, [make_episode(2)]).updates_due == 12


def test_an_older_answer_of_the_shards_takes_nothing_back(
    config: RunConfig, tmp_path: Path, make_episode: Make
) -> None:
    """Two collectors answer, and the driver looks at the second insertion first."""
    replay = group(config, tmp_path)
    first = replay.insert(8, [[make_episode(0)]])  # type: ignore[list-item]
    second = replay.insert(8, [[make_episode(1)]])  # type: ignore[list-item]
    replay.inserted(second)
    assert (replay.env_steps, replay.status.episodes) == (8, 2)
    replay.inserted(first)
    assert (replay.env_steps, replay.status.episodes) == (16, 2)


def test_the_capacity_is_shared_out(config: RunConfig, tmp_path: Path, make_episode: Make) -> None:
    replay = group(load_config(None, None, ["replay.capacity_steps=48"], base=config), tmp_path)
    insert(replay, [make_episode(n) for n in range(12)], env_steps=96)
    assert [shard.buffer.steps for shard in shards(replay)] == [16, 16, 16]
    assert replay.status.steps == 48


def test_a_segment_to_look_at_comes_from_a_shard_that_has_one(
    config: RunConfig, tmp_path: Path, make_episode: Make
) -> None:
    replay = group(config, tmp_path)
    insert(replay, [make_episode(2)], env_steps=8)  # in the last shard
    batch = replay.backend.get(replay.peek())
    assert numbers_in(batch) == [2]
