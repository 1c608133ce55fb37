from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prelar_ray.config import RunConfig, load_config
from prelar_ray.errors import DataError, NonFiniteError
from prelar_ray.replay.segments import EpisodeStore
from prelar_ray.replay.shard import ReplayShard, ShardStatus
from prelar_ray.training.local_backend import LocalBackend
from prelar_ray.training.replays import ReplayGroup
from prelar_ray.types import Episode, SequenceBatch

Make = Callable[..., Episode]
SETTINGS = [
    "finetune.random_steps=10",
    "finetune.env_steps_per_update=5",
    "finetune.initial_updates=2",
    "finetune.batch_size=3",
    "finetune.segment_length=4",
    "replay.capacity_steps=40",
    "replay.tolerance_updates=3",
]


@pytest.fixture
def config(minute_config: RunConfig) -> RunConfig:
    return load_config(None, None, SETTINGS, base=minute_config)


def one_shard(config: RunConfig, folder: Path) -> ReplayGroup:
    return ReplayGroup(LocalBackend(), config, folder)


def shard(replay: ReplayGroup) -> ReplayShard:
    return replay.shards[0].target  # type: ignore[attr-defined]


def insert(replay: ReplayGroup, episodes: list[Episode], env_steps: int) -> ReplayGroup:
    replay.inserted(replay.insert(env_steps, [episodes]))  # type: ignore[list-item]
    return replay


def sample(replay: ReplayGroup) -> SequenceBatch:
    ((part,),) = replay.sample()
    (batch,) = replay.backend.get(part)
    assert batch is not None
    return batch


def peek(replay: ReplayGroup) -> SequenceBatch:
    batch = replay.backend.get(replay.peek())
    assert batch is not None
    return batch


def restore(replay: ReplayGroup, state: list[dict[str, Any]], updates: int) -> ReplayGroup:
    replay.restore(state, updates)
    return replay


def counts(replay: ReplayGroup) -> tuple[int, int, int]:
    """Environment steps, updates sampled for, and updates due."""
    return replay.env_steps, replay.limiter.updates, replay.updates_due


def numbers(replay: ReplayGroup) -> list[int]:
    return [episode.number for episode in shard(replay).buffer]


