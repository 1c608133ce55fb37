"""Environments draw at the size that is asked for, and show the same."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from prelar_ray.config import EnvConfig
from prelar_ray.envs import families, make_env, register_gymnasium
from prelar_ray.envs.family import Family
from prelar_ray.envs.pixel_env import PixelEnv
from prelar_ray.envs.point_reach import PointReach
from prelar_ray.errors import ConfigError
from prelar_ray.fitting import fitted
from prelar_ray.types import Frames

ARENA = [f"prelar/arena-{task}" for task in ("wall-distractor", "push", "arm")]


def episode(task: str, image_size: int, steps: int = 5) -> tuple[Frames, list[float]]:
    env = make_env(EnvConfig.model_validate({"task": task, "image_size": image_size, "render_quality": "fast"}), 3)
    try:
        assert env.image_size == image_size
        assert env.observation_space["image"].shape == (image_size, image_size, 3)
        frames, rewards = [env.reset()[0]["image"]], []
        for _ in range(steps):
            observation, reward, *_ = env.step(np.full(env.action_space.shape, 0.5, np.float32))
            frames.append(observation["image"])
            rewards.append(reward)
    finally:
        env.close()
    return np.stack(frames), rewards


def halved(frames: Frames) -> np.ndarray:
    """Means of 2 x 2 pixels."""
    rows, size = len(frames), frames.shape[1] // 2
    return frames.reshape(rows, size, 2, size, 2, 3).mean(axis=(2, 4))


@pytest.mark.parametrize("task", ["prelar/point-reach", *ARENA])
def test_built_in_tasks_show_the_same_with_four_times_the_pixels(task: str) -> None:
    (small, rewards), (large, same) = episode(task, 64), episode(task, 128)
    assert large.shape == (6, 128, 128, 3)
    assert large.dtype == np.uint8
    assert rewards == same
    assert np.abs(halved(large) - small).max() < 12
    assert np.abs(halved(large) - small).mean() < 1


@pytest.mark.render
@pytest.mark.parametrize("task", ["metaworld/reach-v3", "dmc/cartpole-balance"])
def test_simulators_render_at_the_size(task: str) -> None:
    (small, rewards), (large, same) = episode(task, 64, 2), episode(task, 128, 2)
    assert large.shape == (3, 128, 128, 3)
    assert rewards == same
    assert np.abs(halved(large) - small).mean() < 8
    assert len(np.unique(large[0].reshape(-1, 3), axis=0)) > 100


def test_frames_of_gymnasium_are_resized_to_it() -> None:
    env = make_env(EnvConfig(task="gym/tests.envs.own_world:Track-v0", image_size=128, fit="pad"), 0)
    observation, _ = env.reset()
    assert observation["image"].shape == (128, 128, 3)
    np.testing.assert_array_equal(observation["image"], fitted(env.wrapped.render(), "pad", 128))


def test_registered_environments_take_the_size() -> None:
    register_gymnasium()
    for identifier in ("prelar_ray/point-reach-v0", "prelar_ray/arena-v0"):
        env = gymnasium.make(identifier, image_size=128, seed=0)
        assert env.reset()[0]["image"].shape == (128, 128, 3)


class Fixed(Family):
    """Draws at the published size whatever is asked for."""

    def task_names(self) -> list[str]:
        return ["task"]

    def make(self, task: str, env: EnvConfig, seed: int) -> PixelEnv:
        return PointReach(env.action_repeat, seed)


def test_a_family_that_does_not_follow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prelar_ray.envs.registry.families", lambda: {"fixed": Fixed(), **families.families()})
    make_env(EnvConfig(task="fixed/task"), 0).close()
    with pytest.raises(ConfigError) as caught:
        make_env(EnvConfig(task="fixed/task", image_size=128), 0)
    assert str(caught.value) == (
        "env.image_size=128: fixed/task draws 64 x 64 pixels; set env.image_size=64, or have its family give PixelEnv "
        "image_size=env.image_size"
    )
