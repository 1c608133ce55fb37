from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelar_ray.errors import DataError, NonFiniteError
from prelar_ray.replay.buffer import ReplayBuffer
from prelar_ray.seeding import generator
from prelar_ray.types import Episode, SequenceBatch

Make = Callable[..., Episode]


def filled(episodes: list[Episode], segment_length: int, capacity: int = 10_000) -> ReplayBuffer:
    buffer = ReplayBuffer(capacity, segment_length, generator(0, "replay"))
    for episode in episodes:
        buffer.add(episode)
    return buffer


def origins(batch: SequenceBatch) -> list[tuple[int, int]]:
    """Episode number and start of every segment, read from the rewards."""
    return [divmod(int(reward), 1000) for reward in batch.reward[:, 0]]


def assert_same(one: SequenceBatch, two: SequenceBatch) -> None:
    for name in ("image", "action", "reward", "is_first", "is_terminal"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@settings(max_examples=60)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=25), capacity=st.integers(9, 40), segment=st.just(4))
def test_the_oldest_episodes_leave_first_and_no_more_than_must(
    make_episode: Make, lengths: list[int], capacity: int, segment: int
) -> None:
    buffer = ReplayBuffer(capacity, segment, generator(0, "replay"))
    held: list[Episode] = []
    for number, length in enumerate(lengths):
        episode = make_episode(number, length)
        left = buffer.add(episode)
        held.append(episode)
        assert left == held[: len(left)]
        held = held[len(left) :]
        assert list(buffer) == held
        assert len(buffer) == len(held)
        assert buffer.steps == sum(map(len, held)) <= capacity
        assert not left or buffer.steps + len(left[-1]) > capacity
        assert buffer.can_sample
        assert {number for number, _ in origins(buffer.sample(5))} <= {episode.number for episode in held}


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6), segment=st.integers(1, 12), seed=st.integers(0, 99)
)
def test_segments_are_contiguous_slices_of_episodes_of_which_the_short_ones_are_whole(
    make_episode: Make, lengths: list[int], segment: int, seed: int
) -> None:
    buffer = ReplayBuffer(1000, segment, np.random.default_rng(seed))
    episodes = [make_episode(number, length) for number, length in enumerate(lengths)]
    for episode in episodes:
        buffer.add(episode)
    batch = buffer.sample(6)
    assert batch.shape == (6, segment)
    for row in range(6):
        bounds = [*np.flatnonzero(batch.is_first[row]).tolist(), segment]
        assert bounds[0] == 0
        for begin, end in itertools.pairwise(bounds):
            number, start = divmod(int(batch.reward[row, begin]), 1000)
            episode, rows = episodes[number], end - begin
            for name in ("image", "action", "reward", "is_terminal"):
                part = getattr(batch, name)[row, begin:end]
                np.testing.assert_array_equal(part, getattr(episode, name)[start : start + rows])
            assert rows == min(len(episode), segment - begin)


def test_types_are_those_of_the_episodes(make_episode: Make) -> None:
    batch = filled([make_episode(0)], segment_length=3).sample(2)
    assert (batch.image.dtype, batch.action.dtype, batch.reward.dtype) == (np.uint8, np.float32, np.float32)
    assert (batch.is_first.dtype, batch.is_terminal.dtype) == (np.bool_, np.bool_)
    assert batch.action.shape == (2, 3, 2)


def test_a_batch_does_not_share_memory_with_the_episodes(make_episode: Make) -> None:
    episode = make_episode(0, length=4)
    batch = filled([episode], segment_length=4).sample(1)
    batch.reward[:] = 7
    assert episode.is_first.tolist() == [True, False, False, False]
    assert episode.reward.tolist() == [0, 1, 2, 3]


