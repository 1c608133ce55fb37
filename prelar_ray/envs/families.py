"""The families of this package, and those that other packages register."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Final

from prelar_ray.config import EnvConfig
from prelar_ray.envs import arena, dmc, metaworld
from prelar_ray.envs.family import Family
from prelar_ray.envs.gym_env import GymFamily
from prelar_ray.envs.pixel_env import PixelEnv
from prelar_ray.envs.point_reach import PointReach
from prelar_ray.errors import ConfigError

__all__ = ["GROUP", "TESTED", "families"]

GROUP: Final = "prelar_ray.environments"
"""Entry points of families: their names are what ``env.task`` begins with, their objects subclasses of Family."""

TESTED: Final = ("metaworld", "dmc", "prelar")
"""Families whose environments are tested with this package; those of all others are checked before they are used."""


@cache
def families() -> dict[str, Family]:
    """Return all families by name; those of this package cannot be replaced.

    Raises:
        ConfigError: a package registers something that is no family; names it.
    """
    own: dict[str, Family] = {
        "metaworld": _MetaWorld(),
        "dmc": _DeepMindControl(),
        "prelar": _BuiltIn(),
        "gym": GymFamily(),
    }
    found = {}
    for point in entry_points(group=GROUP):
        if point.name in own:
            continue
        kind = point.load()
        if not (isinstance(kind, type) and issubclass(kind, Family)):
            raise ConfigError(
                f"entry point {point.name} of {GROUP}: {point.value} is no subclass of Family; correct it"
            )
        found[point.name] = kind()
    return own | found


class _MetaWorld(Family):
    def task_names(self) -> Sequence[str]:
        return metaworld.task_names()

    def make(self, task: str, env: EnvConfig, seed: int) -> PixelEnv:
        camera = "corner" if env.camera == "default" else env.camera  # the published one
        drawn = camera, env.render_quality, env.action_repeat, seed
        return metaworld.MetaWorld(task, *drawn, vector_key=env.vector_key, image_size=env.image_size)


class _DeepMindControl(Family):
    def task_names(self) -> Sequence[str]:
        return dmc.task_names()

    def make(self, task: str, env: EnvConfig, seed: int) -> PixelEnv:
        camera = "0" if env.camera == "default" else env.camera
        drawn = camera, env.render_quality, env.action_repeat, seed
        return dmc.DeepMindControl(task, *drawn, vector_key=env.vector_key, image_size=env.image_size)


class _BuiltIn(Family):
    def task_names(self) -> Sequence[str]:
        return ["point-reach", *arena.task_names()]

    def make(self, task: str, env: EnvConfig, seed: int) -> PixelEnv:
        if env.camera != "default":
            raise ConfigError(f"env.camera={env.camera}: {env.task} has no cameras; leave env.camera=default")
        if task == "point-reach":
            return PointReach(env.action_repeat, seed, image_size=env.image_size)
        return arena.Arena(task, env.action_repeat, seed, image_size=env.image_size)
