"""Which EGL device a process draws on: a GPU that CUDA gives the process, although the two number GPUs differently.

``MUJOCO_EGL_DEVICE_ID`` is a position in EGL's own list of devices, which is in another order than CUDA's, names
software renderers too, and need not change with ``CUDA_VISIBLE_DEVICES``. MuJoCo and dm_control read nothing else, and
take the first device that works where it is not set: every process of a node would draw on the same GPU. NVIDIA's EGL
tells the CUDA number of each device, counted as CUDA counts in the asking process: among its visible GPUs.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from prelar_ray.errors import RenderingError

__all__ = ["TURN", "EglDevice", "choose_device", "chosen_device", "drawing_device", "egl_devices", "own_device"]

TURN: Final = "PRELAR_RENDER_TURN"
"""Environment variable: number of a process among those that draw on a node, which take turns on the GPUs."""

ASKED: Final = "MUJOCO_EGL_DEVICE_ID"
VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
REMEDY: Final = f"set {ASKED} to the device that shall draw, or MUJOCO_GL=osmesa to draw on the CPU"

_CUDA_DEVICE_NV: Final = 0x323A
_DEVICE_EXT: Final = 0x322C
_EXTENSIONS: Final = 0x3055
_CUDA_EXTENSION: Final = "EGL_NV_device_cuda"


@dataclass(frozen=True)
class EglDevice:
    """One device of EGL's list."""

    cuda: int | None
    """Number of the GPU among those that CUDA shows this process; None if it shows it not, or it is no NVIDIA GPU."""
    nvidia: bool
    """Whether it is an NVIDIA GPU."""


def choose_device(devices: Sequence[EglDevice], visible: str | None, asked: str | None, turn: int = 0) -> int | None:
    """Return the position in EGL's list of the device to draw on; None leaves it to MuJoCo, which takes the first.

    The user's choice comes first, then the GPUs that CUDA shows the process, in CUDA's order. A process without any is
    given all of the node: drawing takes little of a GPU, but all of a CPU core that collecting needs. Among several,
    processes take turns. On a node without NVIDIA's EGL there is nothing to choose.

    Args:
        devices: as EGL lists them.
        visible: CUDA_VISIBLE_DEVICES; numbers, UUIDs or names of MIG slices; empty shows none, None shows all.
        asked: MUJOCO_EGL_DEVICE_ID as the user set it.
        turn: number of this process among those that draw on the node.

    Raises:
        RenderingError: there is no such device; or GPUs are assigned, and which of EGL's they are cannot be told.
    """
    if asked:
        if not asked.strip().isdecimal() or int(asked) >= len(devices):
            raise RenderingError(f"{ASKED}={asked}: EGL has {_listing(devices)}; set it to one of them, or unset it")
        return int(asked)
    gpus = [index for index, device in enumerate(devices) if device.nvidia]
    gpus.sort(key=lambda index: (devices[index].cuda is None, devices[index].cuda or 0))  # in CUDA's order, if known
    names = _names(visible) if visible else []
    if names and len(gpus) > 1:
        gpus = _assigned(devices, names)
    return gpus[turn % len(gpus)] if gpus else None


def _names(visible: str) -> list[str]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES names; CUDA ignores all from the first that is not one, such as -1."""
    names: list[str] = []
    for name in map(str.strip, visible.split(",")):
        if not (name.isdecimal() or name.startswith(("GPU-", "MIG-"))):
            break
        names.append(name)
    return names


def _assigned(devices: Sequence[EglDevice], names: Sequence[str]) -> list[int]:
    """Return the devices that are the named GPUs, in CUDA's order."""
    numbers = [device.cuda for device in devices if device.cuda is not None]
    given = f"{VISIBLE}={','.join(names)}"
    if len(set(numbers)) < len(numbers):
        raise RenderingError(f"{given}: EGL gives two devices one CUDA number, among {_listing(devices)}; {REMEDY}")
    if max(numbers, default=0) < len(names):
        wanted = list(range(len(names)))
    else:  # more numbers than visible GPUs: this driver counts those of the node
        wanted = [int(name) for name in names if name.isdecimal()]
    found = [index for number in wanted for index, device in enumerate(devices) if device.cuda == number]
    if not found:
        raise RenderingError(f"{given}: none of EGL's devices is known to be it, among {_listing(devices)}; {REMEDY}")
    return found


