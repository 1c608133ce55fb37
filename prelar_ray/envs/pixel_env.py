"""Base class of all environments: observations, action repeat, truncation, and error messages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from prelar_ray.action_space import ActionSpace
from prelar_ray.envs.leaving import refusing_to_leave
from prelar_ray.errors import DataError, EnvironmentFailure
from prelar_ray.types import IMAGE_SIZE

__all__ = ["Action", "Image", "Observation", "PixelEnv", "RenderMode"]

Action = npt.NDArray[np.float32]
"""Action, float32 ``(A,)`` in [-1, 1]; choices are one-hot vectors (:class:`~prelar_ray.action_space.ActionSpace`)."""
Image = npt.NDArray[np.uint8]
"""One frame, uint8 ``(Hpx, Wpx, C)``."""
Observation = dict[str, npt.NDArray[Any]]
"""``{"image": Image}``, with ``"vector"``, float32 ``(V,)``, where there is one; it may be alone."""
RenderMode = Literal["rgb_array"] | None


class PixelEnv(gymnasium.Env[Observation, Action], ABC):
    """One task seen through a camera.

    Observation ``{"image": uint8 (Hpx, Wpx, 3)}``, actions float32 ``(A,)`` in [-1, 1], ``info["success"]`` a bool at
    every step and reset. All randomness comes from the seed: equal seeds give equal streams of episodes, and
    ``reset(seed=...)`` starts a new stream. The end of time truncates an episode and never terminates it.

    Args:
        actions: what may be done; a number stands for so many continuous ones.
        episode_steps: length of an episode, environment steps.
        action_repeat: environment steps per action; rewards are summed, any success counts.
        seed: seed of the stream of episodes; None draws one from the operating system.
        render_mode: what :meth:`render` returns; the observation holds the same image.
        vector_size: numbers V in the vector; 0 for none.
        image_size: height and width of frames, pixels; 0 for none: then nothing is drawn.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 gymnasium's own type
    has_expert: ClassVar[bool] = True
    """Whether :meth:`expert_action` works."""
    has_success: bool = True
    """Whether ``info["success"]`` says anything; else it is always False, and results are returns alone."""
    terminates: bool = False
    """Whether an episode can end before its time for what happens in it; its discount is then learnt."""
    image_source: str = ""
    """Where images come from, in words; empty where there is no question."""
    wrapped: gymnasium.Env[Any, Any] | None = None
    """An environment of gymnasium's that this one shows; None where there is none."""

    def __init__(
        self,
        actions: ActionSpace | int,
        episode_steps: int,
        action_repeat: int,
        seed: int | None,
        render_mode: RenderMode,
        vector_size: int = 0,
        image_size: int = IMAGE_SIZE,
    ) -> None:
        observed: dict[str, spaces.Space[Any]] = {}
        if image_size:
            observed["image"] = spaces.Box(0, 255, shape=(image_size, image_size, 3), dtype=np.uint8)
        if vector_size:
            observed["vector"] = spaces.Box(-np.inf, np.inf, shape=(vector_size,), dtype=np.float32)
        self.observation_space = spaces.Dict(observed)
        self.vector_size, self.image_size = vector_size, image_size
        self.actions = ActionSpace.of(actions)
        self.action_space = spaces.Box(-1.0, 1.0, shape=(self.actions.size,), dtype=np.float32)
        self.render_mode = render_mode
        self._episode_steps = episode_steps
        self._action_repeat = action_repeat
        self._elapsed = 0  # environment steps of this episode
        self._running = False
        super().reset(seed=seed)

    @property
    @abstractmethod
    def render_attributes(self) -> dict[str, Any]:
        """Origin of the images and rewards, recorded with all data; JSON-serialisable."""

    @abstractmethod
    def _begin(self) -> None:
        """Start an episode; all randomness comes from ``self.np_random``."""

    @abstractmethod
    def _advance(self, action: Action) -> tuple[float, bool, bool]:
        """Do one environment step and return reward, success, terminated."""

    @abstractmethod
    def _draw(self) -> Image:
        """Return the present frame."""

    def _vector(self) -> npt.NDArray[Any]:
        """Return the present vector, of V numbers in any shape; asked for where V is not 0."""
        raise NotImplementedError(f"{type(self).__name__} has a vector_size, but no _vector()")

    def _observe(self) -> Observation:
        observation: Observation = {}
        if self.image_size:
            observation["image"] = self._draw()
        if self.vector_size:
            observation["vector"] = np.asarray(self._vector(), np.float32).ravel()
        return observation

    def expert_action(self) -> Action:
        """Return the scripted expert's action ``(A,)`` in the present state.

        Raises:
            DataError: this environment has no scripted expert.
        """
        raise DataError(f"{type(self).__name__} has no scripted expert; use record.policy=random")

    def nuisance(self) -> npt.NDArray[np.float64] | None:
        """Return where that is which moves by itself, ``(D,)``, whatever the actions; None where nothing does."""
        return None

    @refusing_to_leave()
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start the next episode of the stream, or the first one of a new stream where a seed is given.

        Raises:
            EnvironmentFailure: the environment left with ``sys.exit``.
        """
        super().reset(seed=seed)
        self._elapsed = 0
        self._running = True
        self._begin()
        return self._observe(), {"success": False}

    @refusing_to_leave()
    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Do ``action_repeat`` environment steps, fewer where the episode ends.

        Raises:
            EnvironmentFailure: the episode has ended or never began, the action has another shape, or the environment
                left with ``sys.exit``.
        """
        if not self._running:
            raise EnvironmentFailure(f"{type(self).__name__}: step() outside an episode; call reset() first")
        if np.shape(action) != self.action_space.shape:
            raise EnvironmentFailure(
                f"{type(self).__name__}: the action has shape {np.shape(action)}, expected {self.action_space.shape}"
            )
        action = np.clip(action, -1.0, 1.0)
        total, succeeded = 0.0, False
        for _ in range(self._action_repeat):
            reward, success, terminated = self._advance(action)
            total += reward
            succeeded |= success
            self._elapsed += 1
            timed_out = self._times_out()
            if terminated or timed_out:
                self._running = False
                break
        return self._observe(), total, terminated, timed_out and not terminated, {"success": succeeded}

    def _times_out(self) -> bool:
        """Whether the episode ends for its length."""
        return self._elapsed >= self._episode_steps

    def close(self) -> None:
        """Free the environment's resources."""

    def render(self) -> Image:  # type: ignore[override]  # one mode only
        """Return the present frame."""
        return self._draw()
