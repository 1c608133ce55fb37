"""Files that survive a kill: atomic replacement, and JSON lines whose last line may be cut off."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from prelar_ray.errors import DataError
from prelar_ray.storage.json_text import CHECK, finite_or_null, parse_json, take_check, with_check
from prelar_ray.storage.reading import read_bytes, read_end
from prelar_ray.wording import counted, printable

__all__ = [
    "append_json_line",
    "atomic_file",
    "cannot_write",
    "count_lines",
    "exclusive_file",
    "filter_json_lines",
    "new_folder",
    "prepare_file",
    "read_json_lines",
    "read_last_json_lines",
    "remove_unfinished",
    "sync_lines",
    "write_json",
]

MOST_BYTES_OF_LINES = 2**30
"""Size above which a file of JSON lines is refused."""
LAST_BYTES = 2**17
"""What is read of a file of JSON lines by who wants to know the last ones: some dozens of lines of metrics."""
NAME_BYTES = 200
"""Of a name, how many a temporary file beside it repeats; no name may have more than 255."""

RANDOM = 12
"""Characters of a temporary name that nobody can guess."""

_TEMPORARY = re.compile(rf"\..+\.[0-9a-f]{{{RANDOM}}}\.tmp")

log = logging.getLogger(__name__)


def _beside(path: Path, suffix: str) -> Path:
    """Return an unpredictable hidden name in the folder of ``path``."""
    start = os.fsencode(path.name)[:NAME_BYTES].decode(errors="ignore")
    return path.with_name(f".{start}.{secrets.token_hex(RANDOM // 2)}{suffix}")


def exclusive_file(path: Path, mode: int = 0o666) -> BinaryIO:
    """Create a file to write; never opens one that is there, nor what a link there points to.

    Args:
        path: of the file.
        mode: its rights from the first moment on, less those that the umask takes.

    Raises:
        OSError: something of that name is there, or it cannot be created.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, mode), "wb")


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces ``path`` atomically, flushed to disk, when the block ends without an exception.

    Until then it is ``.NAME.RANDOM.tmp``, so that nobody can put a link in its place beforehand.

    Raises:
        DataError: it cannot be written (disk full, folder not writable); a previous file at ``path`` is unchanged.
    """
    temporary = _beside(path, ".tmp")
    try:
        with exclusive_file(temporary) as file:
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


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes ``path`` when the block ends without an exception.

    What a kill left of an earlier one is removed first.

    Raises:
        OSError: it cannot be made, or something is at ``path``.
    """
    temporary = _beside(path, ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    start = temporary.name.removesuffix(".part")[:-RANDOM]
    for left in path.parent.iterdir():
        if left.name.startswith(start) and re.fullmatch(r"[0-9a-f]+\.part", left.name.removeprefix(start)):
            shutil.rmtree(left, ignore_errors=True)  # removes no link, and nothing behind one
    try:
        temporary.mkdir()
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files that a kill left in a folder; nobody else may be writing there."""
    with suppress(OSError):
        for entry in folder.iterdir():
            if _TEMPORARY.fullmatch(entry.name) and not entry.is_dir():
                entry.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any], indent: int = 2) -> None:
    """Write an object atomically, with a checksum; NaN and infinities become null.

    Raises:
        DataError: it cannot be written.
    """
    with atomic_file(path) as file:
        text = json.dumps(with_check(finite_or_null(dict(content))), indent=indent, allow_nan=False)
        file.write(text.encode() + b"\n")


def prepare_file(path: Path) -> None:
    """Create the folder of an output file and check that the file can be written, before long work starts.

    Raises:
        DataError: it cannot; OSError: a name is too long.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # named by its length, as everywhere
            raise
        reason = f"no folder can be made for it ({error.strerror})"
        raise DataError(f"{path}: cannot write: {reason}; choose another") from error
    if path.is_dir():
        raise DataError(f"{path}: cannot write: a folder, expected a file; add a name to it")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise DataError(f"{path}: cannot write: its folder is not writable; choose another")


def append_json_line(path: Path, row: dict[str, Any]) -> None:
    """Append one object as one line, with a checksum; a half-written last line is replaced.

    Raises:
        DataError: the file cannot be written.
    """
    line = json.dumps(with_check(row), allow_nan=False).encode() + b"\n"
    try:
        with path.open("ab+") as file:
            _drop_half_line(file)
            file.write(line)
    except OSError as error:
        raise cannot_write(path, error) from error


def sync_lines(path: Path) -> int:
    """Flush a file of lines to disk and return their number; 0 for one that is missing.

    Raises:
        DataError: it cannot be flushed.
    """
    if not path.exists():
        return 0
    try:
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error
    return count_lines(path)


def count_lines(path: Path) -> int:
    """Return the number of lines of a file, without one that was cut off; 0 for a file that is missing.

    Raises:
        DataError: it cannot be read.
    """
    if not path.exists():
        return 0
    try:
        with path.open("rb") as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(2**20), b""))
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror}") from error


class _Line(NamedTuple):
    text: bytes
    row: dict[str, Any]


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return one dictionary per line; a last line without line break was cut off by a kill and is omitted.

    Lines whose checksum is wrong are read, with a warning; numbers may be infinite or NaN.

    Raises:
        DataError: the file is missing, or a line within it is not a JSON object.
    """
    return [line.row for line in _lines(path)]


def read_last_json_lines(path: Path, most: int = LAST_BYTES) -> tuple[list[dict[str, Any]], int]:
    """Return the dictionaries in the last ``most`` bytes of a file that may be being written, and how many are damaged.

    Lines that are cut off at either end are omitted. Damaged ones, also by their checksum, are omitted and counted.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    content, whole = read_end(path, most)
    rows: list[dict[str, Any]] = []
    damaged = 0
    for text in content.split(b"\n")[0 if whole else 1 : -1]:
        try:
            row = parse_json(text, finite=False)
        except ValueError:
            row = None
        if isinstance(row, dict) and take_check(row):
            rows.append(row)
        else:
            damaged += 1
    return rows, damaged


def filter_json_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Keep only the lines for which ``keep`` is true, as they are, atomically; a missing file stays missing.

    Raises:
        DataError: a line is not a JSON object, or the file cannot be written.
    """
    if not path.exists():
        return
    lines = _lines(path)
    with atomic_file(path) as file:
        file.writelines(line.text + b"\n" for line in lines if keep(line.row))


def _lines(path: Path) -> list[_Line]:
    content = read_bytes(path, "restore it from a copy", MOST_BYTES_OF_LINES)
    found: list[_Line] = []
    changed: list[int] = []
    twice: list[int] = []
    for number, text in enumerate(content.split(b"\n")[:-1], start=1):
        reason = ""
        try:
            row = parse_json(text, finite=False)
        except ValueError as error:
            row, reason = None, f" ({printable(str(error), 80)})"
        if not isinstance(row, dict):
            raise DataError(f"{path}: line {number} is not a JSON object; delete that line to use the rest{reason}")
        has_checksum = CHECK in row
        if not take_check(row):
            changed.append(number)
        if has_checksum and found and found[-1].text == text:  # what this package writes has a time or an update
            twice.append(number)
        found.append(_Line(text, row))
    if twice:
        log.warning("%s: %s there twice, the first is line %d", path, counted(len(twice), "line"), twice[0])
    if changed:
        log.warning(
            "%s: %s, the first is line %d, changed since written, or damaged: the checksum differs",
            *(path, counted(len(changed), "line"), changed[0]),
        )
    return found


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
