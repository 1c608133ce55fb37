"""DeepMind Control: the suite's tasks as images, actions scaled to [-1, 1]."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.metadata import version
from types import ModuleType
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from prelar_ray.config import CameraPose
from prelar_ray.envs.cameras import place_camera, recorded_camera
from prelar_ray.envs.family import check_task_name
from prelar_ray.envs.pixel_env import Action, Image, PixelEnv, RenderMode
from prelar_ray.envs.rendering import FrameRenderer, Quality, import_simulator
from prelar_ray.errors import ConfigError
from prelar_ray.types import IMAGE_SIZE

__all__ = ["DeepMindControl", "task_names"]

EVERYTHING: Final = "observation"
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
        render_mode, image_size: see :class:`PixelEnv`.
        vector_key: one of the suite's observations, or ``observation`` for all of them, in the suite's order.

    Raises:
        ConfigError: unknown task, camera or observation.
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
        vector_key: str = "",
        image_size: int = IMAGE_SIZE,
    ) -> None:
        check_task_name("task", task, task_names())
        self._environment = _suite().load(*task.split("-", 1))
        bounds = self._environment.action_spec()
        shapes = {key: spec.shape for key, spec in self._environment.observation_spec().items()}
        if vector_key not in ("", EVERYTHING, *shapes):
            known = ", ".join([*shapes, EVERYTHING])
            raise ConfigError(f"env.vector_key={vector_key}: dmc/{task} has no such observation; it has {known}")
        self._vector_keys = list(shapes) if vector_key == EVERYTHING else [key for key in shapes if key == vector_key]
        size = sum(math.prod(shapes[key]) for key in self._vector_keys)
        self._seen: Mapping[str, Any] = {}  # the suite's own observations
        super().__init__(bounds.shape[0], EPISODE_STEPS, action_repeat, seed, render_mode, size, image_size)
        self._low, self._high = bounds.minimum, bounds.maximum  # (A,)
        physics = self._environment.physics
        self._camera = camera
        self._quality = render_quality
        number = place_camera(physics.model.ptr, camera, f"dmc/{task}")
        model, data = physics.model.ptr, physics.data.ptr
        self._renderer = FrameRenderer(model, data, number, render_quality, image_size=image_size)

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
        self._seen = self._environment.reset().observation

    def _advance(self, action: Action) -> tuple[float, bool, bool]:
        step = self._environment.step(self._low + (action + 1.0) / 2.0 * (self._high - self._low))
        self._seen = step.observation
        return float(step.reward), False, bool(step.last() and step.discount == 0.0)

    def _vector(self) -> npt.NDArray[Any]:
        return np.concatenate([np.ravel(self._seen[key]) for key in self._vector_keys])

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
