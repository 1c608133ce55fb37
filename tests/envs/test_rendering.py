from __future__ import annotations

import os
import subprocess
import sys

import pytest

from prelar_ray.envs import rendering
from prelar_ray.envs.opengl import TRIED
from prelar_ray.envs.rendering import FrameRenderer, import_simulator
from prelar_ray.envs.rendering_check import check_rendering, draws_upright
from prelar_ray.envs.watchdog import HUNG
from prelar_ray.errors import RenderingError

LEAVE_OPEN = """
from prelar_ray.config import EnvConfig
from prelar_ray.envs import make_env
first = make_env(EnvConfig(task="metaworld/reach-v3", render_quality="fast"), 0)
first.reset()
"""
MAKE_ANOTHER = 'second = make_env(EnvConfig(task="dmc/walker-walk", camera="0", render_quality="fast"), 0)\n'
DRAW_IT = "second.reset()\n"


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_missing_opengl_library_is_reported_with_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise AttributeError("'NoneType' object has no attribute 'glGetError'")  # PyOpenGL without its library

    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv(TRIED, "egl")
    monkeypatch.setattr(rendering.importlib, "import_module", broken)
    with pytest.raises(RenderingError, match=r"glGetError.*apt-get install libegl1"):
        import_simulator("mujoco")


@pytest.mark.render
@pytest.mark.parametrize(
    "hang", ["time.sleep(30)", "ctypes.PyDLL(None).sleep(30)"], ids=["waiting", "holding the lock"]
)
def test_a_driver_that_hangs_in_the_first_frame_ends_the_process_and_says_why(hang: str) -> None:
    # The second holds the interpreter's lock, as MuJoCo does while it builds a context.
    program = f"""
import ctypes, time
from prelar_ray.envs import rendering
mujoco = rendering.import_simulator("mujoco")
rendering.FIRST_FRAME_SECONDS = 0.5
mujoco.Renderer = lambda model, height, width: {hang}
model = mujoco.MjModel.from_xml_string("<mujoco/>")
rendering.FrameRenderer(model, mujoco.MjData(model), 0, "full").draw()
"""
    done = run_program(program)
    assert done.returncode == -HUNG
    assert "error: no frame within 0.5 s: many processes that render on one GPU can hang" in done.stderr
    assert "MUJOCO_GL=osmesa" in done.stderr


@pytest.mark.render
def test_check_measures_speed_and_orientation() -> None:
    report = check_rendering("fast")
    assert report.backend == os.environ["MUJOCO_GL"]
    assert report.device
    assert report.backend != "egl" or report.egl_device is not None
    assert not report.on_other_device
    assert report.frames_per_second > 1
    assert report.upright


@pytest.mark.render
def test_orientation_check_notices_pictures_that_are_upside_down(monkeypatch: pytest.MonkeyPatch) -> None:
    assert draws_upright()
    draw = FrameRenderer.draw
    monkeypatch.setattr(FrameRenderer, "draw", lambda self: draw(self)[::-1])
    assert not draws_upright()


@pytest.mark.render
@pytest.mark.parametrize("more", ["", MAKE_ANOTHER, MAKE_ANOTHER + DRAW_IT], ids=["alone", "another", "another drawn"])
def test_interpreter_exit_with_open_environments_is_silent(more: str) -> None:
    done = run_program(LEAVE_OPEN + more)
    assert (done.returncode, done.stderr) == (0, "")
