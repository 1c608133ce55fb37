"""The registered environments as the networks of RLlib take them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from ray import tune

from prelar_ray.acting.rollout import MEND
from prelar_ray.acting.time_limit import time_limit
from prelar_ray.action_space import ActionSpace
from prelar_ray.config import EnvConfig, RunConfig
from prelar_ray.envs.egl_devices import TURN
from prelar_ray.envs.registry import make_env
from prelar_ray.errors import EnvironmentFailure
from prelar_ray.seeding import derive_seed
from prelar_ray.types import Frames, check_frames

__all__ = ["ENVIRONMENT", "FINISHED", "FrameEnv", "as_floats", "environment_config", "native_space", "register"]

ENVIRONMENT = "prelar_ray/frames"
"""Name under which RLlib knows :class:`FrameEnv`."""

FINISHED = "finished"
"""Key of ``info``, in the last step of an episode, for what is to be known of it: return, success, steps."""

FloatFrames = npt.NDArray[np.float32]
"""Frames, float32 ``(..., Hpx, Wpx, C)``; black is what the algorithm expects, white 1."""

BLACK = {"DreamerV3": -1.0}
"""Black of algorithms that do not take frames in [0, 1]."""


def as_floats(frames: Frames, black: float) -> FloatFrames:
    """Return frames, uint8 ``(..., Hpx, Wpx, C)``, as the networks of RLlib take them: float32 from ``black`` to 1."""
    return frames.astype(np.float32) * np.float32(1 - black) / np.float32(255) + np.float32(black)


class FrameEnv(gym.Env[FloatFrames, Any]):
    """One environment of a run: frames without a dictionary around them, and each episode from a seed of its own.

    Environment ``index`` sees in its episode ``number`` what environment ``index`` of a collector sees in that of the
    same number. Seeds that RLlib gives are not used. Choices are integers, as RLlib's algorithms take them.

    Args:
        config: the environment.
        seed: of the run.
        index: of the environment in the run.
        first_number: number of its first episode.
        reward_scale: factor of the rewards; what is told under :data:`FINISHED` is without it.
        black: of the frames that it shows.
    """

    def __init__(
        self, config: EnvConfig, seed: int, index: int, first_number: int, reward_scale: float, black: float
    ) -> None:
        self._black = black
        self._seed, self._index, self._number = seed, index, first_number - 1
        self._timeout, self._reward_scale = config.timeout, reward_scale
        self._env = make_env(config, derive_seed(seed, "env", index, first_number))
        self.observation_space = spaces.Box(black, 1.0, (self._env.image_size, self._env.image_size, 3), np.float32)
        self.action_space = native_space(self._env.actions)
        self._return, self._succeeded, self._steps = 0.0, False, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatFrames, dict[str, Any]]:
        """Start the next episode.

        Raises:
            EnvironmentFailure: the environment raised, did not answer, or showed something that is no frame.
        """
        self._number += 1
        try:
            with time_limit(self._timeout):
                observation, _ = self._env.reset(seed=derive_seed(self._seed, "env", self._index, self._number))
            frame = self._frame(observation)
        except Exception as error:
            raise self._failure("reset", error) from error
        self._return, self._succeeded, self._steps = 0.0, False, 0
        return frame, {}

    def step(self, action: Any) -> tuple[FloatFrames, float, bool, bool, dict[str, Any]]:
        """Do one step.

        Raises:
            EnvironmentFailure: see :meth:`reset`; or the reward is not finite.
        """
        self._steps += 1
        actions = self._env.actions
        given = actions.one_hot(np.atleast_1d(action)) if actions.is_discrete else action
        try:
            with time_limit(self._timeout):
                observation, reward, terminated, truncated, info = self._env.step(given)
            if not math.isfinite(reward):
                raise ValueError(f"the reward is {reward}")
            frame = self._frame(observation)
        except Exception as error:
            raise self._failure(f"step {self._steps}", error) from error
        self._return += float(reward)
        self._succeeded |= bool(info["success"])
        told: dict[str, Any] = {}
        if terminated or truncated:
            told[FINISHED] = {"return": self._return, "steps": self._steps}
            if self._env.has_success:
                told[FINISHED]["success"] = self._succeeded
        return frame, self._reward_scale * float(reward), bool(terminated), bool(truncated), told

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()

    def _frame(self, observation: Any) -> FloatFrames:
        return as_floats(check_frames(observation["image"][np.newaxis], "image", self._env.image_size)[0], self._black)

    def _failure(self, where: str, error: Exception) -> EnvironmentFailure:
        what = f"environment {self._index}, episode {self._number}, {where}"
        return EnvironmentFailure(f"{what}: {type(error).__name__}: {error}; {MEND}")


def native_space(actions: ActionSpace) -> spaces.Space[Any]:
    """Return the space of gymnasium by which RLlib knows these actions."""
    if not actions.is_discrete:
        return spaces.Box(-1.0, 1.0, (actions.size,), np.float32)
    return spaces.Discrete(actions.sizes[0]) if len(actions.sizes) == 1 else spaces.MultiDiscrete(list(actions.sizes))


def environment_config(config: RunConfig, first_number: int) -> dict[str, Any]:
    """Return what RLlib hands to :func:`register`'s maker in every process: plain values."""
    return {
        "env": config.env.model_dump(),
        "seed": config.seed,
        "first_number": first_number,
        "envs": config.collect.envs_per_collector,
        "reward_scale": config.rllib.reward_scale * config.env.reward_scale,
        "black": BLACK.get(config.algorithm, 0.0),
    }


def register() -> None:
    """Make :data:`ENVIRONMENT` known to RLlib, in this process and in those of the env runners."""
    tune.register_env(ENVIRONMENT, _Maker())


class _Maker:
    """Makes the environments of a process, one after another; RLlib does not say which of them it asks for."""

    def __init__(self) -> None:
        self._made = 0

    def __call__(self, context: Any) -> FrameEnv:
        settings: Mapping[str, Any] = context
        envs = settings["envs"]
        index = max(context.worker_index - 1, 0) * envs + self._made % envs  # 0 is the algorithm's own process
        self._made += 1
        os.environ[TURN] = str(context.worker_index)  # env runners take turns on the GPUs that draw
        config = EnvConfig.model_validate(settings["env"])
        shown = settings["reward_scale"], settings["black"]
        return FrameEnv(config, settings["seed"], index, settings["first_number"], *shown)
