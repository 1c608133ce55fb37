"""A check of off-screen rendering: which device draws, how fast, and whether pictures are upright."""

from __future__ import annotations

import importlib
import json
import time
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from prelar_ray.config import EnvConfig
from prelar_ray.envs.cameras import hangs_upside_down
from prelar_ray.envs.egl_devices import chosen_device, drawing_device, egl_devices
from prelar_ray.envs.opengl import INSTALL_ADVICE, configure_gl, run_child
from prelar_ray.envs.registry import make_env
from prelar_ray.envs.rendering import FrameRenderer, Quality, import_simulator, open_context
from prelar_ray.errors import RenderingError
from prelar_ray.extras import without
from prelar_ray.types import IMAGE_SIZE

__all__ = ["RenderingReport", "check_rendering", "draws_upright", "rendering_report"]


@dataclass(frozen=True)
class RenderingReport:
    """Result of :func:`check_rendering`."""

    backend: str
    """Value of MUJOCO_GL, for example egl."""
    device: str
    """OpenGL's name of the device that draws; "llvmpipe" is the CPU."""
    frames_per_second: float
    """Frames of Meta-World's reach-v3 in a second, one process."""
    upright: bool
    """Whether frames of both upright and upside-down cameras are upright."""
    egl_device: int | None = None
    """Position in EGL's list of the device that draws; None without EGL, or if it does not tell."""
    cuda: int | None = None
    """CUDA number of that device in this process; None if it has none."""
    chosen: int | None = None
    """Position in EGL's list of the device that shall draw; None where the first that works shall."""

    @property
    def on_cpu(self) -> bool:
        """Whether no GPU draws."""
        return self.device.lower().startswith(("llvmpipe", "softpipe"))

    @property
    def on_other_device(self) -> bool:
        """Whether another device draws than shall; so it is where the CPU does although a GPU shall."""
        return self.egl_device is not None and self.chosen is not None and self.egl_device != self.chosen


def check_rendering(quality: Quality = "full", image_size: int = IMAGE_SIZE, timeout: float = 120.0) -> RenderingReport:
    """Draw known scenes in a child process and report device, speed and orientation.

    Raises:
        RenderingError: rendering fails, or takes longer than ``timeout`` seconds; says what to install or set.
    """
    code = (
        "import dataclasses, json; from prelar_ray.envs import rendering_check; "
        f"print(json.dumps(dataclasses.asdict(rendering_check.rendering_report({quality!r}, {image_size}))))"
    )
    backend = configure_gl()
    try:
        output = run_child(code, backend, timeout)
    except RenderingError as error:
        raise RenderingError(f"{error}; {INSTALL_ADVICE}") from error
    return RenderingReport(**json.loads(output.splitlines()[-1]))


def rendering_report(quality: Quality, image_size: int) -> RenderingReport:
    """Draw known scenes in this process.

    Raises:
        RenderingError: rendering fails.
    """
    backend = configure_gl()
    upright = draws_upright()
    context = open_context()
    try:
        opengl = importlib.import_module("OpenGL.GL")
        name = str(opengl.glGetString(opengl.GL_RENDERER).decode())
    finally:
        context.free()
    report = RenderingReport(backend, name, _frames_per_second(quality, image_size), upright)
    if backend != "egl":
        return report
    drawing = drawing_device()
    cuda = None if drawing is None else egl_devices()[drawing].cuda
    return replace(report, egl_device=drawing, cuda=cuda, chosen=chosen_device())


def _frames_per_second(quality: Quality, image_size: int, frames: int = 20) -> float:
    """Return how many frames of a task are drawn in a second: of Meta-World, or of DeepMind Control without it."""
    task = "dmc/walker-walk" if without("metaworld") else "metaworld/reach-v3"
    settings = {"task": task, "render_quality": quality, "image_size": image_size}
    env = make_env(EnvConfig.model_validate(settings), seed=0)
    try:
        env.reset()  # draws the first frame, which includes building the OpenGL context
        start = time.perf_counter()
        for _ in range(frames):
            env.render()
        return frames / (time.perf_counter() - start)
    finally:
        env.close()


def draws_upright() -> bool:
    """Return whether a red ball above a blue one is drawn above it, by an upright and by an upside-down camera."""
    mujoco = import_simulator("mujoco")
    model = mujoco.MjModel.from_xml_string(_TWO_BALLS)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return all(_red_above_blue(model, data, camera) for camera in range(model.ncam))


_TWO_BALLS: Final = """
<mujoco>
  <worldbody>
    <light pos="0 -3 0" dir="0 1 0"/>
    <geom type="sphere" size="0.4" pos="0 0 0.5" rgba="1 0 0 1"/>
    <geom type="sphere" size="0.4" pos="0 0 -0.5" rgba="0 0 1 1"/>
    <camera name="upright" pos="0 -3 0" xyaxes="1 0 0 0 0 1"/>
    <camera name="upside-down" pos="0 -3 0" xyaxes="-1 0 0 0 0 -1"/>
  </worldbody>
</mujoco>
"""


def _red_above_blue(model: Any, data: Any, camera: int) -> bool:
    renderer = FrameRenderer(model, data, camera, "full", hangs_upside_down(model, camera))
    try:
        red, _, blue = np.moveaxis(renderer.draw().astype(np.float64), -1, 0)  # each (Hpx, Wpx)
    finally:
        renderer.close()
    middle = len(red) // 2
    top, bottom = slice(None, middle), slice(middle, None)
    return bool(red[top].mean() > blue[top].mean() and blue[bottom].mean() > red[bottom].mean())
