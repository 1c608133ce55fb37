"""The OpenGL back end that MuJoCo draws with: chosen once, and tried in a child process before it is relied on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from prelar_ray.errors import RenderingError
from prelar_ray.wording import how_it_ended

__all__ = [
    "FIRST_FRAME_SECONDS",
    "HANG_ADVICE",
    "INSTALL_ADVICE",
    "configure_gl",
    "configured_for_mujoco",
    "run_child",
]

FIRST_FRAME_SECONDS: Final = 60.0
"""Seconds after which an OpenGL context or a frame that does not appear counts as hung."""
INSTALL_ADVICE: Final = (
    "on Debian or Ubuntu run `apt-get install libegl1 libgl1 libgles2 libgl1-mesa-dri` (EGL, on a GPU or in software), "
    "or `apt-get install libosmesa6` and set MUJOCO_GL=osmesa (software; gone from Debian 13)"
)
HANG_ADVICE: Final = (
    "no frame within {seconds:g} s: many processes that render on one GPU can hang in the driver; use fewer "
    "(collect.collectors, record.workers), another device (MUJOCO_EGL_DEVICE_ID), or set MUJOCO_GL=osmesa"
)
UNSET_ADVICE: Final = (
    "unset MUJOCO_GL, and EGL and OSMesa, which need no display, are tried; glfw draws only where there is a display"
)

TRIED: Final = "PRELAR_RAY_GL_TRIED"
"""Environment variable: the back end that has drawn a frame here. Child processes inherit it and do not try again."""

_DRAW: Final = "from prelar_ray.envs import rendering; rendering.draw_empty_scene()"


def configure_gl() -> str:
    """Choose MuJoCo's OpenGL back end before ``mujoco`` is imported, and return its name.

    A value of ``MUJOCO_GL`` is kept. Otherwise EGL is tried, then OSMesa. Whichever it is draws a frame in a child
    process first, because a broken driver can hang or crash. The choice and its success are stored in the environment,
    so that one process of a tree tries.

    Raises:
        RenderingError: none works, or ``mujoco`` was imported too early.
    """
    chosen = os.environ.get("MUJOCO_GL")
    if chosen:
        if os.environ.get(TRIED) != chosen:
            _try_chosen(chosen)
        return chosen
    if "mujoco" in sys.modules:
        raise RenderingError(
            "mujoco was imported before a back end was chosen: set MUJOCO_GL=egl, or import prelar_ray first and "
            "call prelar_ray.envs.opengl.configure_gl()"
        )
    failures = []
    for backend in ("egl", "osmesa"):
        try:
            _try(backend)
        except RenderingError as error:
            failures.append(str(error))
        else:
            os.environ["MUJOCO_GL"] = backend
            return backend
    raise RenderingError("headless rendering does not work; " + "; ".join([*failures, INSTALL_ADVICE]))


@contextmanager
def configured_for_mujoco() -> Iterator[None]:
    """Have :func:`configure_gl` called as soon as code in the block imports ``mujoco``, and not if none does."""
    finder = _BeforeMujoco()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _BeforeMujoco:
    """Finds no module; Python asks it before it imports one."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "mujoco":
            configure_gl()


def _try_chosen(backend: str) -> None:
    try:
        _try(backend)
    except RenderingError as error:
        advice = INSTALL_ADVICE if backend in ("egl", "osmesa") else UNSET_ADVICE
        raise RenderingError(f"{error}; {advice}") from error


def _try(backend: str) -> None:
    """Draw a frame in a child process, and remember that it appeared.

    Raises:
        RenderingError: it did not.
    """
    run_child(_DRAW, backend, FIRST_FRAME_SECONDS)
    os.environ[TRIED] = backend


def run_child(code: str, backend: str, timeout: float) -> str:
    """Run Python code with a back end in a child process, which does not try it itself, and return its output.

    Raises:
        RenderingError: it failed, or took longer than ``timeout`` seconds.
    """
    path = os.pathsep.join(filter(None, sys.path))
    environment = os.environ | {"MUJOCO_GL": backend, TRIED: backend, "PYTHONPATH": path}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, timeout=timeout, capture_output=True, text=True, check=True
        )
    except subprocess.TimeoutExpired as error:
        raise RenderingError(f"MUJOCO_GL={backend}: {HANG_ADVICE.format(seconds=timeout)}") from error
    except subprocess.CalledProcessError as error:
        # The first error named is the cause; MuJoCo's half-built contexts complain after it, while being deleted.
        reason = re.search(r"(?:^|(?<=\s))[\w.]+Error: .*$", error.stderr, re.MULTILINE)
        text = reason.group() if reason else f"its process {how_it_ended(error.returncode)}"
        raise RenderingError(f"MUJOCO_GL={backend} does not work ({text})") from error
    return done.stdout
