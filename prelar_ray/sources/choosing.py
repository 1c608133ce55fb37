"""What a user chose, against what a source has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from prelar_ray.errors import ConfigError
from prelar_ray.sources.source import Choice, Item

__all__ = ["check_choice", "chosen_cameras", "chosen_items", "chosen_numbers"]

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


def chosen_numbers(choice: Choice, path: Path, numbers: Iterable[int]) -> list[int]:
    """Return the numbers of the episodes to read: the first ``limit`` of those that are wanted.

    Raises:
        ConfigError: none is left.
    """
    chosen = list(islice((number for number in numbers if choice.wants(number)), choice.limit))
    if not chosen:
        raise _none_left(path)
    return chosen


def chosen_items(choice: Choice, path: Path, items: Sequence[Item], count: Callable[[Item], int]) -> Sequence[Item]:
    """Return the items that hold chosen episodes, which are numbered through all items.

    The detail of an item becomes the numbers of its chosen episodes within it, or stays None where all are chosen.
    ``count`` tells how many episodes an item has; it is asked no further than the limit.

    Raises:
        ConfigError: no episode is left.
    """
    if not choice.episodes and choice.limit is None:
        return items
    places = enumerate((item, within) for item in items for within in range(count(item)))
    chosen: dict[str, Item] = {}
    for item, within in islice((place for number, place in places if choice.wants(number)), choice.limit):
        chosen.setdefault(item.key, Item(item.key, item.files, [])).detail.append(within)
    if not chosen:
        raise _none_left(path)
    return list(chosen.values())


def _none_left(path: Path) -> ConfigError:
    return ConfigError(f"{path}: no episode is left by --episodes and --limit; numbers start at 0")
