from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from prelar_ray.config import EnvConfig
from prelar_ray.envs import PixelEnv, make_env
from prelar_ray.envs.metaworld import EPISODE_STEPS, MetaWorld
from prelar_ray.errors import ConfigError, EnvironmentFailure
from prelar_ray.seeding import derive_seed

pytestmark = pytest.mark.render

REACH = EnvConfig(task="metaworld/reach-v3", render_quality="fast")
STILL = np.zeros(4, np.float32)


def first_frames(seed: int, episodes: int = 2) -> np.ndarray:
    env = make_env(REACH, seed)
    frames = np.stack([env.reset()[0]["image"] for _ in range(episodes)])
    env.close()
    return frames


def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the simulation and leave the drawing out, for tests of many steps."""
    monkeypatch.setattr(MetaWorld, "_draw", lambda self: np.zeros((64, 64, 3), np.uint8))


def changed_pixels(first: np.ndarray, second: np.ndarray) -> int:
    return int((np.abs(first.astype(int) - second) > 8).any(axis=-1).sum())


def row_of_the_gripper(env: PixelEnv, action: np.ndarray) -> float:
    """Mean row of the gripper's cyan finger after an action held from the reset on."""
    env.reset(seed=0)
    for _ in range(25):
        image = env.step(action)[0]["image"].astype(int)
    red, green, blue = np.moveaxis(image, -1, 0)
    rows = np.flatnonzero(((red < 120) & (green > 150) & (blue > 150)).any(axis=1))
    return float(rows.mean())


def test_observation_is_as_declared() -> None:
    env = gymnasium.make("prelar_ray/metaworld-v0", task="push-v3", render_quality="fast", seed=1)
    observation, info = env.reset()
    assert env.observation_space.contains(observation)
    assert env.action_space.shape == (4,)
    assert info == {"success": False}
    env.close()


def test_goals_are_fresh_and_determined_by_the_seed() -> None:
    frames = first_frames(5)
    assert np.array_equal(frames, first_frames(5))
    assert not np.array_equal(frames[0], frames[1])


def test_training_and_evaluation_see_different_goals() -> None:
    training, evaluation = derive_seed(0, "env", 0), derive_seed(0, "evaluation_env", 0)
    assert not np.array_equal(first_frames(training), first_frames(evaluation))


def test_goals_do_not_depend_on_numpys_global_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("drew from NumPy's global generator")

    monkeypatch.setattr(np.random, "uniform", refuse)
    make_env(REACH, 0).reset()


def test_time_out_truncates_at_500_steps_and_no_further_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pictures(monkeypatch)
    env = make_env(REACH, 0)
    for _ in range(2):
        env.reset()
        flags = [env.step(STILL)[2:4] for _ in range(EPISODE_STEPS)]
        assert flags == [(False, False)] * 499 + [(False, True)]
        with pytest.raises(EnvironmentFailure, match="reset"):
            env.step(STILL)


def test_action_repeat_that_does_not_divide_500_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pictures(monkeypatch)
    env = make_env(REACH.model_copy(update={"action_repeat": 3}), 0)
    env.reset()
    flags = [env.step(STILL)[3] for _ in range(167)]
    assert flags == [False] * 166 + [True]


@pytest.mark.parametrize("task", ["metaworld/reach-v3", "metaworld/push-v3", "metaworld/drawer-close-v3"])
def test_expert_succeeds_and_says_so_with_a_bool(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_pictures(monkeypatch)
    env = make_env(REACH.model_copy(update={"task": task}), 3)
    env.reset()
    flags, rewards = [], []
    for _ in range(200):
        action = env.expert_action()
        assert env.action_space.contains(action)
        _, reward, _, _, info = env.step(action)
        flags.append(info["success"])
        rewards.append(reward)
    assert {type(flag) for flag in flags} == {bool}
    assert any(flags)
    assert not flags[0]
    assert max(rewards) <= 10.0 + 1e-6
    assert max(rewards) > rewards[0]


@pytest.mark.parametrize("camera", ["corner", "corner3"])
def test_upside_down_cameras_are_turned_so_that_up_is_up(camera: str) -> None:
    env = make_env(REACH.model_copy(update={"camera": camera}), 0)
    raised, lowered = np.array([0, 0, 1, 0], np.float32), np.array([0, 0, -1, 0], np.float32)
    assert row_of_the_gripper(env, raised) < row_of_the_gripper(env, lowered) - 2
    assert env.render_attributes["orientation"] == "rows flipped"
    env.close()


def test_cameras_that_hang_upright_are_left_alone() -> None:
    env = make_env(REACH.model_copy(update={"camera": "topview"}), 0)
    assert env.render_attributes["orientation"] == "as rendered"
    env.close()


def test_first_frame_shows_objects_where_the_episode_begins() -> None:
    env = make_env(REACH.model_copy(update={"task": "metaworld/window-open-v3"}), 0)
    first = env.reset()[0]["image"]
    assert changed_pixels(first, env.step(STILL)[0]["image"]) < 150  # the gripper opens; a jumping window changes 290
    env.close()


def test_render_quality_changes_the_picture_and_is_recorded() -> None:
    frames = {}
    for quality in ("full", "reduced", "fast"):
        env = make_env(REACH.model_copy(update={"render_quality": quality}), 0)
        frames[quality] = env.reset()[0]["image"].astype(int)
        assert env.render_attributes["render_quality"] == quality
        env.close()
    reduced, fast = (np.abs(frames["full"] - frames[quality]).mean() for quality in ("reduced", "fast"))
    assert 0 < reduced < 0.5
    assert fast > 4  # without shadows alone 2.8, without multisampling alone 2.9


def test_environments_in_one_process_do_not_disturb_each_other() -> None:
    alone = first_frames(1)
    other, env = make_env(REACH, 2), make_env(REACH, 1)
    other.reset()
    first = env.reset()[0]["image"]
    other.step(STILL)
    other.close()
    assert np.array_equal(np.stack([first, env.reset()[0]["image"]]), alone)
    env.close()


def test_unknown_camera_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"^env\.camera=corner9: metaworld/reach-v3 .* 1 \(corner\)"):
        make_env(REACH.model_copy(update={"camera": "corner9"}), 0)
