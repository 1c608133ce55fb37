from __future__ import annotations

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from prelar_ray.envs import rendering
from prelar_ray.envs.rendering import FrameRenderer, configure_gl, import_simulator
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


def only(backend: str) -> object:
    """Stand-in for child processes of a machine on which no other back end works."""

    def run(code: str, tried: str, timeout: float) -> str:
        if tried != backend:
            raise RenderingError(f"MUJOCO_GL={tried} does not work (ImportError: no library)")
        return ""

    return run


@pytest.fixture
def unconfigured(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.delitem(sys.modules, "mujoco", raising=False)
    return monkeypatch


def test_users_back_end_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr(rendering, "run_child", only("egl"))
    assert configure_gl() == "osmesa"


def test_osmesa_is_chosen_where_egl_does_not_work(unconfigured: pytest.MonkeyPatch) -> None:
    unconfigured.setattr(rendering, "run_child", only("osmesa"))
    assert configure_gl() == "osmesa"
    assert os.environ["MUJOCO_GL"] == "osmesa"


def test_without_any_back_end_the_packages_are_named_once(unconfigured: pytest.MonkeyPatch) -> None:
    unconfigured.setattr(rendering, "run_child", only("none"))
    with pytest.raises(RenderingError) as caught:
        configure_gl()
    message = str(caught.value)
    assert "MUJOCO_GL=egl does not work" in message
    assert "MUJOCO_GL=osmesa does not work" in message
    assert message.count("apt-get install libegl1 libgl1 libgles2 libgl1-mesa-dri") == 1
    assert "apt-get install libosmesa6" in message


def test_mujoco_imported_too_early_is_told(unconfigured: pytest.MonkeyPatch) -> None:
    unconfigured.setitem(sys.modules, "mujoco", SimpleNamespace())
    with pytest.raises(RenderingError, match="imported before"):
        configure_gl()


def test_child_that_hangs_is_given_up_with_guidance() -> None:
    start = time.perf_counter()
    with pytest.raises(RenderingError, match=r"no frame within .*MUJOCO_EGL_DEVICE_ID"):
        rendering.run_child("while True: pass", "egl", 0.5)
    assert time.perf_counter() - start < 10


def test_child_that_fails_says_why() -> None:
    with pytest.raises(RenderingError, match=r"MUJOCO_GL=egl does not work \(ValueError: no device\)"):
        rendering.run_child("raise ValueError('no device')", "egl", 30)


def test_missing_opengl_library_is_reported_with_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise AttributeError("'NoneType' object has no attribute 'glGetError'")  # PyOpenGL without its library

    monkeypatch.setenv("MUJOCO_GL", "egl")
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
