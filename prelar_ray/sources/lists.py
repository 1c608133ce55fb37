"""Files that list which videos to read, in three forms that their first line tells apart.

::

    78687 41 93                            id, frames, class: Something-Something-V2; category.txt beside it has names
    train/abseiling/a.mp4 0                path, label: V-JEPA
    P01/P01_01.mp4,0:01:02.5,70,open door  path, start, end and perhaps a name: parts of long files, in seconds or
                                           H:MM:SS; a first line path,start,end,name may give another order

Paths are relative to the folder that the list is used for.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from prelar_ray.errors import ConfigError, DataError

__all__ = ["Entry", "read_list", "seconds"]

FORMS: Final = '"<id> <frames> <class>", "<path> <label>" or "path,start,end[,name]"'
NAMED: Final = 12
"""Classes that an error names at most."""


@dataclass(frozen=True)
class Entry:
    """A line of a list."""

    line: int
    """Number of the line, from 1."""
    path: str
    """File, or folder, or its name without suffix."""
    label: str = ""
    """Class as the list has it."""
    name: str = ""
    """Class in words, where known: else as the list has it."""
    frames: int | None = None
    """How many there should be."""
    start: float = 0.0
    """Seconds into the file."""
    end: float | None = None
    """None: its end."""
    is_cut: bool = False
    """Whether the list gives times."""


def read_list(path: Path, labels: Sequence[str] = ()) -> tuple[Entry, ...]:
    """Read a list: all entries, or those of the classes ``labels``, by number or name.

    Raises:
        DataError: it cannot be read, is empty, or a line is of another form; names the line.
        ConfigError: no entry is of a class that is asked for; names those there are.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list ({error}); expected lines of {FORMS}") from error
    entries = [*_entries(path, [(number, line) for number, line in enumerate(lines, 1) if line.strip()])]
    if not entries:
        raise DataError(f"{path}: an empty list; expected lines of {FORMS}")
    for label in labels:
        if not any(label in (entry.label, entry.name) for entry in entries):
            known = sorted({entry.name or entry.label for entry in entries} - {""})
            some = ", ".join(known[:NAMED]) + (f" and {len(known) - NAMED} more" if len(known) > NAMED else "")
            raise ConfigError(f"--label {label}: no such class in {path}; it has {some or 'no classes'}")
    return tuple(entry for entry in entries if not labels or {entry.label, entry.name} & {*labels})


def seconds(text: str) -> float:
    """Return a time written as seconds, M:SS or H:MM:SS, with or without a fraction.

    Raises:
        ValueError: it is not one.
    """
    if not re.fullmatch(r"\s*(\d+:){0,2}\d+(\.\d*)?\s*", text):
        raise ValueError(f"{text!r} is no time in seconds or H:MM:SS")
    total = 0.0
    for part in text.split(":"):
        total = 60 * total + float(part)
    return total


def _entries(path: Path, lines: Sequence[tuple[int, str]]) -> Iterator[Entry]:
    """Parse lines that are not blank, with their numbers."""
    if not lines:
        return
    first = lines[0][1]
    cells = [cell.strip().lower() for cell in next(csv.reader([first]))]
    if "path" in cells or _is_cut(cells):
        columns = cells if "path" in cells else ["path", "start", "end", "name"]
        missing = {"path", "start", "end"} - {*columns}
        if missing:
            raise DataError(f"{path}:1: no column {sorted(missing)[0]}; expected path,start,end[,name]")
        for number, line in lines["path" in cells :]:
            yield _cut(path, number, dict(zip(columns, next(csv.reader([line])), strict=False)))
    elif re.fullmatch(r"\S+\s+\d+\s+\d+", first.strip()):
        yield from _with_frames(path, lines)
    else:
        for number, line in lines:
            words = line.strip().rsplit(maxsplit=1)
            if len(words) != 2:
                raise DataError(f"{path}:{number}: {line.strip()[:80]!r}; expected {FORMS}")
            yield Entry(number, words[0], words[1])


def _is_cut(cells: Sequence[str]) -> bool:
    try:
        return len(cells) in (3, 4) and seconds(cells[1]) >= 0 and (not cells[2] or seconds(cells[2]) >= 0)
    except ValueError:
        return False


def _cut(path: Path, number: int, row: dict[str, str]) -> Entry:
    try:
        name, file = row.get("name", "").strip(), row["path"].strip()
        start = seconds(row["start"]) if row["start"].strip() else 0.0
        end = seconds(row["end"]) if row["end"].strip() else None
    except (KeyError, ValueError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else error
        raise DataError(f"{path}:{number}: {why}; expected path,start,end[,name]") from error
    if not file:
        raise DataError(f"{path}:{number}: no path; expected path,start,end[,name]")
    if end is not None and end <= start:
        raise DataError(f"{path}:{number}: ends at {end:g} s, not after its start at {start:g} s; correct the line")
    return Entry(number, file, name, name, start=start, end=end, is_cut=start > 0 or end is not None)


def _with_frames(path: Path, lines: Sequence[tuple[int, str]]) -> Iterator[Entry]:
    """Parse lines of id, frames and class; line n of category.txt, from 0, names class n."""
    beside = path.with_name("category.txt")
    names = beside.read_text(encoding="utf-8-sig").splitlines() if beside.is_file() else []
    for number, line in lines:
        words = line.split()
        if len(words) != 3 or not (words[1].isdecimal() and words[2].isdecimal()):
            raise DataError(f"{path}:{number}: {line.strip()[:80]!r}; expected <id> <frames> <class>")
        entry = Entry(number, words[0], words[2], frames=int(words[1]))
        if names and int(words[2]) >= len(names):
            raise DataError(f"{path}:{number}: class {words[2]}, but {beside} names {len(names)}; use those of one set")
        yield replace(entry, name=names[int(words[2])].strip()) if names else entry
