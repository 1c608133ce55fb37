"""The device of a process's GPU, from any order of EGL's list and any form of CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import os

import pytest

from prelar_ray.envs import egl_devices
from prelar_ray.envs.egl_devices import EglDevice, choose_device, own_device
from prelar_ray.errors import RenderingError

UUID = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
MIG = "MIG-b7c1f4a2-0c3f-5d5e-9f3a-5d1a4c4b1e0d"


def listed(*cuda: int | str | None) -> list[EglDevice]:
    """EGL's devices: numbers are GPUs that CUDA shows, "hidden" those that it does not, None is software."""
    return [EglDevice(number if isinstance(number, int) else None, nvidia=number is not None) for number in cuda]


ORDER = listed(2, 0, None, 3, 1)
"""A node of four GPUs, in another order than CUDA's, and a software renderer."""


@pytest.mark.parametrize(
    ("visible", "devices", "expected"),
    [
        # All GPUs are visible: that which CUDA counts first.
        (None, listed(0), 0),
        (None, ORDER, 1),
        ("0,1,2,3", ORDER, 1),
        ("3,1", listed("hidden", 1, None, 0, "hidden"), 3),
        # One is, of whatever name: it is number 0, wherever EGL lists it.
        ("0", listed("hidden", 0, None), 1),
        ("3", listed("hidden", "hidden", 0, "hidden"), 2),
        (UUID, listed("hidden", None, "hidden", 0), 3),
        (UUID[:12], listed("hidden", 0), 1),
        (MIG, listed(0, None), 0),
        ("2", listed(0), 0),  # EGL lists only what CUDA shows
        (" 2 , 3", listed("hidden", 1, 0), 2),
        ("2,-1,3", listed("hidden", 0), 1),  # nothing behind a -1 is visible
        # A driver that counts the GPUs of the node: there are more numbers than visible GPUs.
        ("2", ORDER, 0),
        ("3", ORDER, 3),
        ("3,1", ORDER, 3),
        # The only GPU that EGL has, whatever it tells of it.
        ("3", listed(3, None), 0),
        ("1", listed(None, "hidden"), 1),
        (MIG, listed(None, "hidden"), 1),
        # CUDA shows none: drawing may use any.
        ("", ORDER, 1),
        ("", listed(None, "hidden", "hidden"), 1),
        ("-1", listed(None, "hidden"), 1),
        ("NoDevFiles", listed("hidden"), 0),
        # No NVIDIA GPU that EGL knows: MuJoCo takes the first device that works.
        (None, listed(None, None), None),
        ("0", listed(None), None),
        (UUID, listed(None), None),
        ("", listed(None), None),
        (None, [], None),
    ],
)
def test_a_process_draws_on_its_first_gpu(visible: str | None, devices: list[EglDevice], expected: int | None) -> None:
    assert choose_device(devices, visible, None) == expected


@pytest.mark.parametrize(
    ("visible", "devices", "expected"),
    [
        (None, ORDER, [1, 4, 0, 3, 1, 4]),
        ("", listed(None, "hidden", "hidden"), [1, 2, 1]),
        ("3,1", listed("hidden", 1, None, 0), [3, 1, 3]),
        ("3,1", ORDER, [3, 4, 3]),
        ("2", listed("hidden", 0), [1, 1, 1]),  # what it was given alone, whatever its turn
        (None, listed(None), [None, None]),
    ],
)
def test_processes_with_several_gpus_take_turns(
    visible: str | None, devices: list[EglDevice], expected: list[int | None]
) -> None:
    assert [choose_device(devices, visible, None, turn) for turn in range(len(expected))] == expected


@pytest.mark.parametrize("visible", [None, "", "0", UUID])
def test_the_users_device_comes_first(visible: str | None) -> None:
    assert choose_device(ORDER, visible, "2", turn=1) == 2


