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
from prelar_ray.config import RLLIB, RunConfig
from prelar_ray.envs import PixelEnv, make_env
from prelar_ray.envs.families import TESTED
from prelar_ray.envs.pixel_env import Action
from prelar_ray.errors import ConfigError, DataError, EnvironmentFailure, NoImageError, PrelarError
from prelar_ray.types import Frames, check_frames
from prelar_ray.wording import counted

__all__ = ["Finding", "check_before_training", "check_environment", "survey"]

SEED: Final = 0
FEW_STEPS: Final = 2
"""Steps of the check at the start of a run: the lowest and the highest action, or the first and the last choice."""
REPEATED_STEPS: Final = 10
"""Steps that are taken twice, to see whether they come out alike; from fewer nothing is said of rewards and success."""
LONGEST_SECONDS: Final = 20.0
"""After which an episode that has not ended is left."""
SLOW: Final = 10.0
"""Agent steps per second below which collecting is a bottleneck."""


@dataclass(frozen=True)
class Finding:
    """Result of a check."""

    check: str
    """Name of the check."""
    status: Literal["OK", "WARN", "FAIL", "SKIP"]
    """Whether training can start: it can, with a drawback, or it cannot; SKIP: nothing was checked."""
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
    error: Finding | None = None
    """What was raised, and where; None where nothing was."""

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
    env = _made(config)
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
        env = _made(config)
    except Exception as error:  # the simulator's own, or ours with a remedy
        not_run = Finding("env-others", "SKIP", "not run because of this: all other checks of the environment")
        return [Finding("env", "FAIL", _said(error)), not_run], None
    try:
        findings, frames = _surveyed(env, config)
    finally:
        env.close()
    named = {finding.check for finding in findings}
    missing = [name for name in _check_names(env, config) if name not in named]
    if missing:
        failed = any(finding.status == "FAIL" for finding in findings)
        reason = "because of this" if failed else "for want of steps"
        findings.append(Finding("env-others", "SKIP", f"not run {reason}: {', '.join(missing)}"))
    return findings, frames


def _surveyed(env: PixelEnv, config: RunConfig) -> tuple[list[Finding], Frames | None]:
    """Return the findings as far as the environment can be played, and the frames."""
    began = time.perf_counter()
    first = _roll(env, config, REPEATED_STEPS)
    reset_seconds = time.perf_counter() - began - first.seconds
    if first.error or not all(isinstance(observation, dict) for observation in first.observations):
        return list(_short_checks(env, config, first)), _drawn(first, env)
    repeats = _repeated(first, _roll(env, config, REPEATED_STEPS))
    episode = _roll(env, config, env.render_attributes["episode_steps"])
    findings = [*_short_checks(env, config, episode), repeats, *_long_checks(env, config, episode, reset_seconds)]
    if env.wrapped is not None and not episode.error:
        findings.append(_as_gymnasium_sees_it(env.wrapped))
    return findings, _drawn(episode, env)


def _check_names(env: PixelEnv, config: RunConfig) -> list[str]:
    """Return the checks that an environment is due for where it runs."""
    left_out = {
        "image": not config.env.image_size,
        "vector": not config.env.vector_size,
        "gymnasium": env.wrapped is None,
    }
    names = "length", "actions", "image", "vector", "reward", "success", "repeats", "end", "speed", "gymnasium"
    return [f"env-{name}" for name in names if not left_out.get(name)]


def _drawn(rolled: _Rolled, env: PixelEnv) -> Frames | None:
    """Return all frames ``(T, Hpx, Wpx, C)``, None where there are none or they are not as they should be."""
    if not env.image_size or not rolled.observations or _images(rolled, env).status == "FAIL":
        return None
    return _frames(rolled)


