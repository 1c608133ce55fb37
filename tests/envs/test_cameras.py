"""Cameras that are put anywhere: what they look at is in the middle, the right way up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from prelar_ray.config import CameraPose, EnvConfig
from prelar_ray.envs import make_env
from prelar_ray.envs.cameras import place_camera
from prelar_ray.envs.rendering import FrameRenderer, import_simulator
from prelar_ray.errors import ConfigError

pytestmark = pytest.mark.render

BALLS = """
<mujoco>
  <worldbody>
    <light pos="0 0 5"/>
    <geom type="sphere" size="0.1" pos="1 2 0.5" rgba="1 0 0 1"/>
    <geom type="sphere" size="0.1" pos="1 2 0.9" rgba="0 1 0 1"/>
    <body><joint type="free"/><geom size="0.1" pos="9 9 9"/><camera name="own" mode="track" fovy="80"/></body>
  </worldbody>
</mujoco>
"""


def scene(xml: str = BALLS) -> tuple[Any, Any]:
    mujoco = import_simulator("mujoco")
    model = mujoco.MjModel.from_xml_string(xml)
    return model, mujoco.MjData(model)


def middles(pose: CameraPose) -> np.ndarray:
    """Row and column of the middle of the red and of the green ball, ``(2, 2)``."""
    mujoco = import_simulator("mujoco")
    model, data = scene()
    number = place_camera(model, pose, "balls")
    mujoco.mj_forward(model, data)
    renderer = FrameRenderer(model, data, number, "fast")
    red, green, _ = np.moveaxis(renderer.draw().astype(int), -1, 0)
    renderer.close()
    return np.array([np.argwhere(mask).mean(axis=0) for mask in (red > green + 50, green > red + 50)])


@pytest.mark.parametrize("position", [(3.0, 2.0, 0.5), (1.0, -1.0, 1.5), (-1.0, 4.0, 0.2)])
def test_what_a_camera_looks_at_is_in_the_middle_and_upright(position: Any) -> None:
    red, green = middles(CameraPose(position=position, look_at=(1, 2, 0.5)))
    np.testing.assert_allclose(red, 31.5, atol=1)
    assert green[0] < red[0] - 3
    assert green[1] == pytest.approx(red[1], abs=1)


def test_a_wider_field_of_view_makes_things_smaller() -> None:
    near, wide = (middles(CameraPose(position=(3, 2, 0.5), look_at=(1, 2, 0.5), fov=fov)) for fov in (30, 60))
    assert near[0, 0] - near[1, 0] > 1.5 * (wide[0, 0] - wide[1, 0])


def test_a_quaternion_turns_a_camera_that_looks_down() -> None:
    down = middles(CameraPose(position=(1, 1.8, 3), quaternion=(2, 0, 0, 0)))  # of any length
    assert down[1, 0] < 31  # y is at the top
    level = middles(CameraPose(position=(1, 0, 0.5), quaternion=(0.5**0.5, 0.5**0.5, 0, 0)))  # turned about x: along y
    np.testing.assert_allclose(level, middles(CameraPose(position=(1, 0, 0.5), look_at=(1, 2, 0.5))))


def test_a_scene_without_a_camera_is_refused() -> None:
    model, _ = scene("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
    with pytest.raises(ConfigError, match=r"env\.camera: balls has no camera that could be moved"):
        place_camera(model, CameraPose(position=(1, 1, 1), look_at=(0, 0, 0)), "balls")


def test_the_camera_of_mwm_is_corner2_moved() -> None:
    def first(camera: Any) -> tuple[np.ndarray, dict[str, Any]]:
        env = make_env(EnvConfig(task="metaworld/reach-v3", camera=camera, render_quality="fast"), 0)
        frame = env.reset()[0]["image"]
        env.close()
        return frame, env.render_attributes

    moved, attributes = first("corner2-moved")
    assert (attributes["camera"], attributes["orientation"]) == ("corner2-moved", "rows flipped")
    model = make_env(EnvConfig(task="metaworld/reach-v3", camera="corner2-moved"), 0)._simulator.model  # type: ignore[attr-defined]
    number = [model.camera(i).name for i in range(model.ncam)].index("corner2")
    np.testing.assert_array_equal(model.cam_pos[number], (0.75, 0.075, 0.7))
    pose = {
        "position": [0.75, 0.075, 0.7],
        "quaternion": model.cam_quat[number].tolist(),
        "fov": model.cam_fovy[number],
    }
    as_rendered, attributes = first(pose)
    np.testing.assert_array_equal(moved, as_rendered[::-1])
    assert (attributes["camera"], attributes["orientation"]) == (pose, "as rendered")


def test_a_task_without_cameras_refuses_a_pose() -> None:
    pose = CameraPose(position=(1, 1, 1), look_at=(0, 0, 0))
    for task in ("prelar/point-reach", "gym/tests.envs.own_world:Track-v0"):
        with pytest.raises(ConfigError, match=r"^env\.camera=position"):
            make_env(EnvConfig(task=task, camera=pose), 0)
