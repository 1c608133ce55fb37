"""Finding the files of a source, and saying in one line why one cannot be read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from prelar_ray.errors import DataError

__all__ = ["check_readable", "mostly", "natural", "total_bytes", "visible_files"]

_POINTER: Final = b"version https://git-lfs"


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return the key that sorts names as people count: ``demo_2`` before ``demo_10``."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return tuple((0, int(part), part) if "0" <= part[0] <= "9" else (1, 0, part) for part in parts)


def visible_files(folder: Path, *suffixes: str) -> list[Path]:
    """Return the files in ``folder`` whose names end so, sorted naturally; links to files count, dot names do not.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.name
                for entry in entries
                if entry.name.lower().endswith(suffixes) and entry.name[0] != "." and entry.is_file()
            ]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error
    return [folder / name for name in sorted(names, key=natural)]


def mostly(path: Path, *suffixes: str) -> bool:
    """Whether this file, or at least half of the files in this folder, have names that end so; never raises."""
    hits = others = 0
    try:
        if path.is_file():
            return path.name.lower().endswith(suffixes)
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name[0] != "." and entry.is_file():
                    hit = entry.name.lower().endswith(suffixes)
                    hits, others = hits + hit, others + (not hit)
    except OSError:
        return False
    return hits > 0 and hits >= others


def check_readable(path: Path) -> None:
    """Raise DataError unless ``path`` is a file with content that may be read, and no pointer of Git LFS."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing; download it, or restore it from a copy") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from error
    if not start:
        raise DataError(f"{path}: empty; restore it from a copy")
    if start == _POINTER:
        raise DataError(f"{path}: a pointer of Git LFS, not the data; run `git lfs pull` in its repository")


def total_bytes(paths: Iterable[Path]) -> tuple[int, list[Path]]:
    """Return the size of all files together, and those that are missing."""
    total, missing = 0, []
    for path in paths:
        try:
            total += path.stat().st_size
        except OSError:
            missing.append(path)
    return total, missing
