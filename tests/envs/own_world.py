"""Environments of somebody who knows nothing of this package, registered as gymnasium has it."""

from __future__ import annotations

import os
import signal
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformAction


class Track(gymnasium.Env[Any, Any]):
    """A dot on a line goes where the action says; the goal is its right end, and off the left end it is lost."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        render_mode: str | None = None,
        observation: str = "vector",
        actions: str = "box",
        size: tuple[int, int] = (48, 96),
        success: str = "success",
    ) -> None:
        self.render_mode, self._kind, self._size, self._success = render_mode, observation, size, success
        image = spaces.Box(0, 255, (*size, 3), np.uint8)
        vector = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.observation_space = {
            "vector": vector,
            "image": image,
            "float": spaces.Box(0, 1, (*size, 3), np.float32),
            "dict": spaces.Dict({"pixels": image, "state": vector}),
            "two": spaces.Dict({"left": image, "right": image}),
        }[observation]
        self.action_space = {
            "box": spaces.Box(np.array([[-2.0, 0.0]], np.float32), np.array([[2.0, 10.0]], np.float32)),
            "endless": spaces.Box(-np.inf, np.inf, (2,), np.float32),
            "dict": spaces.Dict({"way": spaces.Box(-2.0, 2.0, (1, 2), np.float32)}),
            "tuple": spaces.Tuple((vector, vector)),
            "discrete": spaces.Discrete(3, start=-1),
            "several": spaces.MultiDiscrete([[3], [2]], start=[[-1], [1]]),
        }[actions]
        self._actions = actions
        self._place, self.steps = 0.0, 0
        self.taken: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        self._place = float(self.np_random.uniform(-1, -0.5))
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.taken.append(action)
        self.steps += 1
        self._place += 0.1 * self._speed(action)
        there = self._place >= 1
        info = {self._success: there} if self._success else {}
        return self._observe(), self._place, self._place <= -2, False, info

    def _speed(self, action: Any) -> float:
        if self._actions == "discrete":
            return 2.0 * int(action)  # left, none or right
        if self._actions == "dict":
            return float(action["way"][0, 0])
        if self._actions == "several":
            return float(action[0, 0] * action[1, 0])  # direction, and how fast
        return float(action[0, 0])

    def render(self) -> Any:
        return self._draw()

    def _observe(self) -> Any:
        image, vector = self._draw(), np.array([self._place], np.float32)
        return {
            "vector": vector,
            "image": image,
            "float": (image / 255).astype(np.float32),
            "dict": {"pixels": image, "state": vector},
            "two": {"left": image, "right": image},
        }[self._kind]

    def _draw(self) -> Any:
        image = np.full((*self._size, 3), 30, np.uint8)
        column = int(np.clip((self._place + 2) / 4, 0, 0.99) * self._size[1])
        image[:, column] = 250
        return image


class Blind(Track):
    """The line of :class:`Track` as its place alone; nothing can be drawn of it."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, actions: str = "box") -> None:
        super().__init__(None, "vector", actions)

    def _observe(self) -> Any:
        return np.array([self._place], np.float32)

    def _draw(self) -> Any:
        raise AssertionError("drawn")


def flattened() -> gymnasium.Env[Any, Any]:
    """The line of :class:`Track` with its Dict of actions as one Box, as docs/environments.md has it."""
    env = Track("rgb_array", "image", "dict")
    flat = spaces.flatten_space(env.action_space)
    return TransformAction(env, lambda action: spaces.unflatten(env.action_space, action), flat)


class Broken(Track):
    """One whose constructor needs a file."""

    def __init__(self, render_mode: str | None = None) -> None:
        raise FileNotFoundError("/data/robot.urdf")


class Forgetful(Track):
    """One that takes a render_mode and does not keep it."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()


class Crashing(Track):
    """One whose native code crashes at the third step."""

    def step(self, action: Any) -> Any:
        if self.steps == 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().step(action)


gymnasium.register("Crashing-v0", entry_point=Crashing, max_episode_steps=30)
gymnasium.register("Flattened-v0", entry_point=flattened, max_episode_steps=30)
gymnasium.register("Broken-v0", entry_point=Broken, max_episode_steps=30)
gymnasium.register("Forgetful-v0", entry_point=Forgetful, max_episode_steps=30)
gymnasium.register("Blind-v0", entry_point=Blind, max_episode_steps=30)
gymnasium.register("Track-v0", entry_point=Track, max_episode_steps=30)
gymnasium.register("Endless-v0", entry_point=Track)
