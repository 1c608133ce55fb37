from __future__ import annotations

import json
import time

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from prelar_ray.config import EnvConfig
from prelar_ray.envs import PixelEnv, make_env
from prelar_ray.envs.point_reach import EPISODE_STEPS
from prelar_ray.errors import EnvironmentFailure

TASK = EnvConfig(task="prelar/point-reach")


def first_frames(env: PixelEnv, episodes: int) -> np.ndarray:
    return np.stack([env.reset()[0]["image"] for _ in range(episodes)])


RED, GREEN, BLUE = 0, 1, 2


def centre(image: np.ndarray, channel: int) -> np.ndarray:
    """(row, column) of the red spot, the effector, or the green one, the target; both darken blue."""
    brightness = (image[..., channel].astype(float) - image[..., BLUE]).clip(0)
    return np.array([(brightness.sum(axis=1 - axis) * np.arange(64)).sum() for axis in (0, 1)]) / brightness.sum()


def play(env: PixelEnv, rng: np.random.Generator | None) -> tuple[float, bool]:
    """Return and success of an episode of the expert, or of random actions where a generator is given."""
    env.reset()
    total, succeeded, truncated = 0.0, False, False
    while not truncated:
        action = env.expert_action() if rng is None else rng.uniform(-1, 1, 2).astype(np.float32)
        _, reward, _, truncated, info = env.step(action)
        total += reward
        succeeded |= info["success"]
    return total, succeeded


def test_gymnasiums_own_checks_pass() -> None:
    env = gymnasium.make("prelar_ray/point-reach-v0", render_mode="rgb_array")
    check_env(env.unwrapped)


def test_equal_seeds_give_equal_episodes_and_others_do_not() -> None:
    frames = first_frames(make_env(TASK, 1), 3)
    assert np.array_equal(frames, first_frames(make_env(TASK, 1), 3))
    assert not np.array_equal(frames, first_frames(make_env(TASK, 2), 3))
    assert not np.array_equal(frames[0], frames[1])


def test_reset_with_a_seed_starts_the_stream_of_that_seed() -> None:
    env = make_env(TASK, 1)
    env.reset()
    seeded = env.reset(seed=7)[0]["image"]
    assert np.array_equal(seeded, make_env(TASK, 7).reset()[0]["image"])


def test_time_out_truncates_and_a_further_step_is_refused() -> None:
    env = make_env(TASK, 0)
    env.reset()
    flags = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(EPISODE_STEPS)]
    assert flags == [(False, False)] * (EPISODE_STEPS - 1) + [(False, True)]
    with pytest.raises(EnvironmentFailure, match="reset"):
        env.step(np.zeros(2, np.float32))


def test_a_step_before_the_first_reset_is_refused() -> None:
    with pytest.raises(EnvironmentFailure, match="reset"):
        make_env(TASK, 0).step(np.zeros(2, np.float32))


def test_action_of_another_shape_is_refused() -> None:
    env = make_env(TASK, 0)
    env.reset()
    with pytest.raises(EnvironmentFailure, match=r"\(1,\), expected \(2,\)"):
        env.step(np.zeros(1, np.float32))


def test_action_repeat_sums_rewards_keeps_success_and_shortens_the_last_action() -> None:
    once, thrice = make_env(TASK, 3), make_env(TASK.model_copy(update={"action_repeat": 3}), 3)
    once.reset()
    thrice.reset()
    truncated, steps = False, 0
    while not truncated:
        action = once.expert_action()
        singles = [once.step(action) for _ in range(min(3, EPISODE_STEPS - 3 * steps))]
        observation, reward, terminated, truncated, info = thrice.step(action)
        steps += 1
        assert np.array_equal(observation["image"], singles[-1][0]["image"])
        assert reward == pytest.approx(sum(single[1] for single in singles))
        assert info["success"] == any(single[4]["success"] for single in singles)
        assert not terminated
    assert steps == 34


def test_expert_solves_it_and_random_actions_do_not() -> None:
    env, rng = make_env(TASK, 0), np.random.default_rng(0)
    expert = [play(env, None) for _ in range(30)]
    random = [play(env, rng) for _ in range(30)]
    assert all(success for _, success in expert)
    assert min(total for total, _ in expert) > 800
    assert np.mean([total for total, _ in random]) < 350
    assert np.mean([success for _, success in random]) < 0.4


def test_success_is_a_bool_from_the_reset_on() -> None:
    env = make_env(TASK, 0)
    assert env.reset()[1] == {"success": False}
    assert type(env.step(np.zeros(2, np.float32))[4]["success"]) is bool


def test_picture_shows_the_effector_moving_as_told() -> None:
    env = make_env(TASK, 0)
    before = centre(env.reset()[0]["image"], RED)
    for _ in range(3):
        image = env.step(np.array([0.0, 1.0], np.float32))[0]["image"]
    assert centre(image, RED)[0] < before[0] - 3  # up is towards row 0
    before = centre(image, RED)
    for _ in range(40):
        image = env.step(np.array([1.0, 0.0], np.float32))[0]["image"]
    assert centre(image, RED)[1] > 50


def test_target_stays_visible_under_the_effector() -> None:
    env = make_env(TASK, 0)
    env.reset()
    for _ in range(40):
        image = env.step(env.expert_action())[0]["image"]
    assert np.abs(centre(image, RED) - centre(image, GREEN)).max() < 1


def test_reward_that_is_not_a_number_is_not_hidden() -> None:
    env = make_env(TASK, 0)
    env.reset()
    assert np.isnan(env.step(np.full(2, np.nan, np.float32))[1])


def test_state_put_back_continues_bit_for_bit() -> None:
    env = make_env(TASK, 4)
    env.reset()
    env.step(np.ones(2, np.float32))
    state = json.loads(json.dumps(env.get_state()))
    other = make_env(TASK, 9)
    other.set_state(state)
    for _ in range(2):  # through the end of the episode and into the next one's random positions
        for _ in range(EPISODE_STEPS - 1):
            action = env.expert_action()
            first, second = env.step(action), other.step(action)
            assert np.array_equal(first[0]["image"], second[0]["image"])
            assert first[1:] == second[1:]
        assert np.array_equal(env.reset()[0]["image"], other.reset()[0]["image"])


def test_a_thousand_steps_take_less_than_a_second() -> None:
    env = make_env(TASK, 0)
    start = time.perf_counter()
    for _ in range(10):
        env.reset()
        for _ in range(EPISODE_STEPS):
            env.step(np.ones(2, np.float32))
    assert time.perf_counter() - start < 1.0