def test_the_last_start_is_over_represented_as_published(make_episode: Make) -> None:
    """Published: ``start = min(randint(total - L + 1 + L), total - L)``; here total 8 and L 3."""
    buffer, draws = filled([make_episode(0, length=8)], segment_length=3), 6000
    counts: Counter[int] = Counter()
    for _ in range(draws // 100):
        counts.update(start for _, start in origins(buffer.sample(100)))
    expected = np.array([1, 1, 1, 1, 1, 4]) / 9
    found = np.array([counts[start] for start in range(6)]) / draws
    assert sum(counts.values()) == draws
    np.testing.assert_allclose(found, expected, atol=4 * np.sqrt(0.25 / draws))


def test_episodes_are_drawn_uniformly_whatever_their_length(make_episode: Make) -> None:
    buffer, draws = filled([make_episode(0, 3), make_episode(1, 30), make_episode(2, 2)], segment_length=3), 3000
    counts: Counter[int] = Counter()
    for _ in range(draws // 100):
        counts.update(number for number, _ in origins(buffer.sample(100)))
    for number in range(3):
        assert abs(counts[number] / draws - 1 / 3) < 4 * np.sqrt(0.25 / draws)


@pytest.mark.parametrize("length", [3, 8])
def test_the_last_observation_of_episodes_longer_and_shorter_than_a_segment_is_learnt_from(
    make_episode: Make, length: int
) -> None:
    batch = filled([make_episode(number, length) for number in range(4)], segment_length=5).sample(50)
    assert batch.is_terminal.any()
    last = batch.reward[batch.is_terminal] % 1000
    assert (last == length - 1).all()


def test_without_any_episode_sampling_does_not_blame_the_segments(make_episode: Make) -> None:
    with pytest.raises(DataError, match=r"^no episode has finished, .*; raise finetune\.env_steps") as error:
        filled([], segment_length=6).sample(1)
    assert "segment" not in str(error.value)


def test_an_episode_larger_than_the_capacity_is_refused(make_episode: Make) -> None:
    buffer = filled([make_episode(0, 5)], segment_length=3, capacity=10)
    with pytest.raises(DataError, match=r"env0000-episode000001 has 11 steps, replay\.capacity_steps=10; raise"):
        buffer.add(make_episode(1, 11))
    assert [episode.number for episode in buffer] == [0]
    assert buffer.steps == 5


@pytest.mark.parametrize(("name", "value"), [("reward", np.nan), ("reward", -np.inf), ("action", np.inf)])
def test_numbers_that_are_not_finite_are_refused_by_name_and_step(make_episode: Make, name: str, value: float) -> None:
    array = getattr(make_episode(7, 6), name).copy()
    array[3] = value
    buffer = ReplayBuffer(100, 3, generator(0, "replay"))
    with pytest.raises(NonFiniteError, match=rf"^env0000-episode000007: {name}\[3\] is .*(nan|inf)"):
        buffer.add(replace(make_episode(7, 6), **{name: array}))
    assert len(buffer) == buffer.steps == 0
    assert not buffer.can_sample


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((6, 64, 64, 3), np.float32)}, "env0000-episode000000: frames are float32, expected uint8"),
        (
            {"image": np.zeros((6, 32, 64, 3), np.uint8)},
            r"frames have shape \(6, 32, 64, 3\), expected \(T, 32, 32, 3\) or \(T, 64, 64, 3\) or",
        ),
        ({"action": np.zeros((5, 2), np.float32)}, "action has 5 rows, reward has 6"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(make_episode: Make, change: dict[str, np.ndarray], message: str) -> None:
    buffer = ReplayBuffer(100, 3, generator(0, "replay"))
    with pytest.raises(DataError, match=message):
        buffer.add(replace(make_episode(0, 6), **change))
    assert len(buffer) == 0


def test_the_sequence_of_samples_continues_from_its_state(make_episode: Make) -> None:
    episodes = [make_episode(number, 9) for number in range(5)]
    buffer = filled(episodes, segment_length=3)
    buffer.sample(4)
    state = json.loads(json.dumps(buffer.state_dict()))
    resumed = filled(episodes, segment_length=3)
    resumed.load_state_dict(state)
    for _ in range(3):
        assert_same(buffer.sample(4), resumed.sample(4))