def _listing(devices: Sequence[EglDevice]) -> str:
    """Return for example ``device 0 (CUDA 1), device 1 (no CUDA)``."""
    numbers = ("no CUDA" if device.cuda is None else f"CUDA {device.cuda}" for device in devices)
    return ", ".join(f"device {index} ({number})" for index, number in enumerate(numbers)) or "no device"


@functools.cache
def egl_devices() -> tuple[EglDevice, ...]:
    """Return EGL's devices, as MuJoCo sees them; MUJOCO_GL must be egl.

    Raises:
        AttributeError, ImportError, OSError: EGL is missing.
    """
    egl = _egl()
    found = [(_cuda_number(egl, device), _has_cuda(egl, device)) for device in egl.eglQueryDevicesEXT()]
    return tuple(EglDevice(number, number is not None or has_cuda) for number, has_cuda in found)


def chosen_device() -> int | None:
    """Return the choice of :func:`choose_device` for this process.

    Raises:
        RenderingError: see there.
        AttributeError, ImportError, OSError: EGL is missing.
    """
    environment = os.environ
    turn = int(environment.get(TURN) or 0)
    return choose_device(egl_devices(), environment.get(VISIBLE), environment.get(ASKED), turn)


_choosing: Final = threading.RLock()


@contextmanager
def own_device() -> Iterator[None]:
    """Open displays in the block on the device of :func:`chosen_device`; without EGL the block just runs.

    MuJoCo opens one with its first context, dm_control when it is imported. The variable that they read is set for the
    block alone: a child process that inherited it could not tell it from the user's choice.
    """
    if os.environ.get("MUJOCO_GL") != "egl":
        yield
        return
    with _choosing:
        device, before = chosen_device(), os.environ.pop(ASKED, None)
        if device is not None:
            os.environ[ASKED] = str(device)
        try:
            yield
        finally:
            os.environ.pop(ASKED, None)
            if before is not None:
                os.environ[ASKED] = before


def drawing_device() -> int | None:
    """Return the position in EGL's list of the device of MuJoCo's display; None if EGL does not tell, or none is open.

    Raises:
        AttributeError, ImportError, OSError: EGL is missing.
    """
    egl, display = _egl(), importlib.import_module("mujoco.egl").EGL_DISPLAY
    query = _function(egl, "eglQueryDisplayAttribEXT", ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_ssize_t))
    drawing = ctypes.c_ssize_t()
    if display is None or query is None or not query(_address(display), _DEVICE_EXT, drawing):
        return None
    addresses = [_address(device) for device in egl.eglQueryDevicesEXT()]
    return addresses.index(drawing.value) if drawing.value in addresses else None


def _egl() -> Any:
    """Return MuJoCo's binding of EGL."""
    return importlib.import_module("mujoco.egl.egl_ext")


def _cuda_number(egl: Any, device: Any) -> int | None:
    query = _function(egl, "eglQueryDeviceAttribEXT", ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_ssize_t))
    number = ctypes.c_ssize_t(-1)
    known = query is not None and query(_address(device), _CUDA_DEVICE_NV, number)
    egl.eglGetError()  # forgets that the device has no such attribute; MuJoCo would take the error for its own
    return number.value if known and number.value >= 0 else None


def _has_cuda(egl: Any, device: Any) -> bool:
    """Return whether a device says that CUDA knows it, although it may not be visible to this process."""
    query = _function(egl, "eglQueryDeviceStringEXT", ctypes.c_void_p, ctypes.c_int, returns=ctypes.c_char_p)
    extensions = query(_address(device), _EXTENSIONS) if query is not None else None
    egl.eglGetError()
    return _CUDA_EXTENSION in (extensions or b"").decode().split()


def _function(egl: Any, name: str, *arguments: Any, returns: Any = ctypes.c_uint) -> Any:
    """Return a function of an EGL extension; None where EGL lacks it."""
    address = egl.eglGetProcAddress(name)
    return ctypes.CFUNCTYPE(returns, *arguments)(address) if address else None


def _address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
