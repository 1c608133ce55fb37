from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from prelar_ray.config import EnvConfig
from prelar_ray.envs import check_task, make_env, opengl
from prelar_ray.envs.opengl import TRIED, configure_gl, configured_for_mujoco, run_child
from prelar_ray.errors import RenderingError


class Children:
    """Stand-in for child processes of a machine on which one back end works, or none."""

    def __init__(self, working: str) -> None:
        self.working = working
        self.tried: list[str] = []

    def run(self, code: str, backend: str, timeout: float) -> str:
        self.tried.append(backend)
        if backend != self.working:
            raise RenderingError(f"MUJOCO_GL={backend} does not work (ImportError: no library)")
        return ""


@pytest.fixture
def unconfigured(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setenv(TRIED, "")
    monkeypatch.delitem(sys.modules, "mujoco", raising=False)
    return monkeypatch


def machine_with(backend: str, monkeypatch: pytest.MonkeyPatch) -> Children:
    children = Children(backend)
    monkeypatch.setattr(opengl, "run_child", children.run)
    return children


def test_users_back_end_is_kept_and_tried_once(unconfigured: pytest.MonkeyPatch) -> None:
    children = machine_with("osmesa", unconfigured)
    unconfigured.setenv("MUJOCO_GL", "osmesa")
    assert [configure_gl(), configure_gl()] == ["osmesa", "osmesa"]
    assert children.tried == ["osmesa"]


def test_a_child_process_does_not_try_what_its_parent_tried(unconfigured: pytest.MonkeyPatch) -> None:
    machine_with("egl", unconfigured)
    configure_gl()
    program = "from prelar_ray.envs import opengl; opengl.run_child = None; print(opengl.configure_gl())"
    path = os.pathsep.join(filter(None, sys.path))
    child = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert child.stdout.strip() == "egl", child.stderr


def test_another_back_end_than_the_one_that_was_tried_is_tried(unconfigured: pytest.MonkeyPatch) -> None:
    children = machine_with("osmesa", unconfigured)
    unconfigured.setenv(TRIED, "egl")
    unconfigured.setenv("MUJOCO_GL", "osmesa")
    configure_gl()
    assert children.tried == ["osmesa"]


@pytest.mark.parametrize(
    ("backend", "remedy"), [("glfw", "; unset MUJOCO_GL, and EGL and OSMesa"), ("egl", "; on Debian or Ubuntu run")]
)
def test_users_back_end_that_does_not_work_is_refused(
    unconfigured: pytest.MonkeyPatch, backend: str, remedy: str
) -> None:
    machine_with("none", unconfigured)
    unconfigured.setenv("MUJOCO_GL", backend)
    with pytest.raises(RenderingError) as caught:
        configure_gl()
    assert str(caught.value).startswith(f"MUJOCO_GL={backend} does not work (ImportError: no library){remedy}")


def test_osmesa_is_chosen_where_egl_does_not_work(unconfigured: pytest.MonkeyPatch) -> None:
    machine_with("osmesa", unconfigured)
    assert configure_gl() == "osmesa"
    assert os.environ["MUJOCO_GL"] == "osmesa"


def test_without_any_back_end_the_packages_are_named_once(unconfigured: pytest.MonkeyPatch) -> None:
    machine_with("none", unconfigured)
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
        run_child("while True: pass", "egl", 0.5)
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("raise ValueError('no device')", "ValueError: no device"),
        ("import os; os.abort()", "its process was killed by SIGABRT"),
        ("import sys; print('/lib/glfw.py:9: GLFWError: no display', file=sys.stderr); sys.exit(3)", "GLFWError: no"),
    ],
)
def test_child_that_fails_says_why(program: str, reason: str) -> None:
    with pytest.raises(RenderingError) as caught:
        run_child(program, "egl", 30)
    assert str(caught.value).startswith(f"MUJOCO_GL=egl does not work ({reason}")


def test_code_that_imports_mujoco_by_itself_has_the_back_end_tried(
    unconfigured: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    children = machine_with("none", unconfigured)
    unconfigured.setenv("MUJOCO_GL", "glfw")
    unconfigured.syspath_prepend(tmp_path)
    (tmp_path / "drawing_by_hand.py").write_text("")
    (tmp_path / "arm_of_somebody.py").write_text("import mujoco")
    before = list(sys.meta_path)
    with configured_for_mujoco():
        importlib.import_module("drawing_by_hand")
    assert children.tried == []
    with pytest.raises(RenderingError, match="MUJOCO_GL=glfw"), configured_for_mujoco():
        importlib.import_module("arm_of_somebody")
    assert sys.meta_path == before


def test_environments_without_mujoco_try_nothing(unconfigured: pytest.MonkeyPatch) -> None:
    children = machine_with("none", unconfigured)
    unconfigured.setenv("MUJOCO_GL", "glfw")
    check_task("prelar/point-reach")
    check_task("gym/CarRacing-v3")
    check_task("gym/tests.envs.own_world:Track-v0")
    make_env(EnvConfig(task="prelar/point-reach"), seed=0).close()
    assert children.tried == []


@pytest.mark.parametrize("task", ["metaworld/reach-v3", "dmc/walker-walk", "gym/InvertedPendulum-v5"])
def test_a_task_of_mujoco_is_refused_before_anything_is_made(unconfigured: pytest.MonkeyPatch, task: str) -> None:
    machine_with("none", unconfigured)
    unconfigured.setenv("MUJOCO_GL", "glfw")
    with pytest.raises(RenderingError, match=r"^MUJOCO_GL=glfw does not work .*unset MUJOCO_GL"):
        check_task(task)
