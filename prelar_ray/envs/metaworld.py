"""Meta-World v3 by the protocol of the published results.

Every reset draws a new random goal from the environment's seed. Episodes are truncated after 500 steps; the reward is
``v2``; an episode succeeds if any of its steps does. The ``corner`` cameras hang upside down; their frames are flipped
by rows, as in the published runs, so that they are upright and mirrored.
"""

from __future__ import annotations

import pickle
import warnings
from importlib.metadata import version
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from prelar_ray.config import CameraPose
from prelar_ray.envs.cameras import hangs_upside_down, place_camera, recorded_camera
from prelar_ray.envs.family import check_task_name
from prelar_ray.envs.pixel_env import Action, Image, PixelEnv, RenderMode
from prelar_ray.envs.rendering import FrameRenderer, Quality, import_simulator
from prelar_ray.errors import ConfigError
from prelar_ray.types import IMAGE_SIZE

__all__ = ["MetaWorld", "task_names"]

EPISODE_STEPS: Final = 500
REWARD_VERSION: Final = "v2"
VECTORS: Final = {"": 0, "proprioception": 4, "observation": 39}
"""Numbers of each vector: the hand's position (3) and the gripper's opening; or all of Meta-World's own observation,
which has the positions of objects and goal too, and what it was a step before."""
MOVED: Final = "corner2-moved"
"""Camera corner2, nearer to the table: that of MWM's and NCRL's experiments."""
MOVED_TO: Final = (0.75, 0.075, 0.7)


class MetaWorld(PixelEnv):
    """One Meta-World v3 task, for example "reach-v3"; reward in [0, 10] per environment step.

    Args:
        task: name of the task.
        camera: name of a camera of the scene, ``corner`` being the published one; ``corner2-moved``, see
            :data:`MOVED`; or a pose.
        render_quality: see :func:`prelar_ray.envs.rendering.apply_quality`.
        action_repeat: environment steps per action.
        seed: seed of the stream of goals.
        render_mode, image_size: see :class:`PixelEnv`.
        vector_key: one of :data:`VECTORS`.

    Raises:
        ConfigError: unknown task, camera or vector.
        RenderingError: headless rendering does not work.
    """

    def __init__(
        self,
        task: str = "reach-v3",
        camera: str | CameraPose = "corner",
        render_quality: Quality = "full",
        action_repeat: int = 1,
        seed: int | None = None,
        render_mode: RenderMode = None,
        vector_key: str = "",
        image_size: int = IMAGE_SIZE,
    ) -> None:
        check_task_name("task", task, task_names())
        if vector_key not in VECTORS:
            known = ", ".join(filter(None, VECTORS))
            raise ConfigError(f"env.vector_key={vector_key}: metaworld/{task} has no such vector; it has {known}")
        super().__init__(4, EPISODE_STEPS, action_repeat, seed, render_mode, VECTORS[vector_key], image_size)
        self._mujoco = import_simulator("mujoco")
        self._simulator = _build_simulator(task)
        self._expert = import_simulator("metaworld.policies").ENV_POLICY_MAP[task]()
        self._state = np.zeros(0)  # Meta-World's own observation, with the goal
        self._camera = camera
        self._quality = render_quality
        model = self._simulator.model
        number = place_camera(model, "corner2" if camera == MOVED else camera, f"metaworld/{task}")
        if camera == MOVED:
            model.cam_pos[number] = MOVED_TO
        self._flipped = isinstance(camera, str) and camera.startswith("corner") and hangs_upside_down(model, number)
        data = self._simulator.data
        self._renderer = FrameRenderer(model, data, number, render_quality, self._flipped, image_size)

    @property
    def render_attributes(self) -> dict[str, Any]:
        """Simulator, versions, camera, orientation, quality and protocol."""
        return {
            "simulator": "metaworld",
            "versions": {name: version(name) for name in ("metaworld", "mujoco")},
            "camera": recorded_camera(self._camera),
            "orientation": "rows flipped" if self._flipped else "as rendered",
            "render_quality": self._quality,
            "reward_version": REWARD_VERSION,
            "action_repeat": self._action_repeat,
            "episode_steps": EPISODE_STEPS,
        }

    def expert_action(self) -> Action:
        """Return the action ``(4,)`` of Meta-World's scripted policy."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the policies warn of actions beyond [-1, 1]; they are clipped here
            action = self._expert.get_action(self._state)
        return np.asarray(np.clip(action, -1.0, 1.0), dtype=np.float32)

    def close(self) -> None:
        """Free the renderer."""
        self._renderer.close()

    def _begin(self) -> None:
        self._simulator.np_random = self.np_random
        self._state, _ = self._simulator.reset()
        # Meta-World moves goal and objects after its last forward pass. Without these calls the first frame of an
        # episode shows some of them at earlier positions, and they jump at the first step.
        self._mujoco.mj_kinematics(self._simulator.model, self._simulator.data)
        self._mujoco.mj_camlight(self._simulator.model, self._simulator.data)

    def _advance(self, action: Action) -> tuple[float, bool, bool]:
        self._state, reward, _, _, info = self._simulator.step(action)
        return float(reward), bool(info["success"]), False

    def _vector(self) -> npt.NDArray[Any]:
        return self._state[: self.vector_size]

    def _draw(self) -> Image:
        return self._renderer.draw()


def task_names() -> list[str]:
    """Return the names of the 50 tasks.

    Raises:
        RenderingError: Meta-World cannot be loaded.
    """
    return list(import_simulator("metaworld").ALL_V3_ENVIRONMENTS)


def _build_simulator(task: str) -> Any:
    """Return Meta-World's own environment, whose goal is visible to the expert and redrawn at each reset."""
    metaworld = import_simulator("metaworld")
    kind = metaworld.ALL_V3_ENVIRONMENTS[task]
    simulator = kind(reward_function_version=REWARD_VERSION)
    settings = {"env_cls": kind, "rand_vec": None, "partially_observable": False}
    simulator.set_task(metaworld.Task(task, pickle.dumps(settings)))
    # After set_task, which freezes the goal; `seeded_rand_vec` draws from the simulator's generator, not NumPy's own.
    simulator._freeze_rand_vec = False
    simulator.seeded_rand_vec = True
    return simulator
