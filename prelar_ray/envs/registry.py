"""Environments by task id: "metaworld/reach-v3", "dmc/walker-walk", "prelar/point-reach", "prelar/arena-push"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import gymnasium

from prelar_ray.config import EnvConfig
from prelar_ray.envs import arena, dmc, metaworld
from prelar_ray.envs.pixel_env import PixelEnv, check_task_name
from prelar_ray.envs.point_reach import PointReach
from prelar_ray.errors import ConfigError

__all__ = ["action_size", "check_task", "known_tasks", "make_env", "register_gymnasium"]

_FAMILIES: Final[dict[str, Callable[[], list[str]]]] = {
    "metaworld": metaworld.task_names,
    "dmc": dmc.task_names,
    "prelar": lambda: ["point-reach", *arena.task_names()],
}


def known_tasks() -> list[str]:
    """Return all task ids; imports the simulators.

    Raises:
        RenderingError: the simulators cannot be loaded because headless rendering does not work.
    """
    return [f"{family}/{name}" for family, names in _FAMILIES.items() for name in names()]


def check_task(task: str, path: str = "env.task") -> None:
    """Check that a task id is known; ``path`` is the dotted key that an error names.

    Raises:
        ConfigError: unknown task; the message offers the nearest names.
        RenderingError: the task's simulator cannot be loaded.
    """
    family, _, name = task.partition("/")
    if family not in _FAMILIES or name not in _FAMILIES[family]():
        check_task_name(path, task, known_tasks())


def make_env(env: EnvConfig, seed: int) -> PixelEnv:
    """Return the environment of a configuration; ``seed`` determines its stream of episodes.

    Raises:
        ConfigError: unknown task (``env.task``) or camera (``env.camera``), or a camera for a task that has none.
        RenderingError: headless rendering does not work.
    """
    check_task(env.task)
    family, _, name = env.task.partition("/")
    if family == "prelar":
        if env.camera != "default":
            raise ConfigError(f"env.camera={env.camera}: {env.task} has no cameras; leave env.camera=default")
        if name == "point-reach":
            return PointReach(env.action_repeat, seed)
        return arena.Arena(name, env.action_repeat, seed)
    build, published_camera = (metaworld.MetaWorld, "corner") if family == "metaworld" else (dmc.DeepMindControl, "0")
    camera = published_camera if env.camera == "default" else env.camera
    return build(name, camera, env.render_quality, env.action_repeat, seed)


def action_size(env: EnvConfig) -> int:
    """Return how many numbers an action of a configuration's environment has.

    Raises:
        ConfigError, RenderingError: see :func:`make_env`.
    """
    made = make_env(env, seed=0)
    made.close()
    return len(made.action_space.sample())


def register_gymnasium() -> None:
    """Register the families with gymnasium; calling it again changes nothing.

    Ids ``prelar_ray/point-reach-v0``, ``prelar_ray/arena-v0``, ``prelar_ray/metaworld-v0`` and ``prelar_ray/dmc-v0``;
    all take ``action_repeat`` and ``seed``, all but the first ``task``, and the last two ``camera`` and
    ``render_quality``. From a program that has not imported this package:
    ``gymnasium.make("prelar_ray.envs:prelar_ray/point-reach-v0")``.
    """
    for name, entry_point in {
        "point-reach": "prelar_ray.envs.point_reach:PointReach",
        "arena": "prelar_ray.envs.arena:Arena",
        "metaworld": "prelar_ray.envs.metaworld:MetaWorld",
        "dmc": "prelar_ray.envs.dmc:DeepMindControl",
    }.items():
        identifier = f"prelar_ray/{name}-v0"
        if identifier not in gymnasium.registry:
            gymnasium.register(id=identifier, entry_point=entry_point)
