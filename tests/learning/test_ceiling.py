"""The ceiling of the probe: finds what frames show, finds nothing where they show nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prelar_ray.learning import ceiling as module
from prelar_ray.learning.ceiling import Labelled, ceiling


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of training instead of a minute."""
    monkeypatch.setattr(module, "PAIRS", 4_000)
    monkeypatch.setattr(module, "EPOCHS", 12)


def episodes(count: int, seed: int = 0, length: int = 40, stride: int = 1) -> list[Labelled]:
    """A bright bar that an action moves up and down, by up to 3 pixels a step, on a grey of its own in each episode."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        action = rng.uniform(-1, 1, (length - 1, 1))
        position = 32 + np.concatenate([[0], np.cumsum(3 * action[:, 0])])
        profile = np.exp(-0.5 * ((np.arange(64) - position[:, None]) / 3) ** 2)  # (T, 64)
        frames = np.zeros((length, 64, 64, 3), np.uint8)
        frames[:] = (rng.uniform(40, 90) + 150 * profile)[:, :, None, None]
        moved = np.lib.stride_tricks.sliding_window_view(action, stride, 0).mean(-1)
        found.append((frames, moved))
    return found


def r2(train: list[Labelled], test: list[Labelled], frames: int = 2) -> float:
    return ceiling(train, test, 0, frames).r2[0]


def test_an_action_that_the_frames_show_is_found() -> None:
    assert r2(episodes(8), episodes(3, seed=1)) > 0.7


def test_an_action_that_the_frames_do_not_show_is_not_found() -> None:
    shown, other = episodes(8), episodes(8, seed=2)
    train = [(frames, action) for (frames, _), (_, action) in zip(shown, other, strict=True)]
    assert r2(train, episodes(3, seed=1)) < 0.1


@pytest.mark.parametrize(("stride", "frames"), [(2, 2), (3, 3)])
def test_frames_some_steps_apart_show_the_mean_of_the_actions_between(stride: int, frames: int) -> None:
    assert r2(episodes(8, stride=stride), episodes(3, seed=1, stride=stride), frames) > 0.4


def test_the_network_sees_frames_of_one_pace_and_the_first_again_before_it() -> None:
    rows = module._Pairs([(np.zeros((6, 1, 1, 3), np.uint8), np.zeros((4, 1)))] * 2, 3).rows
    np.testing.assert_array_equal(rows[:4], [[0, 0, 2], [1, 1, 3], [0, 2, 4], [1, 3, 5]])
    np.testing.assert_array_equal(rows[4:], rows[:4] + 6)


def test_predictions_are_drawn_to_the_mean_as_far_as_that_helps() -> None:
    true = np.array([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]])
    factors = module._calibrated(true * [2.0, 0.5, -1.0], true)
    assert factors.tolist() == [0.5, 1.0, 0.0]  # too far, not far enough, the wrong way
    assert module._calibrated(np.zeros((2, 1)), np.ones((2, 1))).tolist() == [0.0]


def test_the_same_seed_gives_the_same_and_leaves_the_generator_of_others_alone() -> None:
    before = torch.get_rng_state()
    train, test = episodes(3), episodes(1, seed=1)
    first = ceiling(train, test, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == ceiling(train, test, 0)
    assert first.r2 != ceiling(train, test, 1).r2


def test_the_network_of_the_lowest_validation_error_is_taken_and_training_ends_without_a_lower_one() -> None:
    rng = np.random.default_rng(0)
    noise = [(frames, rng.normal(size=action.shape)) for frames, action in episodes(3)]
    trained: list[int] = []
    found = ceiling(noise, noise[:1], 0, on_pairs=trained.append)
    assert found.pairs < sum(trained) < module.EPOCHS * 39 * 2 // module.BATCH * module.BATCH


def test_an_action_that_never_varies_has_no_ceiling() -> None:
    still = [(frames, np.hstack([action, np.ones_like(action)])) for frames, action in episodes(2)]
    found = ceiling(still, still, 0)
    assert np.isfinite(found.r2[0])
    assert np.isnan(found.r2[1])


def test_a_single_episode_is_validated_on_its_last_steps() -> None:
    fit, check = module._Pairs(episodes(1), 2).split(np.random.default_rng(0))
    assert max(fit) < min(check)
    assert (len(fit), len(check)) == (31, 8)


def test_larger_frames_are_looked_at_whole() -> None:
    def enlarged(found: list[Labelled]) -> list[Labelled]:
        return [(frames.repeat(2, axis=1).repeat(2, axis=2), action) for frames, action in found]

    found = ceiling(enlarged(episodes(2, length=12)), enlarged(episodes(1, seed=1, length=12)), 0)
    assert len(found.r2) == 1
