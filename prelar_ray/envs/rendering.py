"""Off-screen rendering of MuJoCo scenes: simulators, quality; the back end is in ``opengl``, cameras in ``cameras``."""

from __future__ import annotations

import atexit
import importlib
import sys
import weakref
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, Final, Literal

import numpy as np

from prelar_ray.envs.egl_devices import own_device
from prelar_ray.envs.opengl import FIRST_FRAME_SECONDS, HANG_ADVICE, INSTALL_ADVICE, configure_gl
from prelar_ray.envs.pixel_env import Image
from prelar_ray.envs.watchdog import ended_after
from prelar_ray.errors import RenderingError
from prelar_ray.extras import require_package
from prelar_ray.types import IMAGE_SIZE

__all__ = [
    "FrameRenderer",
    "Quality",
    "apply_quality",
    "draw_empty_scene",
    "import_simulator",
    "open_context",
]

Quality = Literal["full", "reduced", "fast"]

FREE_CAMERA: Final = -1
"""MuJoCo's number of the camera that every model has."""

_OPENGL_ERRORS: Final = (AttributeError, ImportError, OSError, RuntimeError)
"""Errors that PyOpenGL and MuJoCo raise where a library or a device is missing."""


def import_simulator(name: str) -> ModuleType:
    """Import ``mujoco`` or a package that builds on it, with the back end chosen first.

    Raises:
        UsageError: it is not installed; names its extra.
        RenderingError: the OpenGL libraries are missing.
    """
    require_package(name.partition(".")[0])
    backend = configure_gl()
    opens_display = name.startswith("dm_control") and name not in sys.modules  # mujoco does with its first context
    try:
        if opens_display:
            with _in_time(), own_device():
                module = importlib.import_module(name)
        else:
            module = importlib.import_module(name)
    except ModuleNotFoundError:
        raise
    except _OPENGL_ERRORS as error:
        raise _not_working(backend, error) from error
    _close_all_first_at_exit()
    return module


def open_context() -> Any:
    """Return a new OpenGL context, made current, on this process's device; whoever asks for it frees it."""
    mujoco = import_simulator("mujoco")
    with own_device():
        context = mujoco.GLContext(IMAGE_SIZE, IMAGE_SIZE)
    context.make_current()
    return context


def draw_empty_scene() -> None:
    """Draw a frame without anything in it, which shows that the back end works.

    Raises:
        RenderingError: it does not; one that is broken may crash the process instead.
    """
    mujoco = import_simulator("mujoco")
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    renderer = FrameRenderer(model, mujoco.MjData(model), FREE_CAMERA, "fast")
    try:
        renderer.draw()
    finally:
        renderer.close()


def _in_time() -> AbstractContextManager[None]:
    """End this process with advice if OpenGL does not answer."""
    return ended_after(FIRST_FRAME_SECONDS, HANG_ADVICE.format(seconds=FIRST_FRAME_SECONDS))


def apply_quality(model: Any, quality: Quality) -> None:
    """Set the rendering quality of a ``mujoco.MjModel``, before its renderer is built.

    ``full`` leaves the simulator's default, ``reduced`` draws shadows from a map of 512x512 texels, ``fast`` draws
    neither shadows nor smoothed edges.
    """
    if quality == "reduced":
        model.vis.quality.shadowsize = 512
    elif quality == "fast":
        model.vis.quality.shadowsize = 0
        model.vis.quality.offsamples = 0


class FrameRenderer:
    """Draws a simulation through one camera.

    The OpenGL context is made for the first frame. It is freed by :meth:`close`, or else before the interpreter
    shuts OpenGL down.

    Args:
        model: ``mujoco.MjModel``; its quality is set here.
        data: ``mujoco.MjData``.
        camera: number of the camera.
        quality: see :func:`apply_quality`.
        flip_rows: reverse the rows, for cameras that hang upside down.
        image_size: height and width of frames, pixels.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        camera: int,
        quality: Quality,
        flip_rows: bool = False,
        image_size: int = IMAGE_SIZE,
    ) -> None:
        apply_quality(model, quality)
        model.vis.global_.offwidth = model.vis.global_.offheight = image_size
        self._model = model
        self._data = data
        self._camera = camera
        self._flip_rows = flip_rows
        self._image_size = image_size
        self._renderer: Any = None

    def draw(self) -> Image:
        """Return the present frame, uint8 ``(Hpx, Wpx, C)``.

        A driver that hangs in the first frame ends the process, with the advice on stderr.

        Raises:
            RenderingError: no OpenGL context can be made, or not on this process's GPU.
        """
        if self._renderer is not None:
            return self._render()
        with _in_time():
            self._open()
            return self._render()

    def close(self) -> None:
        """Free the OpenGL context; a later frame makes a new one."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _open(self) -> None:
        mujoco = import_simulator("mujoco")
        try:
            with own_device():
                self._renderer = mujoco.Renderer(self._model, self._image_size, self._image_size)
        except (*_OPENGL_ERRORS, mujoco.FatalError) as error:
            raise _not_working(configure_gl(), error) from error
        _open_renderers.add(self)
        _close_all_first_at_exit()

    def _render(self) -> Image:
        self._renderer.update_scene(self._data, camera=self._camera)
        image: Image = self._renderer.render()
        return np.ascontiguousarray(image[::-1]) if self._flip_rows else image


_open_renderers: weakref.WeakSet[FrameRenderer] = weakref.WeakSet()


def _close_all_first_at_exit() -> None:
    """Free all contexts before the simulators shut EGL down, which turns any context freed later into a traceback.

    Exit handlers run last in, first out, and a simulator registers its own on import (dm_control) or with the first
    context (mujoco); so this one is registered again after each of them.
    """
    atexit.unregister(_close_all)
    atexit.register(_close_all)


def _close_all() -> None:
    for renderer in list(_open_renderers):
        renderer.close()


def _not_working(backend: str, error: Exception) -> RenderingError:
    return RenderingError(f"MUJOCO_GL={backend} does not work ({type(error).__name__}: {error}); {INSTALL_ADVICE}")
