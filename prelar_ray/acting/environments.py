"""The environments of a rollout: the interface that a rollout steps them by, and those of its own process."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from prelar_ray.acting.time_limit import time_limit
from prelar_ray.action_space import ActionSpace
from prelar_ray.config import EnvConfig
from prelar_ray.errors import DataError
from prelar_ray.types import Frames, Vectors, check_frames, no_frames

__all__ = ["Environments", "EpisodeLost", "LocalEnvironments", "MakeEnv", "Step"]

MakeEnv = Callable[[EnvConfig, int], gym.Env[Any, Any]]
"""Makes an environment from configuration and seed."""


class Step(NamedTuple):
    """What an environment returned for a reset or an action."""

    image: Frames  # uint8 (Hpx, Wpx, C)
    reward: float  # 0 of a reset
    terminated: bool
    truncated: bool
    success: bool
    vector: Vectors  # (V,)


class EpisodeLost(Exception):
    """An environment is gone, with its episode, because of another one."""


class Environments(Protocol):
    """``n`` environments, known by their positions ``0 ... n-1``.

    Every method takes several at once, and returns the exception of one that failed in place of its result. Such an
    environment must be replaced before it is used again; so must one that is answered for with :class:`EpisodeLost`,
    whether it was asked or not.
    """

    @property
    def actions(self) -> ActionSpace:
        """What may be done in each."""

    @property
    def episode_steps(self) -> int:
        """Maximum length of an episode, environment steps."""

    @property
    def terminates(self) -> bool:
        """Whether an episode can end before its time for what happens in it."""

    @property
    def has_success(self) -> bool:
        """Whether ``success`` says anything, as far as it is known by now."""

    def replace(self, seeds: Mapping[int, int]) -> dict[int, Exception]:
        """Close environments, broken ones included, and make new ones with these seeds; returns failures alone."""

    def reset(self, seeds: Mapping[int, int]) -> dict[int, Step | Exception]:
        """Begin an episode in each, with its seed."""

    def step(self, actions: Mapping[int, npt.NDArray[np.float32]]) -> dict[int, Step | Exception]:
        """Take one action ``(A,)`` in each."""

    def close(self) -> None:
        """Close all environments, broken ones included."""


class LocalEnvironments:
    """Environments stepped one after another in this process."""

    def __init__(self, make_env: MakeEnv, config: EnvConfig, seeds: Mapping[int, int], timeout: float) -> None:
        """Make the environments; may raise what the first that fails raised.

        Args:
            make_env: creates an environment.
            config: of all environments.
            seeds: of each, by position.
            timeout: seconds after which one that does not answer has failed.
        """
        self._make_env, self._config, self._timeout = make_env, config, timeout
        self._envs: dict[int, gym.Env[Any, Any]] = {}
        self._replaced = False
        for error in self.replace(seeds).values():
            self.close()
            raise error

    @property
    def actions(self) -> ActionSpace:
        """See :class:`Environments`."""
        space: ActionSpace = self._any().get_wrapper_attr("actions")
        return space

    @property
    def episode_steps(self) -> int:
        """See :class:`Environments`."""
        return int(self._any().get_wrapper_attr("render_attributes")["episode_steps"])

    @property
    def terminates(self) -> bool:
        """See :class:`Environments`."""
        return bool(self._any().get_wrapper_attr("terminates"))

    @property
    def has_success(self) -> bool:
        """See :class:`Environments`."""
        return any(env.get_wrapper_attr("has_success") for env in self._envs.values())

    def replace(self, seeds: Mapping[int, int]) -> dict[int, Exception]:
        """See :class:`Environments`. The first ones may take their time: they load the simulator."""
        failures = {}
        for i, seed in seeds.items():
            self._close(i)
            try:
                with self._limit() if self._replaced else nullcontext():
                    self._envs[i] = self._make_env(self._config, seed)
            except Exception as error:
                failures[i] = error
        self._replaced |= bool(seeds)
        return failures

    def reset(self, seeds: Mapping[int, int]) -> dict[int, Step | Exception]:
        """See :class:`Environments`."""
        return {i: self._reset(i, seed) for i, seed in seeds.items()}

    def step(self, actions: Mapping[int, npt.NDArray[np.float32]]) -> dict[int, Step | Exception]:
        """See :class:`Environments`."""
        return {i: self._step(i, action) for i, action in actions.items()}

    def close(self) -> None:
        """Close all environments, broken ones included."""
        for i in list(self._envs):
            self._close(i)

    def _reset(self, i: int, seed: int) -> Step | Exception:
        try:
            with self._limit():
                observation, info = self._envs[i].reset(seed=seed)
            return Step(self._frame(observation), 0.0, False, False, bool(info["success"]), self._vector(observation))
        except Exception as error:  # the simulator's own, or an observation without image or success
            return error

    def _step(self, i: int, action: npt.NDArray[np.float32]) -> Step | Exception:
        try:
            with self._limit():
                observation, reward, terminated, truncated, info = self._envs[i].step(action)
            if not math.isfinite(reward):
                raise ValueError(f"the reward is {reward}")
            flags = bool(terminated), bool(truncated), bool(info["success"])
            return Step(self._frame(observation), float(reward), *flags, self._vector(observation))
        except Exception as error:
            return error

    def _frame(self, observation: Any) -> Frames:
        """Return the image of an observation; one without pixels where none are observed.

        Raises:
            DataError: another shape or type.
        """
        size = self._config.image_size
        image: Frames = observation["image"] if size else no_frames(1)[0]
        check_frames(image[np.newaxis], "image", size)
        return image

    def _vector(self, observation: Any) -> Vectors:
        """Return the vector of an observation, ``(V,)``.

        Raises:
            DataError: it has another shape, or is not finite.
        """
        size = self._config.vector_size
        vector: Vectors = np.asarray(observation["vector"] if size else (), np.float32)
        if vector.shape != (size,) or not np.isfinite(vector).all():
            raise DataError(f"the vector is {vector}, expected {size} finite numbers; check env.vector_key")
        return vector

    def _close(self, i: int) -> None:
        env = self._envs.pop(i, None)
        if env is not None:
            with suppress(Exception), self._limit():
                env.close()

    def _limit(self) -> AbstractContextManager[None]:
        return time_limit(self._timeout)

    def _any(self) -> gym.Env[Any, Any]:
        return next(iter(self._envs.values()))
