"""Environments that nothing can be learnt in are named before training, with what is wrong and what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from prelar_ray.acting import environment_check
from prelar_ray.acting.environment_check import check_before_training, check_environment, survey
from prelar_ray.config import RunConfig, load_config
from prelar_ray.envs import make_env
from prelar_ray.envs.pixel_env import Action, Image, PixelEnv
from prelar_ray.errors import ConfigError
from tests.envs import own_world

TRACK = "gym/tests.envs.own_world:Track-v0"
STILL = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


class Room(PixelEnv):
    """A grey level that actions move; every attribute is a fault to set."""

    picture: Any = None
    reward: Any = None
    info: Any = None
    episode: int = 30
    lives: int = 10**6
    drifts = False

    def __init__(self) -> None:
        super().__init__(2, self.episode, 1, 0, None)
        self._level = 0.0
        self._age = self._resets = 0

    @property
    def render_attributes(self) -> dict[str, Any]:
        return {"episode_steps": self._episode_steps}

    def _begin(self) -> None:
        self._resets += 1
        self._level = self._resets if self.drifts else 0.0
        self._age = 0

    def _advance(self, action: Action) -> tuple[float, bool, bool]:
        self._level += float(action[0])
        self._age += 1
        reward = self._level if self.reward is None else self.reward
        return reward, False, self._age >= self.lives

    def step(self, action: Action) -> Any:
        *result, info = super().step(action)
        return (*result, info if self.info is None else self.info)

    def _draw(self) -> Image:
        if self.picture is not None:
            return self.picture  # type: ignore[no-any-return]
        frame = np.full((64, 64, 3), 128 + self._level, np.uint8)
        frame[:8] = 0
        return frame


def found(
    monkeypatch: pytest.MonkeyPatch, config: RunConfig | None = None, **faults: Any
) -> dict[str, tuple[str, str]]:
    """Status and text of each finding, of a room with faults."""
    room = type("Room", (Room,), faults)
    monkeypatch.setattr(environment_check, "make_env", lambda config, seed: room())
    findings, _ = survey(config or load_config("tiny", None, []))
    return {of.check: (of.status, of.text) for of in findings}


def test_a_sound_environment_passes_every_check_and_shows_an_episode() -> None:
    findings, frames = survey(load_config("tiny", None, [f"env.task={TRACK}"]))
    assert {of.status for of in findings} == {"OK"}
    names = ["length", "actions", "image", "reward", "success", "repeats", "end", "speed", "gymnasium"]
    assert [of.check for of in findings] == [f"env-{name}" for name in names]
    assert frames is not None
    assert frames.shape == (31, 64, 64, 3)


@pytest.mark.parametrize(
    ("check", "status", "text", "faults"),
    [
        ("env-image", "FAIL", "frames have shape (1, 32, 64, 3)", {"picture": np.zeros((32, 64, 3), np.uint8)}),
        ("env-image", "FAIL", "frames are float32", {"picture": np.zeros((64, 64, 3), np.float32)}),
        ("env-image", "WARN", "of one colour", {"picture": np.zeros((64, 64, 3), np.uint8)}),
        ("env-image", "WARN", "no action changes a pixel", {"picture": STILL}),
        ("env-reward", "FAIL", "the reward of step 1 is nan", {"reward": float("nan")}),
        ("env-reward", "WARN", "7 at every one of 30 random steps", {"reward": 7.0}),
        ("env-success", "FAIL", "info[\"success\"] is 'missing' at step 1", {"info": {}}),
        ("env-success", "WARN", "info says nothing of it", {"has_success": False}),
        ("env-success", "WARN", "at every one of 30 random steps", {"info": {"success": True}}),
        ("env-length", "FAIL", "4 rows at most, fewer than finetune.segment_length=10", {"episode": 3}),
        ("env-end", "WARN", "terminated after 5 steps, and says that it never does", {"lives": 5}),
        ("env-end", "WARN", "of one step, from which nothing can be learnt", {"lives": 1, "terminates": True}),
        ("env-end", "OK", "terminated after 5 steps", {"lives": 5, "terminates": True}),
        ("env-repeats", "WARN", "two episodes of one seed differ at reset", {"drifts": True}),
    ],
)
def test_what_is_wrong_is_said(
    monkeypatch: pytest.MonkeyPatch, check: str, status: str, text: str, faults: dict[str, Any]
) -> None:
    said = found(monkeypatch, **faults)[check]
    assert said[0] == status
    assert text in said[1]


def test_actions_of_another_space_than_is_acted_in_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(Room):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    monkeypatch.setattr(environment_check, "make_env", lambda config, seed: Endless())
    with pytest.raises(ConfigError, match=r"actions are Box\(-inf, inf.*; leave action_space as PixelEnv sets it"):
        check_environment(load_config("tiny", None, []))


def test_what_an_environment_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Room, action: Action) -> Any:
        raise ValueError("the arm\nis gone")

    assert found(monkeypatch, _advance=broken)["env"] == ("FAIL", "step 1: ValueError: the arm is gone")


@pytest.mark.parametrize(
    ("position", "value", "check"), [(1, None, "env-reward"), (4, {"success": "no"}, "env-success")]
)
def test_what_a_step_answers_wrongly_fails_the_check_of_that_part(
    monkeypatch: pytest.MonkeyPatch, position: int, value: Any, check: str
) -> None:
    step = own_world.Track.step

    def wrong(self: own_world.Track, action: Any) -> Any:
        answer = list(step(self, action))
        if self.steps == 12:
            answer[position] = value
        return tuple(answer)

    monkeypatch.setattr(own_world.Track, "step", wrong)
    findings, _ = survey(load_config("tiny", None, [f"env.task={TRACK}"]))
    assert [(of.check, of.text[:8]) for of in findings if of.status == "FAIL"] == [(check, "step 12:")]
    assert [of.check for of in findings].count(check) == 1


def test_frames_that_change_their_shape_fail_at_their_step_and_those_before_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    observe = own_world.Track._observe

    def cut(self: own_world.Track) -> Any:
        return observe(self) if self.steps < 12 else observe(self)[:40]

    monkeypatch.setattr(own_world.Track, "_observe", cut)
    findings, frames = survey(load_config("tiny", None, [f"env.task={TRACK}", "env.kwargs.observation=image"]))
    assert [(of.check, of.remedy, of.text) for of in findings if of.status == "FAIL"] == [
        (
            "env-image",
            "",
            "step 12: the observation has shape (40, 96, 3), and (48, 96, 3) before; draw all frames of one shape",
        )
    ]
    assert frames is not None
    assert len(frames) == 12
    assert "env-image" not in {of.check for of in findings if of.status == "OK"}


def test_where_a_picture_comes_from_is_said() -> None:
    config = load_config("tiny", None, [f"env.task={TRACK}", "env.kwargs.observation=float"])
    said = {of.check: of.text for of in survey(config)[0]}
    assert said["env-image"].endswith("of render(); the observation is float32 (48, 96, 3), an image must be uint8")


def test_what_a_failure_prevents_is_named_and_nothing_is_said_from_too_few_steps() -> None:
    findings, frames = survey(load_config("tiny", None, [f"env.task={TRACK}", "env.success_key=solved"]))
    assert [(of.check, of.status) for of in findings] == [
        ("env", "FAIL"),
        ("env-length", "OK"),
        ("env-actions", "OK"),
        ("env-image", "OK"),
        ("env-others", "SKIP"),
    ]
    assert findings[0].text == "step 1: info has no solved, only success; correct env.success_key, or leave it empty"
    assert findings[0].remedy == ""
    left = "env-reward, env-success, env-repeats, env-end, env-speed, env-gymnasium"
    assert findings[-1].text == f"not run because of this: {left}"
    assert frames is not None
    assert len(frames) == 1


def test_episodes_too_short_for_a_segment_are_played_all_the_same() -> None:
    findings, frames = survey(load_config("tiny", None, [f"env.task={TRACK}", "finetune.segment_length=40"]))
    assert [of.check for of in findings if of.status != "OK"] == ["env-length"]
    assert frames is not None
    assert len(frames) == 31


def test_an_episode_that_breaks_off_has_no_end_and_its_first_steps_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaking(self: Room, action: Action) -> tuple[float, bool, bool]:
        self._age += 1
        if self._age == 20:
            raise RuntimeError("motor 2 overheated")
        return float(self._age), False, False

    said = found(monkeypatch, _advance=breaking)
    assert said["env"] == ("FAIL", "step 20: RuntimeError: motor 2 overheated")
    assert said["env-reward"] == ("OK", "from 1 to 19")
    assert said["env-others"] == ("SKIP", "not run because of this: env-end")


def test_an_environment_that_cannot_be_made_prevents_all_other_checks() -> None:
    findings, frames = survey(load_config("tiny", None, ["env.task=gym/tests.envs.own_world:Broken-v0"]))
    assert [(of.check, of.status) for of in findings] == [("env", "FAIL"), ("env-others", "SKIP")]
    assert frames is None


def test_an_environment_without_images_is_offered_its_vector_where_the_method_could_see_it() -> None:
    blind, alone = "env.task=gym/tests.envs.own_world:Blind-v0", "env.image_size=0 env.vector_key=observation"
    with pytest.raises(ConfigError, match=rf", or see its vector alone: --method dreamerv2 {alone} env.vector_size=1$"):
        check_environment(load_config("tiny", None, [blind]))
    with pytest.raises(ConfigError, match=r"have it take one and render rgb_array$"):
        check_environment(load_config("tiny", None, [blind, "method=rllib/PPO"]))


def test_a_slow_environment_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(10**6))
    monkeypatch.setattr(environment_check.time, "perf_counter", lambda: next(seconds) * 0.2)
    assert found(monkeypatch)["env-speed"][0] == "WARN"


def test_an_environment_that_hangs_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def hanging(self: Room) -> None:
        while True:
            pass

    config = load_config("tiny", None, ["env.timeout=0.05"])
    assert found(monkeypatch, config, _begin=hanging)["env"] == ("FAIL", "reset: TimeoutError: no answer for 0.05 s")


def test_a_run_is_refused_in_one_line_for_a_bad_environment_of_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    room = type("Room", (Room,), {"reward": float("inf")})
    monkeypatch.setattr(environment_check, "make_env", lambda config, seed: room())
    check_before_training(load_config("tiny", None, ["env.task=prelar/point-reach"]))
    config = load_config("tiny", None, [f"env.task={TRACK}"])
    with pytest.raises(ConfigError) as refusal:
        check_before_training(config)
    assert str(refusal.value) == f"env.task={TRACK}: the reward of step 1 is inf; return a finite number"


def test_the_check_before_training_takes_two_steps_with_the_extreme_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []

    def noting(self: Room, action: Action) -> tuple[float, bool, bool]:
        taken.append(action.tolist())
        return 0.0, False, False

    room = type("Room", (Room,), {"_advance": noting})
    monkeypatch.setattr(environment_check, "make_env", lambda config, seed: room())
    check_environment(load_config("tiny", None, []))
    assert taken == [[-1, -1], [1, 1]]


def test_discrete_actions_are_checked_with_the_first_and_the_last_choice() -> None:
    config = load_config("tiny", None, [f"env.task={TRACK}", "env.kwargs.actions=several"])
    env = make_env(config.env, 0)
    rolled = environment_check._roll(env, config, 2)
    assert not rolled.error
    np.testing.assert_array_equal(env._env.unwrapped.taken, [[[-1], [1]], [[1], [2]]])  # type: ignore[attr-defined]
    said = {of.check: of.text for of in survey(config)[0]}
    assert said["env-actions"] == "a choice of 3 and one of 2"
