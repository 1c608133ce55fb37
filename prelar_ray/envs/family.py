"""Families of environments: ``env.task`` is FAMILY/TASK, and other packages add families as entry points."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Sequence

from prelar_ray.config import EnvConfig
from prelar_ray.envs.pixel_env import PixelEnv
from prelar_ray.errors import ConfigError

__all__ = ["Family", "check_task_name"]

SHOWN = 3
"""Tasks that a message names: more would fill a terminal."""


class Family(ABC):
    """Tasks behind one name.

    A package registers its own as an entry point of the group ``prelar_ray.environments``: the point's name is the
    family, its object a subclass of this class without arguments.
    """

    @abstractmethod
    def task_names(self) -> Sequence[str]:
        """Return the names of all tasks; may import a simulator.

        Raises:
            RenderingError: the simulator cannot be loaded.
        """

    @abstractmethod
    def make(self, task: str, env: EnvConfig, seed: int) -> PixelEnv:
        """Return the environment of a task; ``seed`` determines its stream of episodes.

        Raises:
            ConfigError: it has not what ``env`` asks for.
            RenderingError: headless rendering does not work.
        """

    def check(self, family: str, task: str, path: str) -> None:
        """Check that there is a task of this name, without making it.

        Args:
            family: name of this family.
            task: name of the task.
            path: dotted key that an error names.

        Raises:
            ConfigError: there is none; offers the nearest names.
            RenderingError: see :meth:`task_names`.
        """
        known = [f"{family}/{name}" for name in self.task_names()]
        check_task_name(path, f"{family}/{task}", known)


def check_task_name(path: str, value: str, known: Sequence[str], beside: str = "") -> None:
    """Accept ``value`` if it is one of the ``known`` tasks.

    Args:
        path: dotted key that an error names.
        value: name of a task.
        known: names of all.
        beside: what an error offers after the nearest names.

    Raises:
        ConfigError: it is not; the message starts with the dotted ``path`` and offers the nearest names.
    """
    if value in known:
        return
    nearest = difflib.get_close_matches(value, known, n=SHOWN, cutoff=0.4) + ([beside] if beside else [])
    if nearest:
        raise ConfigError(f"{path}={value}: no such task; did you mean {' or '.join(nearest)}?")
    of_family = {name.partition("/")[0]: name for name in reversed(known)}
    some = ", ".join(sorted(of_family.values())[:SHOWN])
    raise ConfigError(f"{path}={value}: no such task; there are {len(known)}, such as {some}")
