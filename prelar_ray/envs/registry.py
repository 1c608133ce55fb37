"""Environments by task id: "metaworld/reach-v3", "dmc/walker-walk", "prelar/arena-push", "gym/CarRacing-v3"."""

from __future__ import annotations

import gymnasium

from prelar_ray.action_space import ActionSpace
from prelar_ray.config import EnvConfig
from prelar_ray.envs.families import families
from prelar_ray.envs.family import check_task_name
from prelar_ray.envs.leaving import refusing_to_leave
from prelar_ray.envs.pixel_env import PixelEnv
from prelar_ray.errors import ConfigError, EnvironmentFailure
from prelar_ray.extras import without

__all__ = ["action_space", "check_task", "known_tasks", "make_env", "register_gymnasium"]


def known_tasks() -> list[str]:
    """Return all task ids, without those of gymnasium's registry; imports the simulators that are installed.

    Raises:
        RenderingError: the simulators cannot be loaded because headless rendering does not work.
    """
    installed = [(name, family) for name, family in families().items() if name != "gym" and not without(name)]
    return [f"{name}/{task}" for name, family in installed for task in family.task_names()]


def check_task(task: str, path: str = "env.task") -> None:
    """Check that a task id is known; ``path`` is the dotted key that an error names.

    Raises:
        ConfigError: unknown task; the message offers the nearest names.
        RenderingError: the task's simulator cannot be loaded.
    """
    family, _, name = task.partition("/")
    if family not in families():
        if ":" in family or task in gymnasium.registry:  # known without the simulators, which take long to load
            raise ConfigError(f"{path}={task}: no such task; did you mean gym/{task}?")
        if family and name:
            raise ConfigError(
                f"{path}={task}: no family {family}; there are {', '.join(sorted(families()))}; "
                f"a gymnasium id of a module {family} is gym/{family}:{name}"
            )
        check_task_name(path, task, known_tasks())
    families()[family].check(family, name, path)


def make_env(env: EnvConfig, seed: int) -> PixelEnv:
    """Return the environment of a configuration; ``seed`` determines its stream of episodes.

    Raises:
        ConfigError: unknown task (``env.task``) or camera (``env.camera``), a setting that the task does not have, or
            an environment that fails while it is made.
        RenderingError: headless rendering does not work.
    """
    check_task(env.task)
    family, _, name = env.task.partition("/")
    try:
        with refusing_to_leave():
            made = families()[family].make(name, env, seed)
    except EnvironmentFailure as error:
        raise ConfigError(f"env.task={env.task}: {error}") from error
    try:
        _check_vector(env, made.vector_size)
        _check_image_size(env, made.image_size)
    except ConfigError:
        made.close()
        raise
    return made


def _check_vector(env: EnvConfig, found: int) -> None:
    if env.vector_key and not found:
        raise ConfigError(
            f"env.vector_key={env.vector_key}: {env.task} has images alone; leave it empty"
            + ("" if env.image_size else ", and use env.image_size=64")
        )
    if found != env.vector_size:
        raise ConfigError(
            f"env.vector_size={env.vector_size}: {env.vector_key} of {env.task} has {found} numbers; "
            f"set env.vector_size={found}"
        )


def _check_image_size(env: EnvConfig, found: int) -> None:
    """Refuse an environment of another package that does not follow the setting."""
    if found != env.image_size:
        raise ConfigError(
            f"env.image_size={env.image_size}: {env.task} draws {found} x {found} pixels; set env.image_size={found}, "
            "or have its family give PixelEnv image_size=env.image_size"
        )


def action_space(env: EnvConfig) -> ActionSpace:
    """Return what may be done in a configuration's environment.

    Raises:
        ConfigError, RenderingError: see :func:`make_env`.
    """
    made = make_env(env, seed=0)
    made.close()
    return made.actions


def register_gymnasium() -> None:
    """Register the families with gymnasium; calling it again changes nothing.

    Ids ``prelar_ray/point-reach-v0``, ``prelar_ray/arena-v0``, ``prelar_ray/metaworld-v0`` and ``prelar_ray/dmc-v0``;
    all take ``action_repeat``, ``seed`` and ``image_size``, all but the first ``task``, and the last two ``camera`` and
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
