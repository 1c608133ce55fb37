from __future__ import annotations

import numpy as np
import pytest

from prelar_ray.config import EnvConfig
from prelar_ray.envs import make_env
from prelar_ray.envs.dmc import EPISODE_STEPS, DeepMindControl
from prelar_ray.errors import ConfigError, DataError

pytestmark = pytest.mark.render

WALKER = EnvConfig(task="dmc/walker-walk", camera="0", render_quality="fast", action_repeat=2)


def episode_start(config: EnvConfig, seed: int) -> np.ndarray:
    env = make_env(config, seed)
    frames = [env.reset()[0]["image"]] + [env.step(np.ones(6, np.float32))[0]["image"] for _ in range(3)]
    env.close()
    return np.stack(frames)


def test_equal_seeds_give_equal_episodes_and_others_do_not() -> None:
    assert np.array_equal(episode_start(WALKER, 1), episode_start(WALKER, 1))
    assert not np.array_equal(episode_start(WALKER, 1), episode_start(WALKER, 2))


def test_episode_ends_by_truncation_after_1000_environment_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeepMindControl, "_draw", lambda self: np.zeros((64, 64, 3), np.uint8))
    env = make_env(WALKER, 0)
    for _ in range(2):
        env.reset()
        steps = [env.step(np.zeros(6, np.float32)) for _ in range(EPISODE_STEPS // 2)]
        assert [step[2:4] for step in steps] == [(False, False)] * 499 + [(False, True)]
        assert all(step[4] == {"success": False} for step in steps)
        assert all(0.0 <= step[1] <= 2.0 for step in steps)


def test_actions_from_minus_one_to_one_span_the_actuators_range() -> None:
    env = make_env(WALKER.model_copy(update={"task": "dmc/quadruped-run"}), 0)
    env.reset()
    physics = env._environment.physics
    for action, bound in ((-1.0, 0), (1.0, 1)):
        env.step(np.full(12, action, np.float32))
        np.testing.assert_allclose(physics.control(), physics.model.actuator_ctrlrange[:, bound])
    env.close()


def test_camera_may_be_named_and_an_unknown_one_is_refused() -> None:
    by_number = episode_start(WALKER.model_copy(update={"camera": "1"}), 0)
    assert np.array_equal(by_number, episode_start(WALKER.model_copy(update={"camera": "back"}), 0))
    assert not np.array_equal(by_number, episode_start(WALKER, 0))
    with pytest.raises(ConfigError, match=r"^env\.camera=corner: dmc/walker-walk .* 0 \(side\), 1 \(back\)"):
        make_env(WALKER.model_copy(update={"camera": "corner"}), 0)


def test_there_is_no_scripted_expert() -> None:
    with pytest.raises(DataError, match="no scripted expert"):
        make_env(WALKER, 0).expert_action()
