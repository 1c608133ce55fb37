"""The camera of a MuJoCo scene: one of its own, or one that is put anywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from prelar_ray.config import CameraPose
from prelar_ray.envs.rendering import import_simulator
from prelar_ray.errors import ConfigError

__all__ = ["camera_number", "hangs_upside_down", "place_camera", "recorded_camera"]


def camera_number(model: Any, camera: str, task: str) -> int:
    """Return the number of a camera given by number or name.

    Raises:
        ConfigError: the model has no such camera; lists those of ``task``.
    """
    names = [model.camera(number).name for number in range(model.ncam)]
    if camera in names:
        return names.index(camera)
    if camera.isdecimal() and int(camera) < len(names):
        return int(camera)
    known = ", ".join(f"{number} ({name})" for number, name in enumerate(names))
    raise ConfigError(f"env.camera={camera}: {task} has no such camera; it has {known}")


def place_camera(model: Any, camera: str | CameraPose, task: str) -> int:
    """Return the number of the camera; for a pose the first one of the ``mujoco.MjModel`` is put there.

    Raises:
        ConfigError: see :func:`camera_number`; or the model has no camera to move.
    """
    if isinstance(camera, str):
        return camera_number(model, camera, task)
    if not model.ncam:
        raise ConfigError(f"env.camera: {task} has no camera that could be moved; leave env.camera=default")
    mujoco = import_simulator("mujoco")
    model.cam_mode[0] = mujoco.mjtCamLight.mjCAMLIGHT_FIXED
    model.cam_bodyid[0], model.cam_targetbodyid[0] = 0, -1  # of the world, after nothing
    model.cam_pos[0], model.cam_quat[0] = camera.position, _orientation(mujoco, camera)
    model.cam_fovy[0] = camera.fov
    model.cam_sensorsize[0] = 0  # or its focal length would count instead
    return 0


def recorded_camera(camera: str | CameraPose) -> Any:
    """Return a camera as it is recorded with data."""
    return camera if isinstance(camera, str) else camera.model_dump(mode="json", exclude_none=True)


def hangs_upside_down(model: Any, camera: int) -> bool:
    """Return whether a camera's upward axis points down in the world."""
    return bool(model.cam_mat0[camera].reshape(3, 3)[2, 1] < 0)


def _orientation(mujoco: Any, camera: CameraPose) -> npt.NDArray[np.float64]:
    """Return the unit quaternion of a pose, ``(4,)``; a camera looks along its own negative z, with y at the top."""
    if camera.quaternion is not None:
        given = np.asarray(camera.quaternion)
        return np.asarray(given / np.linalg.norm(given))
    assert camera.look_at is not None  # a pose has one of both
    backwards = np.subtract(camera.position, camera.look_at)
    backwards /= np.linalg.norm(backwards)
    top = (0.0, 1.0, 0.0) if abs(backwards[2]) > 1 - 1e-6 else (0.0, 0.0, 1.0)  # straight down or up: y at the top
    right = np.cross(top, backwards)
    right /= np.linalg.norm(right)
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, np.stack([right, np.cross(backwards, right), backwards], axis=1).ravel())
    return quaternion
