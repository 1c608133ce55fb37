"""What RLlib sees of an environment is what everyone else sees, as floats."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from prelar_ray.baselines.environment import ENVIRONMENT, FINISHED, FrameEnv, as_floats, environment_config, register
from prelar_ray.config import EnvConfig, RunConfig, load_config
from prelar_ray.envs.egl_devices import TURN
from prelar_ray.envs.point_reach import PointReach
from prelar_ray.envs.registry import make_env
from prelar_ray.errors import EnvironmentFailure
from prelar_ray.seeding import derive_seed

CONFIG = EnvConfig(task="prelar/point-reach", action_repeat=2)


def env(index: int = 0, first_number: int = 0, reward_scale: float = 1.0) -> FrameEnv:
    return FrameEnv(CONFIG, 7, index, first_number, reward_scale, black=0.0)


@pytest.mark.parametrize("black", [0.0, -1.0])
def test_all_256_levels_become_equally_spaced_floats_from_black_to_1(black: float) -> None:
    floats = as_floats(np.arange(256, dtype=np.uint8), black)
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats, np.linspace(black, 1, 256), atol=1e-7)
    assert (floats[0], floats[255]) == (black, 1)


@pytest.mark.parametrize(("method", "black"), [("rllib/PPO", 0.0), ("rllib/DreamerV3", -1.0)])
def test_frames_have_the_range_that_the_algorithm_expects(method: str, black: float) -> None:
    settings = environment_config(load_config("tiny", None, [f"method={method}"]), first_number=0)
    shown = FrameEnv(EnvConfig(**settings["env"]), 7, 0, 0, 1.0, settings["black"])
    frame, _ = shown.reset()
    assert shown.observation_space.contains(frame)
    assert shown.observation_space.low.min() == black
    assert black <= frame.min() < black + 0.5


@pytest.mark.usefixtures("short_episodes")
def test_episodes_are_those_that_a_collector_s_environment_of_the_same_seeds_has() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (10, 2)).astype(np.float32)
    seen = env(index=3, first_number=5)
    for number in (5, 6):
        plain = make_env(CONFIG, derive_seed(7, "env", 3, number))
        frame, _ = seen.reset()
        np.testing.assert_array_equal(
            frame, plain.reset(seed=derive_seed(7, "env", 3, number))[0]["image"] / np.float32(255)
        )
        assert seen.observation_space.contains(frame)
        total, succeeded = 0.0, False
        for step, action in enumerate(actions):
            frame, reward, terminated, truncated, told = seen.step(action)
            observation, expected, _, over, info = plain.step(action)
            np.testing.assert_array_equal(frame, observation["image"] / np.float32(255))
            assert (reward, terminated, truncated) == (expected, False, over)
            total, succeeded = total + expected, succeeded or info["success"]
            assert (FINISHED in told) == (step == 9)
        assert told[FINISHED] == {"return": pytest.approx(total), "success": succeeded, "steps": 10}


def test_a_scale_of_rewards_is_for_the_algorithm_alone() -> None:
    plain, scaled = env(), env(reward_scale=0.1)
    action = np.ones(2, np.float32)
    told: Any = {}
    plain.reset(), scaled.reset()
    total = 0.0
    while FINISHED not in told:
        reward = plain.step(action)[1]
        _, small, _, _, told = scaled.step(action)
        assert small == pytest.approx(reward / 10)
        total += reward
    assert told[FINISHED]["return"] == pytest.approx(total)


@pytest.mark.parametrize(
    ("patched", "result", "message"),
    [
        ("_advance", (math.nan, False, False), "step 1: ValueError: the reward is nan"),
        ("_draw", np.zeros((32, 32, 3), np.uint8), "step 1: DataError: image: frames have shape"),
    ],
)
def test_what_is_no_step_is_a_failure_that_names_environment_episode_and_step(
    monkeypatch: pytest.MonkeyPatch, patched: str, result: Any, message: str
) -> None:
    broken = env(index=1, first_number=4)
    broken.reset()
    monkeypatch.setattr(PointReach, patched, lambda *_: result)
    with pytest.raises(EnvironmentFailure, match=f"^environment 1, episode 4, {message}"):
        broken.step(np.zeros(2, np.float32))


@pytest.mark.parametrize(("worker", "indices"), [(0, [0, 1, 2]), (1, [0, 1, 2]), (2, [3, 4, 5])])
def test_every_environment_of_every_process_has_an_index_of_its_own_and_every_process_a_turn_to_draw(
    monkeypatch: pytest.MonkeyPatch, worker: int, indices: list[int]
) -> None:
    monkeypatch.setenv(TURN, "")
    from ray.rllib.env.env_context import EnvContext
    from ray.tune.registry import ENV_CREATOR, _global_registry

    config: RunConfig = load_config("tiny", None, ["method=rllib/PPO", "collect.envs_per_collector=3", "seed=9"])
    register()
    make = _global_registry.get(ENV_CREATOR, ENVIRONMENT)
    context = EnvContext(environment_config(config, first_number=2), worker_index=worker)
    made = [make(context) for _ in range(3)]
    again = make(context)  # in the place of one that failed
    assert os.environ[TURN] == str(worker)
    for environment, index in zip([*made, again], [*indices, indices[0]], strict=True):
        expected = PointReach(1).reset(seed=derive_seed(9, "env", index, 2))[0]["image"]
        np.testing.assert_array_equal(environment.reset()[0], as_floats(expected, 0.0))


@pytest.mark.parametrize(
    ("actions", "space", "given", "taken"),
    [
        ("discrete", spaces.Discrete(3), np.int64(2), 1),
        ("several", spaces.MultiDiscrete([3, 2]), np.array([0, 1]), [[-1], [2]]),
    ],
)
def test_choices_are_integers_and_success_is_told_where_there_is_one(
    actions: str, space: Any, given: Any, taken: Any
) -> None:
    for success in ("", "success"):
        kwargs = {"actions": actions, "success": success}
        task = "gym/tests.envs.own_world:Track-v0"
        config = EnvConfig(task=task, time_limit=1, kwargs=kwargs, reward_scale=3.0)
        seen = FrameEnv(config, 7, 0, 0, 1.0, black=0.0)
        assert seen.action_space == space
        seen.reset()
        told = seen.step(given)[4][FINISHED]
        np.testing.assert_array_equal(seen._env._env.unwrapped.taken[0], taken)  # type: ignore[attr-defined]
        assert ("success" in told) == bool(success)


def test_both_reward_scales_count() -> None:
    settings = ["method=rllib/PPO", "rllib.reward_scale=0.5", "env.reward_scale=4"]
    assert environment_config(load_config("tiny", None, settings), first_number=0)["reward_scale"] == 2


def test_frames_have_the_size_of_the_run() -> None:
    shown = FrameEnv(EnvConfig(task="prelar/point-reach", image_size=128), 7, 0, 0, 1.0, black=0.0)
    frame, _ = shown.reset()
    assert shown.observation_space.shape == frame.shape == (128, 128, 3)
