"""What a user chose, against what a source has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from prelar_ray.errors import ConfigError
from prelar_ray.sources.source import Choice

__all__ = ["check_choice", "chosen_cameras", "chosen_numbers", "selects"]

_OPTIONS: Final = {
    "camera": "--camera",
    "episodes": "--episodes",
    "list": "--list",
    "labels": "--label",
    "start": "--start",
    "end": "--end",
    "actions": "--actions",
}
"""Fields of a choice that not every format has, and how a user gives them."""


def check_choice(choice: Choice, path: Path, format: str, *fields: str) -> None:
    """Raise ConfigError if a field is chosen that is not among ``fields``, those that the format has."""
    for field, option in _OPTIONS.items():
        if field not in fields and getattr(choice, field) != Choice.model_fields[field].default:
            raise ConfigError(f"{option}: {path} is read as {format}, which has no such choice; leave it out")


def chosen_cameras(choice: Choice, path: Path, cameras: Sequence[str]) -> tuple[str, ...]:
    """Return the views to read, of those that there are.

    Raises:
        ConfigError: there are several and none is chosen, or not the one that is chosen; lists them.
    """
    if choice.camera == "all" or (len(cameras) == 1 and not choice.camera):
        return tuple(cameras)
    listed = ", ".join(cameras)
    if not choice.camera:
        raise ConfigError(f"{path}: several cameras ({listed}); choose one with --camera, or --camera all")
    if choice.camera not in cameras:
        raise ConfigError(f"--camera {choice.camera}: {path} has {listed}; choose one of them, or all")
    return (choice.camera,)


def selects(choice: Choice) -> bool:
    """Whether the choice leaves out episodes by number."""
    return bool(choice.episodes) or choice.limit is not None


def chosen_numbers(choice: Choice, path: Path, numbers: Iterable[int]) -> list[int]:
    """Return the numbers of the episodes to read: the first ``limit`` of those that are wanted.

    Raises:
        ConfigError: none is left.
    """
    chosen = list(islice((number for number in numbers if choice.wants(number)), choice.limit))
    if not chosen:
        raise ConfigError(f"{path}: no episode is left by --episodes and --limit; numbers start at 0")
    return chosen
