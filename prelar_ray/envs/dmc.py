"""DeepMind Control: the suite's tasks as images, actions scaled to [-1, 1]."""

from __future__ import annotations

from importlib.metadata import version
from types import ModuleType
from typing import Any, ClassVar, Final

import numpy as np

from prelar_ray.config import CameraPose
from prelar_ray.envs.cameras import place_camera, recorded_camera
from prelar_ray.envs.family import check_task_name
from prelar_ray.envs.pixel_env import Action, Image, PixelEnv, RenderMode
from prelar_ray.envs.rendering import FrameRenderer, Quality, import_simulator

__all__ = ["DeepMindControl", "task_names"]

EPISODE_STEPS: Final = 1000
"""Length of every episode, environment steps; equal to the suite's time limits."""


class DeepMindControl(PixelEnv):
    """One task of the suite, for example "walker-walk"; reward in [0, 1] per environment step, no success flag.

    Args:
        task: DOMAIN-TASK.
        camera: number or name of a camera of the domain, or a pose.
        render_quality: see :func:`prelar_ray.envs.rendering.apply_quality`.
        action_repeat: environment steps per action.
        seed: seed of the stream of episodes.
        render_mode: see :class:`PixelEnv`.

    Raises:
        ConfigError: unknown task or camera.
        RenderingError: headless rendering does not work.
    """

    has_expert: ClassVar[bool] = False
    has_success = False

    def __init__(
        self,
        task: str = "walker-walk",
        camera: str | CameraPose = "0",
        render_quality: Quality = "full",
        action_repeat: int = 1,
        seed: int | None = None,
        render_mode: RenderMode = None,
    ) -> None:
        check_task_name("task", task, task_names())
        self._environment = _suite().load(*task.split("-", 1))
        bounds = self._environment.action_spec()
        super().__init__(bounds.shape[0], EPISODE_STEPS, action_repeat, seed, render_mode)
        self._low, self._high = bounds.minimum, bounds.maximum  # (A,)
        physics = self._environment.physics
        self._camera = camera
        self._quality = render_quality
        number = place_camera(physics.model.ptr, camera, f"dmc/{task}")
        self._renderer = FrameRenderer(physics.model.ptr, physics.data.ptr, number, render_quality)

    @property
    def render_attributes(self) -> dict[str, Any]:
        """Simulator, versions, camera, quality and protocol."""
        return {
            "simulator": "dm_control",
            "versions": {name: version(name) for name in ("dm_control", "mujoco")},
            "camera": recorded_camera(self._camera),
            "orientation": "upright",
            "render_quality": self._quality,
            "reward_version": "suite",
            "action_repeat": self._action_repeat,
            "episode_steps": EPISODE_STEPS,
        }

    def close(self) -> None:
        """Free the renderer."""
        self._renderer.close()

    def _begin(self) -> None:
        # The suite has its own generator; seeding it per episode ties it to this environment's stream.
        self._environment.task.random.seed(self.np_random.integers(2**32, size=4, dtype=np.uint32))
        self._environment.reset()

    def _advance(self, action: Action) -> tuple[float, bool, bool]:
        step = self._environment.step(self._low + (action + 1.0) / 2.0 * (self._high - self._low))
        return float(step.reward), False, bool(step.last() and step.discount == 0.0)

    def _draw(self) -> Image:
        return self._renderer.draw()


def task_names() -> list[str]:
    """Return all DOMAIN-TASK names; without lqr, whose actions have no bounds and whose episodes no end.

    Raises:
        RenderingError: the suite cannot be loaded.
    """
    return [f"{domain}-{task}" for domain, task in _suite().ALL_TASKS if domain != "lqr"]


def _suite() -> ModuleType:
    if not hasattr(np, "in1d"):  # removed in NumPy 2.4, still called by the quadruped tasks of dm_control 1.0.28
        np.in1d = np.isin  # type: ignore[attr-defined]  # noqa: NPY201
    return import_simulator("dm_control.suite")
