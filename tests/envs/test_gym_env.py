"""Environments that know nothing of this package, as ``gym/MODULE:ID``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from prelar_ray.action_space import ActionSpace
from prelar_ray.config import EnvConfig
from prelar_ray.envs import check_task, make_env
from prelar_ray.errors import ConfigError, EnvironmentFailure
from prelar_ray.fitting import fitted
from prelar_ray.types import IMAGE_SIZE
from tests.envs import own_world

TRACK = "gym/tests.envs.own_world:Track-v0"


def made(**settings: Any) -> Any:
    return make_env(EnvConfig(**{"task": TRACK} | settings), 3)


def test_it_is_seen_by_what_it_renders_and_its_actions_are_scaled_and_flat() -> None:
    env = made()
    assert env.action_space.shape == (2,)
    observation, info = env.reset()
    inner = env._env.unwrapped
    np.testing.assert_array_equal(observation["image"], fitted(inner.render(), "squeeze", IMAGE_SIZE))
    assert not info["success"]
    env.step(np.array([1.0, -1.0], np.float32))
    env.step(np.array([0.5, 0.0], np.float32))
    np.testing.assert_allclose(np.concatenate(inner.taken), [[2, 0], [1, 5]])
    assert env.render_attributes["images"] == "render()"
    assert env.render_attributes["episode_steps"] == 30
    check_env(env, skip_render_check=True)


@pytest.mark.parametrize(
    ("actions", "space", "given", "taken"),
    [
        ("discrete", ActionSpace.discrete(3), [[1, 0, 0], [0, 0, 1]], [-1, 1]),
        ("several", ActionSpace.discrete(3, 2), [[1, 0, 0, 0, 1], [0, 0, 1, 1, 0]], [[[-1], [2]], [[1], [1]]]),
    ],
)
def test_choices_are_one_hot_vectors_of_floats(actions: str, space: ActionSpace, given: Any, taken: Any) -> None:
    env = made(kwargs={"actions": actions})
    assert (env.actions, env.action_space.shape) == (space, (space.size,))
    env.reset()
    for action in np.array(given, np.float32):
        env.step(action)
    np.testing.assert_array_equal(env._env.unwrapped.taken, taken)
    env.step(np.full(space.size, 0.3, np.float32))  # any numbers: the first of the largest
    check_env(env, skip_render_check=True)


def test_an_environment_that_may_end_early_is_known_as_one() -> None:
    assert made().terminates
    assert not make_env(EnvConfig(task="prelar/point-reach"), 0).terminates


@pytest.mark.parametrize(
    ("observation", "key", "expected"),
    [("image", "", "observation"), ("dict", "", "pixels"), ("dict", "pixels", "pixels"), ("two", "right", "right")],
)
def test_an_image_in_its_observations_is_taken_where_there_is_one(observation: str, key: str, expected: str) -> None:
    env = made(kwargs={"observation": observation}, image_key=key, fit="pad")
    first, _ = env.reset()
    assert env.render_attributes["images"] == expected
    np.testing.assert_array_equal(first["image"], fitted(env._env.unwrapped.render(), "pad", IMAGE_SIZE))
    assert (first["image"][:16] == 0).all()  # a bar


def test_episodes_come_from_the_seed_and_end_by_time_or_termination() -> None:
    first, second, other = made(), made(), make_env(EnvConfig(task=TRACK), 4)
    pixels = [env.reset()[0]["image"] for env in (first, second, other)]
    np.testing.assert_array_equal(pixels[0], pixels[1])
    assert not np.array_equal(pixels[0], pixels[2])
    steps = [first.step(np.zeros(2, np.float32)) for _ in range(30)]
    assert [step[3] for step in steps] == [False] * 29 + [True]
    assert not any(step[2] for step in steps)
    second.reset()
    while not (step := second.step(np.array([-1.0, 0.0], np.float32)))[2]:
        pass
    assert not step[3]
    with pytest.raises(EnvironmentFailure, match=r"outside an episode"):
        second.step(np.zeros(2, np.float32))


def test_rewards_add_up_over_repeated_actions_and_any_success_counts() -> None:
    env = made(action_repeat=15, time_limit=45)
    env.reset()
    start = env._env.unwrapped._place
    _, reward, terminated, truncated, info = env.step(np.array([1.0, 0.0], np.float32))
    assert reward == pytest.approx(sum(start + 0.2 * (i + 1) for i in range(15)))
    assert (terminated, truncated, info["success"], env.has_success) == (False, False, True, True)
    assert env.render_attributes["episode_steps"] == 45


def test_success_is_what_a_chosen_key_says_and_nothing_where_there_is_none() -> None:
    env = made(kwargs={"success": ""})
    env.reset()
    assert not env.step(np.ones(2, np.float32))[4]["success"]
    assert not env.has_success
    env = made(kwargs={"success": "arrived"}, success_key="arrived", action_repeat=30)
    env.reset()
    assert env.step(np.ones(2, np.float32))[4]["success"]
    env = made(success_key="arrived")
    env.reset()
    with pytest.raises(EnvironmentFailure, match=r"info has no arrived, only success; correct env\.success_key"):
        env.step(np.ones(2, np.float32))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "gym/tests.envs.own_world:Nowhere-v0"}, r"cannot be made \(NameNotFound: .*Nowhere"),
        ({"task": "gym/no_such_module:Own-v0"}, r"No module named 'no_such_module'; install the package"),
        ({"task": "gym/tests.envs.own_world:Endless-v0"}, r"its episodes have no time limit; set env\.time_limit"),
        ({"kwargs": {"colour": 3}}, r"cannot be made \(TypeError: .*colour"),
        ({"kwargs": {"actions": "endless"}}, r"numbers 0, 1 without bounds; wrap it"),
        ({"kwargs": {"actions": "dict"}}, r"its actions are Dict\(.*only a Box with bounds"),
        ({"kwargs": {"actions": "tuple"}}, r"its actions are Tuple\(.*only a Box with bounds, Discrete and MultiDi"),
        ({"image_key": "pixels"}, r"env\.image_key=pixels: not an image .*images are none: leave it empty to render"),
        ({"kwargs": {"observation": "two"}, "image_key": "up"}, r"env\.image_key=up: .*images are left, right"),
        ({"kwargs": {"observation": "two", "render_mode": None}}, r"2 images and it renders None, no arrays; name"),
        ({"camera": "corner"}, r"env\.camera=corner: .*has no cameras known here"),
    ],
)
def test_what_cannot_be_learnt_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(**settings)


def test_an_unregistered_id_is_refused_with_near_ones_before_it_is_made() -> None:
    with pytest.raises(ConfigError, match=r"^env\.task=gym/Pendulum-v9: no such task; did you mean gym/Pendulum-v1"):
        check_task("gym/Pendulum-v9")


def test_pictures_of_other_kinds_are_coloured_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    env = made()
    env.reset()
    inner = env._env.unwrapped
    pixels = np.arange(40 * 30, dtype=np.uint8).reshape(40, 30)
    for drawn in (pixels, pixels[..., None], np.stack([pixels] * 3)):
        monkeypatch.setattr(inner, "render", lambda drawn=drawn: drawn)
        np.testing.assert_array_equal(env.render(), fitted(np.stack([pixels] * 3, axis=2), "squeeze", IMAGE_SIZE))
    for drawn in (None, pixels.astype(np.float32), np.zeros((4, 5, 6, 3), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        monkeypatch.setattr(inner, "render", lambda drawn=drawn: drawn)
        with pytest.raises(EnvironmentFailure, match=r"render\(\) returned .*; expected uint8 \(H, W, 3\)"):
            env.render()


def test_one_that_holds_a_scene_of_mujoco_has_the_back_end_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr("prelar_ray.envs.gym_env.configure_gl", lambda: tried.append("once"))
    made().close()
    assert tried == []
    scene = type("MjModel", (), {"__module__": "mujoco._structs"})
    monkeypatch.setattr(own_world.Track, "model", None, raising=False)
    begin = own_world.Track.__init__

    def with_a_scene(self: own_world.Track, *args: Any, **settings: Any) -> None:
        begin(self, *args, **settings)
        self.model = scene()

    monkeypatch.setattr(own_world.Track, "__init__", with_a_scene)
    made().close()
    assert tried == ["once"]
