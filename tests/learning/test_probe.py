"""The probe: finds what is there, finds nothing where nothing is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from prelar_ray.learning.learner import PretrainLearner
from prelar_ray.learning.probe import CHUNK, infer_points, probe, variance_explained
from prelar_ray.models.preprocess import preprocess_image
from tests.tiny import tiny_clips, tiny_config

Episode = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def episodes(count: int, noise: float, seed: int = 0, steps: int = 40) -> list[Episode]:
    """Latent actions of 8 numbers at odd scales that hold an action of 2, linearly, under noise."""
    world = np.random.default_rng(123)
    mixing, scales, offset = world.normal(size=(2, 8)), 10.0 ** world.uniform(-3, 3, 8), world.normal(size=8)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        action = rng.uniform(-1, 1, (steps, 2))
        latent = (action @ mixing + noise * rng.normal(size=(steps, 8)) + offset) * scales
        found.append((latent, action))
    return found


def run(train: list[Episode], test: list[Episode]) -> tuple[list[float], list[float]]:
    result = probe(train, test, np.random.default_rng(0))
    return result.r2, result.r2_permuted


def test_an_action_that_is_there_linearly_is_found_and_a_random_pairing_finds_nothing() -> None:
    r2, permuted = run(episodes(12, 0.01), episodes(4, 0.01, seed=1))
    assert min(r2) > 0.99
    assert max(np.abs(permuted)) < 0.1


def test_noise_costs_what_it_should() -> None:
    clear, faint = (np.mean(run(episodes(20, noise), episodes(8, noise, seed=1))[0]) for noise in (0.3, 1.5))
    assert 0.2 < faint < clear - 0.1 < 0.95


def test_latent_actions_of_other_episodes_tell_nothing() -> None:
    train, test = episodes(20, 0.01), episodes(8, 0.01, seed=1)
    strangers = [(latent, action) for (latent, _), (_, action) in zip(train, episodes(20, 0, seed=2), strict=True)]
    assert np.abs(run(strangers, test)[0]).max() < 0.1


def test_more_inputs_than_steps_are_held_in_check() -> None:
    rng = np.random.default_rng(0)
    noise = [(rng.normal(size=(10, 60)), rng.normal(size=(10, 1))) for _ in range(5)]
    assert run(noise[:4], noise[4:])[0][0] > -1  # least squares would be far below


def test_dimensions_that_never_vary_are_no_obstacle() -> None:
    def with_constants(found: list[Episode]) -> list[Episode]:
        return [(np.insert(x, 0, 7.0, axis=1), np.insert(y, 1, -1.0, axis=1)) for x, y in found]

    r2, permuted = run(with_constants(episodes(12, 0.01)), with_constants(episodes(4, 0.01, seed=1)))
    assert np.isnan(r2[1])
    assert np.isnan(permuted[1])
    assert min(r2[0], r2[2]) > 0.99


def test_the_variance_of_the_latent_action_is_shared_out_to_what_it_comes_from() -> None:
    rng = np.random.default_rng(0)

    def parts(count: int) -> tuple[list[Episode], list[Episode], list[Episode]]:
        """An action and a distractor, which take 9/10 and 1/10 of the variance of a latent action, and a stranger."""
        found: tuple[list[Episode], list[Episode], list[Episode]] = ([], [], [])
        for _ in range(count):
            action, moved, stranger = rng.normal(size=(3, 60, 2))
            latent = np.hstack([3 * action, moved, np.zeros((60, 1))])
            for list_, cause in zip(found, (action, moved, stranger), strict=True):
                list_.append((cause, latent))
        return found

    shares = [variance_explained(train, test, rng) for train, test in zip(parts(12), parts(4), strict=True)]
    assert shares == [pytest.approx(share, abs=0.05) for share in (0.9, 0.1, 0.0)]
    elsewhere = [(cause, latent + 20) for cause, latent in parts(4)[2]]
    assert variance_explained(parts(12)[2], elsewhere, rng) == pytest.approx(0, abs=0.05)
    still = [(cause, np.zeros_like(latent)) for cause, latent in parts(2)[0]]
    assert variance_explained(still, still, rng) is None


def test_two_episodes_are_enough() -> None:
    r2, _ = run(episodes(1, 0.01), episodes(1, 0.01, seed=1))
    assert min(r2) > 0.99


def test_the_same_seed_gives_the_same_scores() -> None:
    assert run(episodes(6, 0.5), episodes(2, 0.5, 1)) == run(episodes(6, 0.5), episodes(2, 0.5, 1))


@pytest.mark.parametrize("seen", [2, 4])
@pytest.mark.parametrize("length", [2, CHUNK, CHUNK + 1, CHUNK + 2, 2 * CHUNK + 9])
def test_latent_actions_of_a_long_episode_are_those_of_its_pairs(length: int, seen: int) -> None:
    model = PretrainLearner(tiny_config(f"world_model.inverse_dynamics_frames={seen}")).model
    frames = np.tile(tiny_clips(0, 1, 7)[0], (length // 7 + 1, 1, 1, 1))[:length]
    frames.flags.writeable = False
    points = infer_points(model, frames)
    with torch.no_grad():
        latent = model.infer_latent_actions(preprocess_image(torch.from_numpy(frames.copy())).unsqueeze(0))
    assert latent is not None
    np.testing.assert_allclose(points, latent.point[0].numpy(), atol=1e-5)


def test_latent_actions_of_frames_some_steps_apart_are_those_of_their_pairs() -> None:
    model = PretrainLearner(tiny_config()).model
    frames = tiny_clips(0, 1, 8)[0]
    points = infer_points(model, frames, 3)
    assert len(points) == 5
    for start, point in enumerate(points):
        np.testing.assert_allclose(point, infer_points(model, frames[[start, start + 3]])[0], atol=1e-5)
    assert len(infer_points(model, frames, 7)) == 1
