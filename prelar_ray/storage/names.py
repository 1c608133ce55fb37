"""Names that come from elsewhere: an address, an archive, a file that lists files. One check for all of them.

Whatever writes or opens a file by such a name asks :func:`check_name` first, and :func:`check_names` before the first
of several is written. :func:`is_inside` is the check of what links make of a name.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from prelar_ray.errors import DataError
from prelar_ray.wording import printable

__all__ = ["check_name", "check_names", "files_inside", "is_inside", "length_problem", "name_problem"]

PART_BYTES = 255
"""Longest name of a file or folder, on all usual file systems."""
PATH_BYTES = 1024
"""Longest path within a folder; the folder's own comes on top, and all of it may have 4096."""

_DRIVE = re.compile(r"[A-Za-z]:")


def name_problem(name: str) -> str:
    """Return why a relative path, its parts separated by ``/``, may not be used in a folder; nothing if it may."""
    if not name:
        return "is empty"
    if any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in name):
        return "holds control characters or is no Unicode"
    if "\\" in name:
        return "holds a backslash"
    if name.startswith("/"):
        return "is an absolute path"
    if len(name.encode()) > PATH_BYTES:
        return f"is longer than {PATH_BYTES} bytes"
    for part in name.split("/"):
        if part in ("", ".", ".."):
            return f"has the part {part!r}, which leads elsewhere"
        if _DRIVE.match(part):
            return "holds a drive letter"
        if len(part.encode()) > PART_BYTES:
            return f"has a part of more than {PART_BYTES} bytes"
    return ""


def length_problem(path: Path) -> str:
    """Return why a path of the user's is too long for file systems; nothing if no part of it is."""
    for name in path.parts:
        if (size := len(os.fsencode(name))) > PART_BYTES:
            return f"{printable(name[:40])}...: a name of {size} bytes, and file systems take {PART_BYTES}"
    return ""


def check_name(name: str, source: str) -> str:
    """Return ``name`` if it is a path that stays within a folder, and that every file system takes.

    Args:
        name: relative path, with ``/`` between its parts.
        source: the address or file that it comes from, for the message.

    Raises:
        DataError: it is not.
    """
    if problem := name_problem(name):
        raise DataError(f"{printable(source)}: the name {printable(name)!r} {problem}; refused, nothing is written")
    return name


def check_names(names: Iterable[str], source: str) -> list[str]:
    """Return names of files that may be written into one folder.

    Raises:
        DataError: one may not, two differ only in case or in how Unicode spells them, or one is the folder of another.
    """
    found = [check_name(name, source) for name in names]
    files: dict[str, str] = {}
    for name in found:
        before = len(files)
        other = files.setdefault(_same(name), name)
        if len(files) == before:
            raise DataError(
                f"{printable(source)}: the names {printable(other)!r} and {printable(name)!r} are the same on some "
                "file systems; refused, nothing is written"
            )
    for name in found:
        parts = _same(name).split("/")
        folders = ("/".join(parts[:end]) for end in range(1, len(parts)))
        if clash := next((files[folder] for folder in folders if folder in files), ""):
            raise DataError(
                f"{printable(source)}: {printable(clash)!r} is a file and the folder of {printable(name)!r}; refused, "
                "nothing is written"
            )
    return found


def is_inside(path: Path, folder: Path) -> bool:
    """Whether what ``path`` stands for, once links are followed, lies in ``folder``."""
    try:
        found = path.resolve()
        return found.is_relative_to(folder.resolve()) and not found.is_symlink()  # which one in a circle still is
    except (OSError, RuntimeError, ValueError):  # the same in Python 3.12, a null byte
        return False


def files_inside(folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield the names of the regular files below a folder, and whether each lies there once links are followed.

    Links to folders are not descended into.
    """
    for root, folders, names in os.walk(folder):
        for name in [*names, *(name for name in folders if os.path.islink(os.path.join(root, name)))]:
            path = Path(root, name)
            inside = not path.is_symlink() or is_inside(path, folder)
            if path.is_file() or not inside:
                yield path.relative_to(folder).as_posix(), inside


def _same(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