def assert_same(one: SequenceBatch, two: SequenceBatch) -> None:
    for name in ("image", "action", "reward", "is_first", "is_terminal"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_inserting_counts_steps_and_makes_updates_due(config: RunConfig, tmp_path: Path, make_episode: Make) -> None:
    replay = one_shard(config, tmp_path)
    assert (counts(replay), replay.status, replay.may_collect) == ((0, 0, 0), ShardStatus(), True)
    insert(replay, [make_episode(0), make_episode(1)], 21)
    assert counts(replay) == (21, 0, 4)
    assert replay.status == ShardStatus(steps=16, episodes=2)
    assert not replay.may_collect
    assert sample(replay).shape == (3, 4)
    assert counts(replay) == (21, 1, 3)
    assert replay.may_collect


def test_a_turn_is_taken_in_by_environment_and_number_whoever_brought_what(
    config: RunConfig, tmp_path: Path, make_episode: Make
) -> None:
    episodes = {(env, n): replace(make_episode(n), env_index=env) for env in (0, 1, 2) for n in (0, 1)}
    spread = {
        "one": [[episodes[key] for key in ((2, 0), (0, 0), (1, 0), (0, 1), (1, 1), (2, 1))]],
        "many": [[episodes[2, 0], episodes[2, 1]], [episodes[0, 0], episodes[0, 1], episodes[1, 0], episodes[1, 1]]],
    }
    for name, parts in spread.items():
        replay = one_shard(config, tmp_path / name)
        replay.inserted(replay.insert(54, parts))  # type: ignore[arg-type]
        assert replay.env_steps == 54
        held = [(episode.env_index, episode.number) for episode in shard(replay).buffer]
        assert held == sorted(episodes)[-len(held) :]


def test_steps_of_open_episodes_count(config: RunConfig, tmp_path: Path, make_episode: Make) -> None:
    replay = one_shard(config, tmp_path)
    insert(replay, [], 25)
    assert replay.env_steps == 25
    assert replay.updates_due == 0  # there is nothing to sample yet
    assert insert(replay, [make_episode(0)], 0).updates_due == 5


def test_no_update_is_due_while_all_episodes_are_open(config: RunConfig, tmp_path: Path, make_episode: Make) -> None:
    replay = one_shard(config, tmp_path)
    assert insert(replay, [], 20).updates_due == 0
    assert insert(replay, [make_episode(1, length=4)], 0).updates_due == 4


def test_views_into_shared_memory_are_copied(config: RunConfig, tmp_path: Path, make_episode: Make) -> None:
    episode = make_episode(0)
    episode.image.flags.writeable = False
    replay = one_shard(config, tmp_path)
    insert(replay, [episode], 8)
    (held,) = shard(replay).buffer
    assert not np.shares_memory(held.image, episode.image)
    np.testing.assert_array_equal(held.image, episode.image)


def test_a_sample_that_nothing_paid_for_is_refused(config: RunConfig, tmp_path: Path, make_episode: Make) -> None:
    replay = one_shard(config, tmp_path)
    insert(replay, [make_episode(0)], 9)
    with pytest.raises(RuntimeError, match="no update is due"):
        sample(replay)


def test_synchronous_mode_tolerates_no_lag(config: RunConfig, tmp_path: Path, make_episode: Make) -> None:
    replay = one_shard(load_config(None, None, ["collect.synchronous=true"], base=config), tmp_path)
    insert(replay, [make_episode(0)], 10)
    assert (replay.updates_due, replay.may_collect) == (2, False)
    sample(replay)
    sample(replay)
    assert replay.may_collect


def test_inserts_are_durable_when_they_return(config: RunConfig, tmp_path: Path, make_episode: Make) -> None:
    replay = one_shard(config, tmp_path)
    for number in range(3):
        insert(replay, [make_episode(number)], 8)
        assert EpisodeStore(tmp_path).keys() == [make_episode(n).key for n in range(number + 1)]


@pytest.mark.parametrize(("name", "value"), [("reward", np.nan), ("action", np.inf)])
def test_of_an_episode_that_is_not_finite_nothing_is_stored(
    config: RunConfig, tmp_path: Path, make_episode: Make, name: str, value: float
) -> None:
    replay = one_shard(config, tmp_path)
    insert(replay, [make_episode(0)], 8)
    before = counts(replay), shard(replay).status()
    array = getattr(make_episode(1, env_index=2), name).copy()
    array[5] = value
    bad = replace(make_episode(1, env_index=2), **{name: array})
    with pytest.raises(NonFiniteError, match=rf"^env0002-episode000001: {name}\[5\] is"):
        insert(replay, [bad], 8)
    assert (counts(replay), shard(replay).status()) == before
    assert numbers(replay) == [0]
    assert EpisodeStore(tmp_path).keys() == [make_episode(0).key]


def test_looking_at_a_batch_changes_nothing(config: RunConfig, tmp_path: Path, make_episode: Make) -> None:
    episodes = [make_episode(number) for number in range(4)]
    replay, other = one_shard(config, tmp_path / "a"), one_shard(config, tmp_path / "b")
    for one in (replay, other):
        insert(one, episodes, 32)
    before = counts(replay)
    assert peek(replay).shape == (1, 4)
    assert counts(replay) == before
    assert_same(sample(replay), sample(other))


def test_a_killed_replay_comes_back_with_the_same_episodes_and_the_same_next_batch(
    config: RunConfig, tmp_path: Path, make_episode: Make
) -> None:
    replay = one_shard(config, tmp_path)
    insert(replay, [make_episode(number, length=9) for number in range(6)], 54)  # the first two have left
    for _ in range(3):
        sample(replay)
    held, before = list(shard(replay).buffer), (counts(replay), replay.status)
    state = json.loads(json.dumps(replay.state_dict()))
    batches = [sample(replay) for _ in range(2)]  # those the learner never got to learn from
    del replay

    resumed = one_shard(config, tmp_path)
    restore(resumed, state, 3)
    assert (counts(resumed), resumed.status) == before
    assert [episode.key for episode in shard(resumed).buffer] == [episode.key for episode in held]
    for one, two in zip(shard(resumed).buffer, held, strict=True):
        np.testing.assert_array_equal(one.image, two.image)
        np.testing.assert_array_equal(one.reward, two.reward)
        assert one.weight_version == two.weight_version
    for batch in batches:
        assert_same(sample(resumed), batch)


def test_batches_for_several_updates_are_those_of_as_many_calls(
    config: RunConfig, tmp_path: Path, make_episode: Make
) -> None:
    replays = [one_shard(config, tmp_path / name) for name in ("one", "other")]
    for replay in replays:
        insert(replay, [make_episode(number) for number in range(6)], 54)
    one, other = replays
    ((part,),) = one.sample(3)
    for batch in one.backend.get(part):
        assert batch is not None
        assert_same(batch, sample(other))
    assert one.updates_due == other.updates_due


def test_episodes_later_than_the_checkpoint_are_dropped_and_collected_again_once(
    config: RunConfig, tmp_path: Path, make_episode: Make
) -> None:
    replay = one_shard(config, tmp_path)
    insert(replay, [make_episode(0), make_episode(1)], 16)
    state = replay.state_dict()
    insert(replay, [make_episode(2, length=5), make_episode(0, env_index=1)], 16)
    del replay

    resumed = one_shard(config, tmp_path)
    restore(resumed, state, 0)
    assert (resumed.env_steps, resumed.status.episodes, resumed.status.steps) == (16, 2, 16)
    assert EpisodeStore(tmp_path).keys() == [make_episode(0).key, make_episode(1).key]
    insert(resumed, [make_episode(2, length=7)], 8)  # what another policy does in it
    assert [(episode.number, len(episode)) for episode in shard(resumed).buffer] == [(0, 8), (1, 8), (2, 7)]
    stored = EpisodeStore(tmp_path)
    assert stored.keys() == [make_episode(n).key for n in (0, 1, 2)]
    assert len(stored.load(make_episode(2).key)) == 7


def test_a_replay_restored_twice_holds_every_episode_once(
    config: RunConfig, tmp_path: Path, make_episode: Make
) -> None:
    replay = one_shard(config, tmp_path)
    insert(replay, [make_episode(number) for number in range(3)], 24)
    state = replay.state_dict()
    for _ in range(2):
        replay = one_shard(config, tmp_path)
        restore(replay, state, 0)
        assert numbers(replay) == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_smaller_capacity_after_a_resume_lets_the_oldest_go(
    config: RunConfig, tmp_path: Path, make_episode: Make
) -> None:
    replay = one_shard(config, tmp_path)
    insert(replay, [make_episode(number) for number in range(4)], 32)
    smaller = load_config(None, None, ["replay.capacity_steps=20"], base=config)
    resumed = one_shard(smaller, tmp_path)
    assert restore(resumed, replay.state_dict(), 0).status.steps == 16
    assert numbers(resumed) == [2, 3]


def test_a_damaged_episode_stops_the_restore_by_name(config: RunConfig, tmp_path: Path, make_episode: Make) -> None:
    replay = one_shard(config, tmp_path)
    insert(replay, [make_episode(0), make_episode(1)], 16)
    state = replay.state_dict()
    path = tmp_path / "00000001-env0000-episode000001.arrow"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=path.name):
        restore(one_shard(config, tmp_path), state, 0)


