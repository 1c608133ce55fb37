"""What is wrong with an environment, before anything is trained in it: one finding per check, with its remedy.

:func:`check_environment` takes a reset and two steps, for the start of a run; :func:`survey` plays a whole episode.
"""

from __future__ import annotations

import json
import math
import re
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from prelar_ray.acting.time_limit import time_limit
from prelar_ray.config import RunConfig
from prelar_ray.envs import PixelEnv, make_env
from prelar_ray.envs.families import TESTED
from prelar_ray.envs.pixel_env import Action
from prelar_ray.errors import ConfigError, DataError
from prelar_ray.types import Frames, check_frames

__all__ = ["Finding", "check_before_training", "check_environment", "survey"]

SEED: Final = 0
FEW_STEPS: Final = 2
"""Steps of the check at the start of a run: the lowest and the highest action, or the first and the last choice."""
REPEATED_STEPS: Final = 10
"""Steps that are taken twice, to see whether they come out alike."""
LONGEST_SECONDS: Final = 20.0
"""After which an episode that has not ended is left."""
SLOW: Final = 10.0
"""Agent steps per second below which collecting is a bottleneck."""


@dataclass(frozen=True)
class Finding:
    """Result of a check."""

    check: str
    """Name of the check."""
    status: Literal["OK", "WARN", "FAIL"]
    """Whether training can start: it can, with a drawback, or it cannot."""
    text: str
    """What was found."""
    remedy: str = ""
    """What to do about it."""


@dataclass
class _Rolled:
    """What an environment returned from a reset on; row 0 is the reset, whose reward is 0."""

    observations: list[Any] = field(default_factory=list)
    rewards: list[Any] = field(default_factory=list)
    infos: list[Any] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False
    seconds: float = 0.0
    """Of the steps alone."""
    error: str = ""
    """What was raised, and where; empty where nothing was."""

    @property
    def steps(self) -> int:
        """Agent steps taken."""
        return max(0, len(self.observations) - 1)


def check_before_training(config: RunConfig) -> None:
    """:func:`check_environment`, where a family is not tested with this package, or a vector's size has to be right.

    Raises:
        ConfigError, RenderingError: see there.
    """
    if config.env.task.partition("/")[0] not in TESTED or config.env.vector_key:
        check_environment(config)


def check_environment(config: RunConfig) -> None:
    """Make the environment of a run and take two steps in it.

    Raises:
        ConfigError: nothing can be learnt in it; says in one line what is wrong and what to do.
        RenderingError: headless rendering does not work.
    """
    env = make_env(config.env, SEED)
    try:
        rolled = _roll(env, config, FEW_STEPS)
        wrong = [finding for finding in _short_checks(env, config, rolled) if finding.status == "FAIL"]
    finally:
        env.close()
    if wrong:
        found = f"{wrong[0].text}; {wrong[0].remedy}" if wrong[0].remedy else wrong[0].text
        raise ConfigError(f"env.task={config.env.task}: {found}")


def survey(config: RunConfig) -> tuple[list[Finding], Frames | None]:
    """Check the environment of a run thoroughly, with random actions, for half a minute at most.

    Returns:
        The findings, and the frames of an episode or its beginning, ``(T, Hpx, Wpx, C)``; None where there are none.
    """
    try:
        env = make_env(config.env, SEED)
    except Exception as error:  # the simulator's own, or ours with a remedy
        return [Finding("env", "FAIL", _said(error))], None
    try:
        began = time.perf_counter()
        first = _roll(env, config, REPEATED_STEPS)
        reset_seconds = time.perf_counter() - began - first.seconds
        findings = list(_short_checks(env, config, first))
        if _failed(findings):
            return findings, None
        repeats = _repeated(first, _roll(env, config, REPEATED_STEPS))
        episode = _roll(env, config, env.render_attributes["episode_steps"])
        findings = [*_short_checks(env, config, episode), repeats, *_long_checks(env, config, episode, reset_seconds)]
        if _failed(findings):
            return findings, None
        if env.wrapped is not None:
            findings.append(_as_gymnasium_sees_it(env.wrapped))
        return findings, _frames(episode) if config.env.image_size else None
    finally:
        env.close()


def _failed(findings: list[Finding]) -> bool:
    return any(finding.status == "FAIL" for finding in findings)


def _roll(env: PixelEnv, config: RunConfig, steps: int) -> _Rolled:
    """Reset with a fixed seed and take steps: see :data:`FEW_STEPS`, then random actions."""
    rolled = _Rolled()
    rng = np.random.default_rng(SEED)
    until = time.perf_counter() + LONGEST_SECONDS
    try:
        with time_limit(config.env.timeout):
            observation, info = env.reset(seed=SEED)
        _note(rolled, observation, 0.0, info)
        while rolled.steps < steps and not (rolled.terminated or rolled.truncated) and time.perf_counter() < until:
            action, began = _action(env, rolled.steps, rng), time.perf_counter()
            with time_limit(config.env.timeout):
                observation, reward, rolled.terminated, rolled.truncated, info = env.step(action)
            rolled.seconds += time.perf_counter() - began
            _note(rolled, observation, reward, info)
    except Exception as error:  # the environment's own code
        where = "step" if rolled.observations else "reset"
        rolled.error = f"{where} {rolled.steps + 1 if rolled.observations else ''}".strip() + f": {_said(error)}"
    return rolled


