"""Action spaces of gymnasium, as an agent sees them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from prelar_ray.action_space import ActionSpace
from prelar_ray.envs.pixel_env import Action
from prelar_ray.errors import ConfigError

__all__ = ["GymActions", "gym_actions"]


class GymActions(Protocol):
    """From an agent's actions to those of an environment."""

    space: ActionSpace
    """What the agent sees."""

    def __call__(self, action: Action) -> Any:
        """Return what the environment takes for an action ``(A,)``."""


class BoxActions:
    """Numbers between bounds, scaled to [-1, 1] and flat."""

    def __init__(self, box: spaces.Box) -> None:
        self._box = box
        self._low, self._high = (bound.ravel().astype(np.float64) for bound in (box.low, box.high))  # (A,)
        self.space = ActionSpace.continuous(len(self._low))

    def __call__(self, action: Action) -> npt.NDArray[Any]:
        """See :class:`GymActions`."""
        scaled = self._low + (action.astype(np.float64) + 1.0) / 2.0 * (self._high - self._low)
        given: npt.NDArray[Any] = np.clip(scaled, self._low, self._high).reshape(self._box.shape)
        return given.astype(self._box.dtype)


class DiscreteActions:
    """A choice among integers."""

    def __init__(self, discrete: spaces.Discrete[Any]) -> None:
        self._start = int(discrete.start)
        self.space = ActionSpace.discrete(int(discrete.n))

    def __call__(self, action: Action) -> int:
        """See :class:`GymActions`."""
        return self._start + int(self.space.indices(action)[0])


class MultiDiscreteActions:
    """Several choices among integers at once, an array of any shape."""

    def __init__(self, discrete: spaces.MultiDiscrete) -> None:
        self._discrete = discrete
        self.space = ActionSpace.discrete(*(int(choices) for choices in discrete.nvec.ravel()))

    def __call__(self, action: Action) -> npt.NDArray[Any]:
        """See :class:`GymActions`."""
        chosen: npt.NDArray[Any] = self._discrete.start + self.space.indices(action).reshape(self._discrete.shape)
        return chosen.astype(self._discrete.dtype)


def gym_actions(name: str, space: spaces.Space[Any]) -> GymActions:
    """Return what an agent sees of an action space.

    Args:
        name: of the environment, for messages.
        space: of the environment.

    Raises:
        ConfigError: a Box without bounds, or a space of another kind.
    """
    if isinstance(space, spaces.Discrete):
        return DiscreteActions(space)
    if isinstance(space, spaces.MultiDiscrete):
        return MultiDiscreteActions(space)
    if not isinstance(space, spaces.Box):
        raise ConfigError(
            f"env.task={name}: its actions are {space}; only a Box with bounds, Discrete and MultiDiscrete can be "
            "learnt; wrap it with gymnasium.wrappers.TransformAction, as in docs/environments.md"
        )
    finite = np.isfinite(space.low.ravel()) & np.isfinite(space.high.ravel())
    if not finite.all() or not len(finite):
        endless = ", ".join(map(str, np.flatnonzero(~finite)))
        raise ConfigError(
            f"env.task={name}: its actions are {space}, numbers {endless} without bounds; give its action_space "
            "bounds, or wrap it with gymnasium.wrappers.TransformAction, as in docs/environments.md"
        )
    return BoxActions(space)
