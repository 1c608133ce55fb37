"""Several stores as one: whose clips are drawn how often, and what keeps its place."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prelar_ray.config import VideoConfig
from prelar_ray.errors import DataError
from prelar_ray.types import IMAGE_SIZE, Frames
from prelar_ray.video.clips import ClipSampler
from prelar_ray.video.mixture import VideoMixture
from prelar_ray.video.store import VideoStore, VideoWriter

LENGTHS = {"a": [3, 12], "b": [5, 5, 5, 2]}


def marked(store: str, episode: int, length: int) -> Frames:
    frames = np.zeros((length, 64, 64, 3), np.uint8)
    frames[:, 0, 0, 0], frames[:, 0, 0, 1] = ord(store), episode
    frames[:, 0, 0, 2] = np.arange(length)
    return frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    for name, lengths in LENGTHS.items():
        with VideoWriter(folder / name, {}, 7) as writer:
            for episode, length in enumerate(lengths):
                writer.append(marked(name, episode, length), f"task-{name}")
    return folder


@pytest.fixture
def stores(folder: Path) -> list[VideoStore]:
    return [VideoStore(folder / name) for name in LENGTHS]


def shares(mixture: VideoMixture, draws: int = 4000) -> dict[tuple[str, int], float]:
    """Share of the clips of 3 frames that come from each episode."""
    clips = ClipSampler(mixture, draws, 3, np.random.default_rng(0)).sample()
    marks = [(chr(store), int(episode)) for store, episode in clips[:, 0, 0, 0, :2].tolist()]
    return {mark: marks.count(mark) / draws for mark in sorted(set(marks))}


@pytest.mark.parametrize(
    ("weights", "by_frames", "expected"),
    [
        ((), False, [1 / 5, 1 / 5, 1 / 5, 1 / 5, 1 / 5]),
        ((), True, [1 / 20, 10 / 20, 3 / 20, 3 / 20, 3 / 20]),
        ((3, 1), False, [3 / 8, 3 / 8, 1 / 12, 1 / 12, 1 / 12]),
        ((3, 1), True, [3 / 44, 30 / 44, 1 / 12, 1 / 12, 1 / 12]),
        ((0, 1), False, [0, 0, 1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_weights_are_shares_of_stores_and_frames_or_episodes_count_within(
    stores: list[VideoStore], weights: tuple[float, ...], by_frames: bool, expected: list[float]
) -> None:
    found = shares(VideoMixture(stores, weights, by_frames))
    names = [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2)]  # the last of b is too short
    np.testing.assert_allclose([found.get(name, 0.0) for name in names], expected, atol=0.035)
    assert set(found) <= set(names)


@given(
    starts=st.lists(st.integers(1, 500), min_size=1, max_size=30),
    weights=st.sampled_from([(), (1.0, 2.0), (0.0, 1.0), (5.0, 5.0)]),
    by_frames=st.booleans(),
    data=st.data(),
)
def test_likelihoods_add_up_and_stores_get_their_weights(
    starts: list[int], weights: tuple[float, ...], by_frames: bool, data: st.DataObject
) -> None:
    of = np.array([data.draw(st.integers(0, 1)) for _ in starts])
    if weights and not any(np.array(weights)[of]):
        return
    mixture = VideoMixture([], weights, by_frames)
    mixture._known = [(int(store), number) for number, store in enumerate(of)]
    mixture.stores = ([None] * len(starts), [])  # type: ignore[assignment]  # as many episodes
    likely = mixture.probabilities(np.array(starts), np.arange(len(starts)))
    if likely is None:
        assert not weights
        assert not by_frames
        return
    assert likely.sum() == pytest.approx(1)
    if weights and len(set(of)) == 2:
        np.testing.assert_allclose(np.bincount(of, likely), np.array(weights) / sum(weights))


def test_episodes_are_those_of_all_stores_in_order(stores: list[VideoStore]) -> None:
    mixture = VideoMixture(stores)
    assert mixture.lengths.tolist() == [3, 12, 5, 5, 5, 2]
    assert mixture.sources == ["task-a"] * 2 + ["task-b"] * 4
    assert mixture.origins == [*stores[0].origins, *stores[1].origins]
    assert mixture.total_frames == 32
    np.testing.assert_array_equal(mixture.frames(3), marked("b", 1, 5))
    np.testing.assert_array_equal(mixture.read(1, 4, 9), marked("a", 1, 12)[4:9])


def test_one_store_gives_the_clips_that_it_gives_alone(stores: list[VideoStore]) -> None:
    alone = ClipSampler(stores[1], 8, 4, np.random.default_rng(3))
    mixed = ClipSampler(VideoMixture(stores[1:]), 8, 4, np.random.default_rng(3))
    for _ in range(3):
        np.testing.assert_array_equal(alone.sample(), mixed.sample())


def test_what_a_store_gains_comes_after_all_that_was_there(tmp_path: Path, stores: list[VideoStore]) -> None:
    with VideoWriter(tmp_path / "new", {}, 4) as writer:
        writer.append(marked("n", 0, 4), "new")
        mixture = VideoMixture([VideoStore(tmp_path / "new"), *stores])
        before = mixture.origins
        writer.append(marked("n", 1, 6), "new")
        assert mixture.refresh()
        assert mixture.origins[: len(before)] == before
        np.testing.assert_array_equal(mixture.frames(len(before)), marked("n", 1, 6))


def test_what_each_store_counts_is_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "prelar_ray")
    paths = tuple(str(folder / name) for name in LENGTHS)
    VideoMixture.open(VideoConfig(path=paths, weights=(1, 3)), IMAGE_SIZE).log_shares(paths, 3)
    said = [record.message for record in caplog.records if " % of the clips" in record.message]
    assert said == [
        f"{paths[0]}: 2 episodes, 15 frames, 25 % of the clips",
        f"{paths[1]}: 4 episodes, 17 frames, 75 % of the clips",
    ]


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1.0, 1.0), (0.0, 0.0)])
def test_weights_that_do_not_fit_the_stores_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="expected one for each of 2 stores in path, and not all 0"):
        VideoConfig(path=("a", "b"), weights=weights)


def test_clips_longer_than_all_videos_that_count_are_refused(stores: list[VideoStore]) -> None:
    mixture = VideoMixture(stores, (0, 1))
    with pytest.raises(DataError, match=r"video.weights=\[0, 1\]: no video of the stores above 0 is long enough"):
        ClipSampler(mixture, 4, 6, np.random.default_rng(0))
