"""Files that survive a kill: atomic replacement, and JSON lines whose last line may be cut off."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from prelar_ray.errors import DataError

__all__ = ["append_json_line", "atomic_file", "cannot_write", "filter_json_lines", "prepare_file", "read_json_lines"]


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces ``path`` atomically, flushed to disk, when the block ends without an exception.

    Raises:
        DataError: it cannot be written (disk full, folder not writable); a previous file at ``path`` is unchanged.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


def prepare_file(path: Path) -> None:
    """Create the folder of an output file and check that the file can be written, before long work starts.

    Raises:
        DataError: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"no folder can be made for it ({error.strerror})"
        raise DataError(f"{path}: cannot write: {reason}; choose another") from error
    if path.is_dir():
        raise DataError(f"{path}: cannot write: a folder, expected a file; add a name to it")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise DataError(f"{path}: cannot write: its folder is not writable; choose another")


def append_json_line(path: Path, row: dict[str, Any]) -> None:
    """Append one object as one line; a half-written last line is replaced.

    Raises:
        DataError: the file cannot be written.
    """
    line = json.dumps(row, allow_nan=False).encode() + b"\n"
    try:
        with path.open("ab+") as file:
            _drop_half_line(file)
            file.write(line)
    except OSError as error:
        raise cannot_write(path, error) from error


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return one dictionary per line; a last line without line break was cut off by a kill and is omitted.

    Raises:
        DataError: the file is missing, or a line within it is not a JSON object.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:  # not JSON, or not UTF-8
            row = None
        if not isinstance(row, dict):
            raise DataError(f"{path}: line {number} is not a JSON object; delete that line to use the rest")
        rows.append(row)
    return rows


def filter_json_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Keep only the lines for which ``keep`` is true, atomically; a missing file stays missing.

    Raises:
        DataError: a line is not a JSON object, or the file cannot be written.
    """
    if not path.exists():
        return
    rows = read_json_lines(path)
    with atomic_file(path) as file:
        file.writelines(json.dumps(row).encode() + b"\n" for row in rows if keep(row))


def _drop_half_line(file: BinaryIO) -> None:
    """Truncate a file after its last line break."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def cannot_write(path: Path, error: OSError) -> DataError:
    """Return the error to raise when ``path`` could not be written, with the free space."""
    space = ""
    with suppress(OSError):
        space = f" ({shutil.disk_usage(path.parent).free / 2**30:.1f} GiB free)"
    return DataError(f"{path}: cannot write: {error.strerror or error}{space}; free space or choose another folder")
