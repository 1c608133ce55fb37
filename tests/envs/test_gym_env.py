"""Environments that know nothing of this package, as ``gym/MODULE:ID``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from prelar_ray.action_space import ActionSpace
from prelar_ray.config import EnvConfig
from prelar_ray.envs import check_task, make_env
from prelar_ray.errors import ConfigError, EnvironmentFailure, FrameFailure, NoImageError, VectorFailure
from prelar_ray.fitting import fitted
from prelar_ray.types import IMAGE_SIZE
from tests.envs import own_world

WORLD = "gym/tests.envs.own_world"
TRACK = f"{WORLD}:Track-v0"


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
        ({"task": f"{WORLD}:Nowhere-v0"}, r"own_world registers no Nowhere-v0 \(.*`Nowhere`.*\); correct the id, or"),
        ({"task": "gym/no_such:Own-v0"}, r"=gym/no_such:Own-v0: no module no_such is found; put .* on PYTHONPATH, pip"),
        (
            {"task": "gym/tests.envs.no_such:Own-v0"},
            r"tests\.envs has no module tests\.envs\.no_such; correct the name$",
        ),
        (
            {"task": f"{WORLD}:Broken-v0"},
            r"\(FileNotFoundError: /data/robot\.urdf\); mend the environment, or .*kwargs$",
        ),
        ({"task": "gym/tests.envs.own_world:Endless-v0"}, r"its episodes have no time limit; set env\.time_limit"),
        (
            {"kwargs": {"colour": 3}},
            r"TypeError: .* argument 'colour'\); leave env\.kwargs\.colour out, or correct it$",
        ),
        ({"kwargs": {"actions": "endless"}}, r"numbers 0, 1 without bounds; give .*TransformAction"),
        ({"kwargs": {"actions": "dict"}}, r"its actions are Dict\(.*only a Box with bounds.*TransformAction"),
        ({"kwargs": {"actions": "tuple"}}, r"its actions are Tuple\(.*only a Box with bounds, Discrete and MultiDi"),
        (
            {"image_key": "pixels"},
            r"image_key=pixels: there is no observation pixels of .*; leave it empty to see render",
        ),
        (
            {"kwargs": {"observation": "two"}, "image_key": "up"},
            r"env\.image_key=up: there is no .*; use left or right$",
        ),
        (
            {"kwargs": {"observation": "two"}, "image_key": "observation"},
            r"=observation: the observation of .*:Track-v0 is a Dict of left, right; use left or right$",
        ),
        (
            {"kwargs": {"observation": "float"}, "image_key": "observation"},
            r"^env\.image_key=observation: the observation of .* is float32 \(48, 96, 3\), must be uint8 \(H, W, 3\);",
        ),
        (
            {"kwargs": {"observation": "two", "render_mode": None}},
            r"have 2 images, left, right; name one with env\.image_k",
        ),
        ({"camera": "corner"}, r"env\.camera=corner: .*has no cameras known here"),
    ],
)
def test_what_cannot_be_learnt_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(**settings)


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"task": f"{WORLD}:Blind-v0"}, "its constructor takes no render_mode; have it take one and render rgb_array"),
        (
            {"task": f"{WORLD}:Forgetful-v0"},
            "it does not keep its render_mode; set self.render_mode = render_mode in its constructor",
        ),
        ({"kwargs": {"render_mode": "ansi"}}, "env.kwargs.render_mode=ansi renders no arrays; leave that out"),
    ],
)
def test_why_nothing_can_be_seen_is_said_with_its_own_remedy_and_nothing_else(
    settings: dict[str, Any], cause: str, recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.raises(NoImageError) as refusal:
        made(**settings)
    task = settings.get("task", TRACK)
    assert str(refusal.value) == f"env.task={task}: no uint8 image is in its observations, and {cause}"
    assert refusal.value.vector_settings == "env.image_size=0 env.vector_key=observation env.vector_size=1"
    said = [str(warning.message) for warning in recwarn if "render_mode='rgb_array'" in str(warning.message)]
    assert not said


def test_floats_of_the_shape_of_an_image_are_named_where_they_are_not_taken() -> None:
    env = made(kwargs={"observation": "float"})
    assert env.image_source == "render(); the observation is float32 (48, 96, 3), an image must be uint8"
    assert made(kwargs={"observation": "two"}).image_source == "render(); of left, right env.image_key would choose one"
    assert made(kwargs={"observation": "dict"}).image_source == "observation pixels"
    with pytest.raises(NoImageError, match=r"no uint8 .*\(the observation is float32 \(48, 96, 3\)\), and env") as said:
        made(kwargs={"observation": "float", "render_mode": "ansi"})
    assert said.value.vector_settings == ""


def test_a_constructor_without_render_mode_is_enough_where_the_observation_is_the_image() -> None:
    assert made(task=f"{WORLD}:Flattened-v0").image_source == "the observation"


def test_a_class_without_a_constructor_is_enough_too() -> None:
    task = "gym/examples.own_environment:Shade-v0"
    assert made(task=task).image_source == "the observation"
    with pytest.raises(ConfigError, match=r"Shade\(\) takes no arguments\); .*correct env\.kwargs"):
        made(task=task, kwargs={"goal": 1})


def test_a_dict_of_actions_is_flattened_as_the_documentation_says() -> None:
    env = made(task=f"{WORLD}:Flattened-v0")
    env.reset()
    env.step(np.array([1.0, -0.5], np.float32))
    np.testing.assert_allclose(env._env.unwrapped.taken[0]["way"], [[2, -1]])


def test_what_a_module_of_ones_own_fails_to_import_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_package_of_a_test.py").write_text("import no_such_simulator")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as refusal:
        made(task="gym/own_package_of_a_test:Arm-v0")
    assert str(refusal.value) == (
        "env.task=gym/own_package_of_a_test:Arm-v0: it imports no_such_simulator, which is not found; install that, or "
        "correct the import"
    )


def test_an_unregistered_id_is_refused_with_near_ones_and_how_to_name_its_module() -> None:
    with pytest.raises(ConfigError) as said:
        check_task("gym/Pendulum-v9")
    assert str(said.value).startswith("env.task=gym/Pendulum-v9: no such task; did you mean gym/Pendulum-v1 or ")
    assert str(said.value).endswith(" or gym/MODULE:Pendulum-v9, where MODULE registers it?")


def test_frames_that_change_their_shape_are_refused_with_both(monkeypatch: pytest.MonkeyPatch) -> None:
    env = made()
    env.reset()
    monkeypatch.setattr(env._env.unwrapped, "render", lambda: np.zeros((40, 96, 3), np.uint8))
    with pytest.raises(FrameFailure, match=r"^render\(\) has shape \(40, 96, 3\), and \(48, 96, 3\) before; draw all"):
        env.step(np.zeros(2, np.float32))


def replaced(monkeypatch: pytest.MonkeyPatch, **parts: Any) -> None:
    """Have the steps of :class:`own_world.Track` answer other parts: reward, info."""
    step = own_world.Track.step

    def other(self: own_world.Track, action: Any) -> Any:
        observation, reward, terminated, truncated, info = step(self, action)
        return observation, parts.get("reward", reward), terminated, truncated, parts.get("info", info)

    monkeypatch.setattr(own_world.Track, "step", other)


def failure(env: Any) -> str:
    """What is said of a reset and a step."""
    with pytest.raises(EnvironmentFailure) as said:
        env.reset(), env.step(np.zeros(2, np.float32))
    return str(said.value)


@pytest.mark.parametrize(("code", "call"), [(0, "sys.exit(0)"), (None, "sys.exit()"), ("no\nrobot", "'no\\nrobot')")])
@pytest.mark.parametrize("method", ["__init__", "reset", "step"])
def test_an_environment_that_leaves_with_sys_exit_fails_as_with_any_error(
    monkeypatch: pytest.MonkeyPatch, method: str, code: Any, call: str
) -> None:
    monkeypatch.setattr(own_world.Track, method, lambda self, *given, **named: sys.exit(code))
    if method == "__init__":
        with pytest.raises(ConfigError) as refusal:
            made()
        said = str(refusal.value).removeprefix(f"env.task={TRACK}: ")
    else:
        said = failure(made())
    assert said.startswith("the environment left with sys.exit(")
    assert said.endswith(f"{call}; have it raise an error instead")


def test_ctrl_c_and_the_end_of_a_process_of_ray_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = SystemExit(1)
    ended.ray_terminate_msg = "SIGTERM"  # type: ignore[attr-defined]
    for raised in (KeyboardInterrupt(), ended):

        def ending(self: Any, raised: BaseException = raised, **named: Any) -> None:
            raise raised

        monkeypatch.setattr(own_world.Track, "reset", ending)
        with pytest.raises(type(raised)) as left:
            made().reset()
        assert left.value is raised


@pytest.mark.parametrize("said", [True, np.True_, 1, 1.0, np.float32(1), np.array(True)])
def test_success_may_be_a_bool_of_any_type(monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    replaced(monkeypatch, info={"solved": said})
    env = made(success_key="solved")
    env.reset()
    assert env.step(np.zeros(2, np.float32))[4]["success"] is True


@pytest.mark.parametrize("said", ["no", "", None, 0.5, float("nan"), [], np.array([True])])
def test_success_that_is_no_bool_is_refused(monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    replaced(monkeypatch, info={"solved": said})
    remedy = "correct it, or name another in env.success_key"
    assert failure(made(success_key="solved")) == f'info["solved"] is {said!r}, must be a bool; {remedy}'


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"reward": None}, "the reward is None, must be a number"),
        ({"reward": np.array([2.5])}, "the reward is array([2.5]), must be a number"),
        ({"reward": "1"}, "the reward is '1', must be a number"),
        ({"info": None}, "info is None, must be a dict"),
    ],
)
def test_a_step_that_answers_something_else_is_told_what_it_must_be(
    monkeypatch: pytest.MonkeyPatch, parts: dict[str, Any], said: str
) -> None:
    replaced(monkeypatch, **parts)
    assert failure(made()) == said


@pytest.mark.parametrize(("answer", "found"), [({"a": 1, "b": 2}, "dict"), (None, "NoneType"), ((1, 2, 3), "3 values")])
def test_a_reset_that_answers_no_pair_is_told_so(monkeypatch: pytest.MonkeyPatch, answer: Any, found: str) -> None:
    monkeypatch.setattr(own_world.Track, "reset", lambda self, **named: answer)
    assert failure(made()) == f"reset returned {found}, must be (observation, info)"


def test_a_vector_of_another_size_than_its_space_declares_is_refused_with_both(monkeypatch: pytest.MonkeyPatch) -> None:
    env = made(kwargs={"observation": "dict"}, vector_key="state", vector_size=1)
    observe = own_world.Track._observe
    monkeypatch.setattr(own_world.Track, "_observe", lambda self: observe(self) | {"state": np.zeros(4)})
    with pytest.raises(VectorFailure) as said:
        env.reset()
    assert str(said.value) == "the space of state declares 1 numbers, the observation has 4; correct the space"


def test_pictures_of_other_kinds_are_coloured_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.arange(40 * 30, dtype=np.uint8).reshape(40, 30)
    for drawn in (pixels, pixels[..., None], np.stack([pixels] * 3)):
        env = made()
        monkeypatch.setattr(env._env.unwrapped, "render", lambda drawn=drawn: drawn)
        np.testing.assert_array_equal(
            env.reset()[0]["image"], fitted(np.stack([pixels] * 3, axis=2), "squeeze", IMAGE_SIZE)
        )
    for drawn, said in (
        (None, "None"),
        (pixels.astype(np.float32), r"float32 \(40, 30\)"),
        (np.zeros((4, 5, 6, 3), np.uint8), r"uint8 \(4, 5, 6, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8 \(0, 4, 3\)"),
    ):
        monkeypatch.setattr(env._env.unwrapped, "render", lambda drawn=drawn: drawn)
        with pytest.raises(FrameFailure, match=rf"^render\(\) is {said}, must be uint8 \(H, W, 3\)"):
            env.render()


def test_one_that_holds_a_scene_of_mujoco_has_the_back_end_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr("prelar_ray.envs.gym_making.configure_gl", lambda: tried.append("once"))
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