@pytest.mark.parametrize("asked", ["5", "-1", "abc", "1.0", "0,1", "²"])
def test_a_device_that_does_not_exist_is_refused_with_those_that_do(asked: str) -> None:
    message = rf"^MUJOCO_EGL_DEVICE_ID={asked}: EGL has device 0 \(CUDA 2\), .*device 2 \(no CUDA\), .*unset it$"
    with pytest.raises(RenderingError, match=message):
        choose_device(ORDER, None, asked)


def test_an_empty_choice_is_none() -> None:
    assert choose_device(ORDER, None, "") == 1


@pytest.mark.parametrize(
    ("visible", "devices", "reason"),
    [
        (UUID, ORDER, "none of EGL's devices is known to be it"),  # numbered over the node, where it has no number
        (MIG, listed(0, 1), "none of EGL's devices is known to be it"),
        ("7", listed(0, 1), "none of EGL's devices is known to be it"),
        ("0", listed("hidden", "hidden"), "none of EGL's devices is known to be it"),
        ("0", listed(0, 0), "EGL gives two devices one CUDA number"),  # an early driver
        (f"{UUID},{UUID}", listed(1, 1), "EGL gives two devices one CUDA number"),
    ],
)
def test_a_gpu_that_cannot_be_told_is_an_error_and_not_another_one(
    visible: str, devices: list[EglDevice], reason: str
) -> None:
    with pytest.raises(RenderingError, match=rf"^CUDA_VISIBLE_DEVICES={visible}: {reason}.*set MUJOCO_EGL_DEVICE_ID"):
        choose_device(devices, visible, None)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A node of four GPUs, of which Ray gave the third to this process."""
    monkeypatch.setattr(egl_devices, "egl_devices", lambda: tuple(listed("hidden", None, 0, "hidden")))
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    monkeypatch.delenv("MUJOCO_EGL_DEVICE_ID", raising=False)
    return monkeypatch


def test_displays_open_on_the_processs_gpu_and_children_do_not_inherit_it(node: pytest.MonkeyPatch) -> None:
    with own_device():
        assert os.environ["MUJOCO_EGL_DEVICE_ID"] == "2"
    assert "MUJOCO_EGL_DEVICE_ID" not in os.environ
    with pytest.raises(ValueError, match="no context"), own_device():
        raise ValueError("no context")
    assert "MUJOCO_EGL_DEVICE_ID" not in os.environ


def test_turns_come_from_the_environment(node: pytest.MonkeyPatch) -> None:
    node.setenv("CUDA_VISIBLE_DEVICES", "")
    node.setenv("PRELAR_RENDER_TURN", "1")
    with own_device():
        assert os.environ["MUJOCO_EGL_DEVICE_ID"] == "0"


def test_the_users_device_stays(node: pytest.MonkeyPatch) -> None:
    node.setenv("MUJOCO_EGL_DEVICE_ID", "3")
    with own_device():
        assert os.environ["MUJOCO_EGL_DEVICE_ID"] == "3"
    assert os.environ["MUJOCO_EGL_DEVICE_ID"] == "3"


def test_an_empty_choice_of_the_user_does_not_reach_mujoco(node: pytest.MonkeyPatch) -> None:
    node.setenv("MUJOCO_EGL_DEVICE_ID", "")
    node.setattr(egl_devices, "egl_devices", lambda: tuple(listed(None)))
    with own_device():
        assert "MUJOCO_EGL_DEVICE_ID" not in os.environ


def test_without_egl_no_device_is_asked_for(node: pytest.MonkeyPatch) -> None:
    node.setenv("MUJOCO_GL", "osmesa")
    with own_device():
        assert "MUJOCO_EGL_DEVICE_ID" not in os.environ


@pytest.mark.render
def test_this_machines_devices_are_read_and_the_one_that_draws_is_the_chosen() -> None:
    from prelar_ray.envs.opengl import configure_gl
    from prelar_ray.envs.rendering import open_context

    if configure_gl() != "egl":
        pytest.skip("EGL does not work here")
    devices = egl_devices.egl_devices()
    assert devices
    context = open_context()
    drawing, chosen = egl_devices.drawing_device(), egl_devices.chosen_device()
    context.free()
    assert drawing is not None
    assert drawing == chosen or chosen is None