def test_a_full_disk_stops_the_insert_and_leaves_earlier_episodes(
    config: RunConfig, tmp_path: Path, make_episode: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = one_shard(config, tmp_path)
    insert(replay, [make_episode(0)], 8)
    state = replay.state_dict()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"episode000001\.arrow: cannot write: No space left"):
            insert(replay, [make_episode(1)], 8)
    resumed = one_shard(config, tmp_path)
    restore(resumed, state, 0)
    assert numbers(resumed) == [0]


def test_episodes_that_left_after_a_checkpoint_are_still_there_to_restore_it(
    config: RunConfig, tmp_path: Path, make_episode: Make
) -> None:
    replay = one_shard(config, tmp_path)
    insert(replay, [make_episode(number, length=9) for number in range(4)], 36)
    state = replay.state_dict()
    insert(replay, [make_episode(number, length=9) for number in range(4, 7)], 27)
    assert numbers(replay) == [3, 4, 5, 6]
    resumed = one_shard(config, tmp_path)
    restore(resumed, state, 0)
    assert numbers(resumed) == [0, 1, 2, 3]


@pytest.mark.parametrize(("keep_last", "saved"), [(1, 2), (2, 2), (3, 3)])
def test_episodes_that_left_go_from_disk_once_no_checkpoint_that_is_kept_needs_them(
    config: RunConfig, tmp_path: Path, make_episode: Make, keep_last: int, saved: int
) -> None:
    """The one before stays restorable in any case, for the next is not written yet when the replay is asked."""
    config = load_config(None, None, [f"checkpoint.keep_last={keep_last}"], base=config)
    replay = one_shard(config, tmp_path / "here")
    insert(replay, [make_episode(number, length=9) for number in range(4)], 36)
    state = replay.state_dict()
    insert(replay, [make_episode(number, length=9) for number in range(4, 6)], 18)  # the first two leave
    for again in range(saved - 1):
        replay.state_dict()
        resumed = one_shard(config, shutil.copytree(tmp_path / "here", tmp_path / f"copy-{again}"))
        restore(resumed, state, 0)
        assert numbers(resumed) == [0, 1, 2, 3]
    replay.state_dict()
    assert len(EpisodeStore(tmp_path / "here").keys()) == 4
