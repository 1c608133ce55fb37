"""Point-reach: a spot must reach a randomly placed target; drawn with NumPy at thousands of steps per second."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from prelar_ray.envs.pixel_env import Action, Image, PixelEnv, RenderMode
from prelar_ray.types import IMAGE_SIZE

__all__ = ["PointReach"]

EPISODE_STEPS: Final = 100
SPEED: Final = 0.1
"""Largest movement per step and axis; the arena is [-1, 1] x [-1, 1]."""
SUCCESS_RADIUS: Final = 0.15
REWARD_RADIUS: Final = 0.5
"""Distance at which the reward has fallen to half."""
SMALLEST_START_DISTANCE: Final = 0.5

# Mid-grey is zero to a network, and wide soft edges let a small model learn to encode and decode in few updates.
# At a width of 6 it draws an empty scene, then only one of the two spots, for a thousand updates; see docs/results.
BACKGROUND: Final = 128.0
TARGET_COLOUR: Final = np.array((-110.0, 110.0, -110.0))  # added to the background: green
EFFECTOR_COLOUR: Final = np.array((110.0, -110.0, -110.0))  # red
WIDTH: Final = 10.0  # standard deviation of both spots, pixels at 64x64; larger frames show the same with more of them
PIXELS_PER_UNIT: Final = (IMAGE_SIZE - 1) / 2 - WIDTH


class PointReach(PixelEnv):
    """A spot moved by velocity ``(x, y)`` must reach the target.

    Reward in (0, 10] per environment step, ``10 / (1 + (distance / 0.5)^2)``; success within 0.15 of the target. Both
    positions are uniform over the arena, at least 0.5 apart at the start.
    """

    def __init__(
        self,
        action_repeat: int = 1,
        seed: int | None = None,
        render_mode: RenderMode = None,
        image_size: int = IMAGE_SIZE,
    ) -> None:
        super().__init__(2, EPISODE_STEPS, action_repeat, seed, render_mode, image_size=image_size)
        self._effector = np.zeros(2)  # (x, y), y upwards
        self._target = np.zeros(2)

    @property
    def render_attributes(self) -> dict[str, Any]:
        """Versions and protocol."""
        return {
            "simulator": "point-reach",
            "versions": {"numpy": version("numpy")},
            "orientation": "upright",
            "reward_version": "v0",
            "action_repeat": self._action_repeat,
            "episode_steps": EPISODE_STEPS,
        }

    def expert_action(self) -> Action:
        """Return the velocity straight to the target, ``(2,)``."""
        return np.clip((self._target - self._effector) / SPEED, -1.0, 1.0).astype(np.float32)

    def get_state(self) -> dict[str, Any]:
        """Return the state from which :meth:`set_state` continues bit for bit; JSON-serialisable."""
        return {
            "effector": self._effector.tolist(),
            "target": self._target.tolist(),
            "elapsed": self._elapsed,
            "running": self._running,
            "generator": self.np_random.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state of :meth:`get_state`."""
        self._effector = np.array(state["effector"])
        self._target = np.array(state["target"])
        self._elapsed = state["elapsed"]
        self._running = state["running"]
        self.np_random.bit_generator.state = state["generator"]

    def _begin(self) -> None:
        self._effector = self._target = self.np_random.uniform(-1.0, 1.0, 2)
        while self._distance() < SMALLEST_START_DISTANCE:
            self._effector = self.np_random.uniform(-1.0, 1.0, 2)

    def _advance(self, action: Action) -> tuple[float, bool, bool]:
        self._effector = np.clip(self._effector + SPEED * action, -1.0, 1.0)
        distance = self._distance()
        return 10.0 / (1.0 + (distance / REWARD_RADIUS) ** 2), distance < SUCCESS_RADIUS, False

    def _distance(self) -> float:
        return float(np.linalg.norm(self._effector - self._target))

    def _draw(self) -> Image:
        target, effector = (_spot(position, self.image_size) for position in (self._target, self._effector))
        image = BACKGROUND + target * TARGET_COLOUR + effector * EFFECTOR_COLOUR
        frame: Image = np.nan_to_num(image, nan=BACKGROUND).clip(0, 255).astype(np.uint8)
        return frame


def _spot(position: npt.NDArray[np.float64], image_size: int) -> npt.NDArray[np.float64]:
    """Return the brightness of a round spot, from 0 to 1, ``(Hpx, Wpx, 1)``."""
    scale, centre, pixels = image_size / IMAGE_SIZE, (image_size - 1) / 2, np.arange(image_size)
    along, width = scale * PIXELS_PER_UNIT * position, scale * WIDTH
    columns = np.exp(-0.5 * ((pixels - (centre + along[0])) / width) ** 2)
    rows = np.exp(-0.5 * ((pixels - (centre - along[1])) / width) ** 2)
    spot: npt.NDArray[np.float64] = np.outer(rows, columns)[..., None]
    return spot
