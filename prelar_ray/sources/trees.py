"""Files below a folder, as all readers of folders see them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from prelar_ray.errors import DataError

__all__ = ["Folder", "folders", "spread"]

SAMPLE: Final = 20
"""Files that are opened to describe a source."""

Thing = TypeVar("Thing")


class Folder(NamedTuple):
    """A folder below another."""

    below: str
    """Relative path with slashes; empty for the other itself."""
    names: list[str]
    """Of its files, not sorted."""


def folders(root: Path) -> Iterator[Folder]:
    """Yield ``root`` and all folders below it, those of one folder sorted by name.

    Dot names are left out: ``.cache`` of hubs, ``._a.mp4`` of macOS. Links are followed, save in circles.

    Raises:
        DataError: a folder cannot be listed.
    """
    waiting = [("", frozenset({os.path.realpath(root)}))]
    while waiting:
        below, passed = waiting.pop()
        folder, names = Folder(below, []), []
        try:
            with os.scandir(root / below) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        names.append((entry.name, entry.is_symlink()))
                    elif entry.is_file() or entry.is_symlink():  # one that leads nowhere is a missing file
                        folder.names.append(entry.name)
        except OSError as error:
            raise DataError(f"{root / below}: cannot be listed ({error.strerror}); correct its permissions") from error
        yield folder
        for name, linked in sorted(names, reverse=True):
            inner = f"{below}/{name}" if below else name
            real = os.path.realpath(root / inner) if linked else ""
            if real not in passed:
                waiting.append((inner, passed | {real} if linked else passed))


def spread(things: Sequence[Thing], most: int = SAMPLE) -> list[Thing]:
    """Return some, evenly spread, to judge all by."""
    number = min(most, len(things))
    return [things[index * len(things) // number] for index in range(number)]
