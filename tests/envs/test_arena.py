"""The arena: its physics, its pictures, its experts, and what its tasks share."""

from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

from prelar_ray.config import EnvConfig
from prelar_ray.envs import make_env
from prelar_ray.envs.arena import DISTRACTOR, EPISODE_STEPS, TASKS, Arena, task_names
from prelar_ray.envs.arena_world import BESIDE_WALL, BLOCK_RADIUS, CONTACT, Arm, World, in_wall
from prelar_ray.errors import ConfigError

actions = st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=60)


def play(task: str, episodes: int, rng: np.random.Generator | None = None) -> list[tuple[bool, float]]:
    """Success and return of episodes of the expert, or of random actions where a generator is given."""
    env, found = Arena(task, seed=0), []
    for _ in range(episodes):
        env.reset()
        total, succeeded, ended = 0.0, False, False
        while not ended:
            action = env.expert_action() if rng is None else rng.uniform(-1, 1, 2).astype(np.float32)
            _, reward, _, ended, info = env.step(action)
            total, succeeded = total + reward, succeeded or info["success"]
        found.append((succeeded, total))
    return found


@pytest.mark.parametrize("task", TASKS)
def test_experts_succeed_and_random_actions_rarely_do(task: str) -> None:
    expert, random = play(task, 12), play(task, 12, np.random.default_rng(0))
    assert all(succeeded for succeeded, _ in expert)
    assert np.mean([succeeded for succeeded, _ in random]) <= (0.6 if task == "arena-touch" else 0.35)
    assert np.mean([total for _, total in expert]) > 2 * np.mean([total for _, total in random])


@pytest.mark.parametrize("task", task_names())
def test_gymnasiums_own_checks_pass(task: str) -> None:
    check_env(gymnasium.make("prelar_ray/arena-v0", task=task, render_mode="rgb_array").unwrapped)


def test_an_unknown_task_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"env\.task=prelar/arena-pusch: no such task; did you mean prelar/arena-push"
    ):
        make_env(EnvConfig(task="prelar/arena-pusch"), 0)


@given(actions)
def test_effector_and_block_stay_within_and_apart(steps: list[tuple[float, float]]) -> None:
    world = World(np.array((-0.6, 0.0)), block=np.array((0.3, 0.1)))
    for step in steps:
        world.move(np.array(step, np.float32))
        assert world.block is not None
        assert np.all(np.abs(world.block) <= 1 - BLOCK_RADIUS + 1e-9)
        assert np.linalg.norm(world.effector - world.block) >= CONTACT - 1e-9


@given(actions, st.sampled_from([(-0.6, -0.5), (0.6, 0.0), (0.0, 0.8)]))
def test_the_effector_never_enters_or_crosses_the_wall(
    steps: list[tuple[float, float]], start: tuple[float, float]
) -> None:
    world = World(np.array(start), wall=True)
    for step in steps:
        before = world.effector
        world.move(np.array(step, np.float32))
        inner = world.effector + np.sign(world.effector) * (1e-9, 0) + (0, 1e-9)
        assert not in_wall(inner)
        if before[1] < 0 and world.effector[1] < 0:
            assert np.sign(before[0]) == np.sign(world.effector[0])
            assert abs(world.effector[0]) >= BESIDE_WALL - 1e-9


def test_an_arm_moves_its_tip_as_asked() -> None:
    world = World(Arm(np.array((1.0, 1.2))).tip, arm=Arm(np.array((1.0, 1.2))))
    goal = world.effector + np.array((0.2, -0.3))
    for _ in range(20):
        world.move(world.action_for(goal - world.effector))
    np.testing.assert_allclose(world.effector, goal, atol=0.03)


@pytest.mark.parametrize("task", task_names())
def test_a_restored_state_continues_bit_for_bit(task: str) -> None:
    env, other, rng = Arena(task, seed=1), Arena(task, seed=2), np.random.default_rng(0)
    env.reset()
    env.step(env.expert_action())
    other.reset()
    other.set_state(json.loads(json.dumps(env.get_state())))
    for _ in range(5):
        action = rng.uniform(-1, 1, 2).astype(np.float32)
        one, two = env.step(action), other.step(action)
        assert np.array_equal(one[0]["image"], two[0]["image"])
        assert one[1:] == two[1:]
    assert np.array_equal(env.reset()[0]["image"], other.reset()[0]["image"])


@pytest.mark.parametrize("task", TASKS)
def test_a_distractor_changes_the_picture_and_nothing_else(task: str) -> None:
    plain, distracted = Arena(task, seed=3), Arena(task + DISTRACTOR, seed=3)
    frames = [env.reset()[0]["image"] for env in (plain, distracted)]
    assert not np.array_equal(*frames)
    for _ in range(10):
        action = plain.expert_action()
        assert np.array_equal(action, distracted.expert_action())
        assert plain.step(action)[1:] == distracted.step(action)[1:]
    still = [env.step(np.zeros(2, np.float32))[0]["image"] for env in [distracted] * 2]
    assert not np.array_equal(*still)  # it moves by itself


def test_tasks_share_their_looks() -> None:
    """Grey, and the red effector, in every first frame."""
    for task in TASKS:
        image = Arena(task, seed=0).reset()[0]["image"]
        assert np.array_equal(image[0, 0], (128, 128, 128))
        assert (np.abs(image.astype(int) - (235, 40, 40)) < 60).all(-1).sum() > 20


def test_an_episode_ends_by_time() -> None:
    env = Arena("arena-push", seed=0)
    env.reset()
    flags = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(EPISODE_STEPS)]
    assert flags == [(False, False)] * (EPISODE_STEPS - 1) + [(False, True)]


def test_where_a_distractor_is_can_be_asked_and_nothing_else_moves_by_itself() -> None:
    env = Arena("arena-reach-distractor", seed=0)
    env.reset()
    positions = []
    for _ in range(20):
        image = env.step(np.zeros(2, np.float32))[0]["image"].astype(float)
        yellow = (np.minimum(image[..., 0], image[..., 1]) - image[..., 2] - 110).clip(0)
        x, y = (np.arange(64) - 31.5) / 25, (31.5 - np.arange(64)) / 25
        seen = np.array([(yellow.sum(0) * x).sum(), (yellow.sum(1) * y).sum()]) / yellow.sum()
        positions.append(env.nuisance())
        np.testing.assert_allclose(positions[-1], seen, atol=0.2)  # others may cover a part of it
    assert np.ptp(positions, axis=0).min() > 0.3
    assert Arena("arena-reach", seed=0).nuisance() is None