def _made(config: RunConfig) -> PixelEnv:
    """Make the environment; where it shows no image, its vector may be seen, by all but RLlib's algorithms."""
    try:
        return make_env(config.env, SEED)
    except NoImageError as error:
        if not error.vector_settings or config.method.startswith(RLLIB):
            raise
        alone = f"--method dreamerv2 {error.vector_settings}"
        raise ConfigError(f"{error}, or see its vector alone: {alone}") from error


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
        where = f"step {rolled.steps + 1}" if rolled.observations else "reset"
        check = f"env-{error.part}".rstrip("-") if isinstance(error, EnvironmentFailure) else "env"
        rolled.error = Finding(check, "FAIL", f"{where}: {_said(error)}", _remedy(error))
    return rolled


def _remedy(error: Exception) -> str:
    """Return what to do about something that was raised; errors of this package say it themselves."""
    if isinstance(error, PrelarError):
        return ""
    return (
        f"mend the environment, or {'raise env.timeout' if isinstance(error, TimeoutError) else 'correct env.kwargs'}"
    )


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
        yield rolled.error
    yield _attributes(env, config)
    yield _actions(env)
    if not rolled.observations:
        return
    broken = rolled.error.check if rolled.error else ""
    if config.env.image_size and broken != "env-image":
        yield _images(rolled, env)
    if config.env.vector_size and broken != "env-vector":
        yield _vectors(rolled, config.env.vector_size)
    told = _rewards(rolled), _successes(env, rolled)
    is_enough = rolled.steps >= REPEATED_STEPS or rolled.terminated or rolled.truncated
    yield from (of for of in told if of.check != broken and (is_enough or of.status == "FAIL"))


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


def _images(rolled: _Rolled, env: PixelEnv) -> Finding:
    """Whether frames are what networks take, and show something."""
    image_size = env.image_size
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
    source = f", of {env.image_source}" if env.image_source else ""
    return Finding("env-image", "OK", f"uint8 {frames.shape[1:]}, from {frames.min()} to {frames.max()}{source}")


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
    if rolled.steps >= REPEATED_STEPS and len(set(rewards)) == 1:
        text = f"{rewards[0]:g} at every one of {rolled.steps} random steps"
        return Finding("env-reward", "WARN", text, "rewards that random actions never meet take long to learn from")
    return Finding("env-reward", "OK", f"from {min(rewards, default=0):g} to {max(rewards, default=0):g}")


def _successes(env: PixelEnv, rolled: _Rolled) -> Finding:
    """Whether every step says of success."""
    for step, info in enumerate(rolled.infos):
        if not isinstance(info, dict) or not isinstance(info.get("success"), bool | np.bool_):
            said = repr(info.get("success", "missing")) if isinstance(info, dict) else type(info).__name__
            text = f'info["success"] is {said} {f"at step {step}" if step else "at reset"}'
            return Finding("env-success", "FAIL", text, "return True or False at every reset and step")
    if not env.has_success:
        return Finding("env-success", "WARN", "info says nothing of it", "set env.success_key; else only returns count")
    count = sum(bool(info["success"]) for info in rolled.infos[1:])
    if count and count == rolled.steps:
        text = f"at every one of {counted(count, 'random step')}"
        return Finding("env-success", "WARN", text, "a policy has nothing to learn for it; check what it says")
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
    if episode.error:
        pass  # how it would have ended is not known
    elif not (episode.terminated or episode.truncated):
        yield Finding("env-end", "OK", f"not within {episode.steps} steps, after which this check has left it")
    elif episode.steps == 1:
        text = "an episode of one step, from which nothing can be learnt"
        yield Finding("env-end", "WARN", text, "check what ends it")
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
        except (Exception, SystemExit) as error:  # assertions, and whatever the environment raises
            return Finding("env-gymnasium", "WARN", f"check_env: {_said(error)}", remedy)
    remarks = f", with {len(caught)} remarks, such as: {_plain(caught[0].message)}" if caught else ""
    return Finding("env-gymnasium", "OK", f"check_env passes{remarks}")


def _said(error: BaseException) -> str:
    """Return an error as one line; those of this package without their type."""
    said = _plain(error)
    return said if isinstance(error, PrelarError) else f"{type(error).__name__}: {said}".removesuffix(": ")


def _plain(text: object) -> str:
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(text)).split())