def _note(rolled: _Rolled, observation: Any, reward: Any, info: Any) -> None:
    rolled.observations.append(observation)
    rolled.rewards.append(reward)
    rolled.infos.append(info)


def _action(env: PixelEnv, step: int, rng: np.random.Generator) -> Action:
    actions = env.actions
    if step >= FEW_STEPS:
        return actions.random(rng.random(actions.size, dtype=np.float32))
    if actions.is_discrete:
        return actions.one_hot(np.array([(0, size - 1)[step] for size in actions.sizes]))
    return np.full(actions.size, (-1, 1)[step], np.float32)


def _short_checks(env: PixelEnv, config: RunConfig, rolled: _Rolled) -> Iterator[Finding]:
    """Yield what a few steps show; the first that fails is what to mend first."""
    if rolled.error:
        yield Finding("env", "FAIL", rolled.error, "mend the environment, or correct env.task and env.kwargs")
    yield _attributes(env, config)
    yield _actions(env)
    if rolled.observations:
        if config.env.image_size:
            yield _images(rolled, env.image_size)
        if config.env.vector_size:
            yield _vectors(rolled, config.env.vector_size)
        yield _rewards(rolled)
        yield _successes(env, rolled)


def _attributes(env: PixelEnv, config: RunConfig) -> Finding:
    """Whether it says what its images are, and its episodes are long enough to learn from."""
    attributes = env.render_attributes
    try:
        json.dumps(attributes)
        steps = int(attributes["episode_steps"])
    except (KeyError, TypeError, ValueError) as error:
        text = f"render_attributes cannot be recorded ({_said(error)})"
        return Finding("env-length", "FAIL", text, "return JSON values, episode_steps among them")
    rows, segment = -(-steps // config.env.action_repeat) + 1, config.finetune.segment_length
    if rows < segment:
        text = f"episodes have {rows} rows at most, fewer than finetune.segment_length={segment}"
        return Finding("env-length", "FAIL", text, f"use finetune.segment_length={max(2, rows)}, or longer episodes")
    return Finding("env-length", "OK", f"episodes of {steps} env steps at most")


def _actions(env: PixelEnv) -> Finding:
    """Whether its actions are vectors in [-1, 1], as those of every PixelEnv."""
    space = env.action_space
    expected = spaces.Box(-1.0, 1.0, (env.actions.size,), np.float32)
    if space != expected or not env.actions.size:
        return Finding(
            "env-actions", "FAIL", f"actions are {space}", f"leave action_space as PixelEnv sets it: {expected}"
        )
    return Finding(
        "env-actions", "OK", str(env.actions) if env.actions.is_discrete else f"{env.actions.size} in [-1, 1]"
    )


def _images(rolled: _Rolled, image_size: int) -> Finding:
    """Whether frames are what networks take, and show something."""
    for observation in rolled.observations:
        if not isinstance(observation, dict) or not isinstance(observation.get("image"), np.ndarray):
            keys = ", ".join(map(str, observation)) if isinstance(observation, dict) else type(observation).__name__
            text = f"observations have no image, but {keys or 'nothing'}"
            remedy = f'return {{"image": uint8 ({image_size}, {image_size}, 3)}}'
            return Finding("env-image", "FAIL", text, remedy)
        try:
            check_frames(observation["image"][np.newaxis], "image", image_size)
        except DataError as error:
            return Finding("env-image", "FAIL", str(error))
    frames = _frames(rolled)
    if (frames == frames[:, :1, :1]).all():
        return Finding("env-image", "WARN", "every frame is of one colour", "check what it draws, with --sheet FILE")
    if rolled.steps >= REPEATED_STEPS and (frames == frames[0]).all():
        return Finding(
            "env-image", "WARN", "no action changes a pixel", "check the camera, and that every step draws a new frame"
        )
    return Finding("env-image", "OK", f"uint8 {frames.shape[1:]}, from {frames.min()} to {frames.max()}")


def _vectors(rolled: _Rolled, size: int) -> Finding:
    """Whether vectors are of one size and finite."""
    seen = [np.asarray(observation.get("vector", ()), np.float32) for observation in rolled.observations]
    for step, vector in enumerate(seen):
        if vector.shape != (size,) or not np.isfinite(vector).all():
            text = f"the vector of step {step} is {vector}, expected {size} finite numbers"
            return Finding("env-vector", "FAIL", text, "mend it, or change env.vector_key")
    return Finding("env-vector", "OK", f"{size} numbers, from {np.min(seen):g} to {np.max(seen):g}")


def _frames(rolled: _Rolled) -> Frames:
    """Return all frames ``(T, Hpx, Wpx, C)``, which have been checked."""
    return np.stack([observation["image"] for observation in rolled.observations])


def _rewards(rolled: _Rolled) -> Finding:
    """Whether rewards are finite, and tell actions apart."""
    for step, reward in enumerate(rolled.rewards):
        if not np.isscalar(reward) or isinstance(reward, str) or not math.isfinite(float(np.real(reward))):
            return Finding("env-reward", "FAIL", f"the reward of step {step} is {reward!r}", "return a finite number")
    rewards = [float(np.real(reward)) for reward in rolled.rewards[1:]]
    if rolled.steps > FEW_STEPS and len(set(rewards)) == 1:
        text = f"{rewards[0]:g} at every one of {rolled.steps} random steps"
        return Finding("env-reward", "WARN", text, "rewards that random actions never meet take long to learn from")
    return Finding("env-reward", "OK", f"from {min(rewards):g} to {max(rewards):g}" if rewards else "no step taken")


def _successes(env: PixelEnv, rolled: _Rolled) -> Finding:
    """Whether every step says of success."""
    for step, info in enumerate(rolled.infos):
        if not isinstance(info, dict) or not isinstance(info.get("success"), bool | np.bool_):
            said = repr(info.get("success", "missing")) if isinstance(info, dict) else type(info).__name__
            text = f'info["success"] is {said} {f"at step {step}" if step else "at reset"}'
            return Finding("env-success", "FAIL", text, "return True or False at every reset and step")
    if not env.has_success:
        return Finding("env-success", "WARN", "info says nothing of it", "set env.success_key; else only returns count")
    count = sum(bool(info["success"]) for info in rolled.infos)
    return Finding("env-success", "OK", f"at {count} of {rolled.steps} random steps")


def _repeated(first: _Rolled, second: _Rolled) -> Finding:
    """Whether equal seeds and actions give equal episodes."""
    remedy = "draw all random numbers from self.np_random after super().reset(seed=seed)"
    for step, pair in enumerate(zip(first.observations, second.observations, strict=False)):
        same = all(np.array_equal(pair[0][key], pair[1].get(key)) for key in pair[0])
        if not same or first.rewards[step] != second.rewards[step]:
            what = f"at step {step}, after the same actions" if step else "at reset"
            return Finding("env-repeats", "WARN", f"two episodes of one seed differ {what}", remedy)
    if second.error or first.steps != second.steps:
        return Finding("env-repeats", "WARN", "two episodes of one seed end differently", remedy)
    return Finding("env-repeats", "OK", f"two resets of one seed and {first.steps} steps are alike")


def _long_checks(env: PixelEnv, config: RunConfig, episode: _Rolled, reset_seconds: float) -> Iterator[Finding]:
    """Yield how an episode ends, and how fast it is."""
    if not (episode.terminated or episode.truncated):
        yield Finding("env-end", "OK", f"not within {episode.steps} steps, after which this check has left it")
    elif episode.terminated and not env.terminates:
        text = f"terminated after {episode.steps} steps, and says that it never does"
        yield Finding("env-end", "WARN", text, "set terminates = True, or its future is valued beyond its end")
    else:
        how = "terminated" if episode.terminated else "time ran out"
        yield Finding("env-end", "OK", f"{how} after {episode.steps} steps")
    if not episode.steps or not episode.seconds:
        return
    rate = episode.steps / episode.seconds
    text = f"{rate:.0f} steps/s, {rate * config.env.action_repeat:.0f} env steps/s, a reset in {reset_seconds:.2f} s"
    if rate < SLOW:
        yield Finding("env-speed", "WARN", text, "collecting is the bottleneck: render less, or collect.workers=4")
    else:
        yield Finding("env-speed", "OK", text)


def _as_gymnasium_sees_it(env: Any) -> Finding:
    """What gymnasium's own check says of the environment inside; its complaints stop nothing here."""
    remedy = "mend it where it matters to you; training takes what the checks above name"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check_env(env, skip_render_check=True, skip_close_check=True)
        except Exception as error:  # assertions, and whatever the environment raises
            return Finding("env-gymnasium", "WARN", f"check_env: {_said(error)}", remedy)
    remarks = f", with {len(caught)} remarks, such as: {_plain(caught[0].message)}" if caught else ""
    return Finding("env-gymnasium", "OK", f"check_env passes{remarks}")


def _said(error: BaseException) -> str:
    """Return an error as one line; those of this package without their type."""
    said = _plain(error)
    ours = isinstance(error, ConfigError | DataError)
    return said if ours else f"{type(error).__name__}: {said}".removesuffix(": ")


def _plain(text: object) -> str:
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(text)).split())
