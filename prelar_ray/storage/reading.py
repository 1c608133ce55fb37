"""The one reader of small files that may have come from anywhere: of a bounded size, checked, errors name file and key.

Whatever describes a run, a study or a video store is read through :func:`read_json`, :func:`read_record` or
:func:`read_yaml`. What they refuse is a :class:`~prelar_ray.errors.DataError` of one line.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError

from prelar_ray.errors import DataError
from prelar_ray.storage.json_text import parse_json, take_check
from prelar_ray.wording import printable

__all__ = [
    "MOST_BYTES",
    "first_mistake",
    "parse_record",
    "read_bytes",
    "read_end",
    "read_json",
    "read_record",
    "read_yaml",
    "validated",
]

MOST_BYTES = 2**24
"""Size above which a file that describes something is refused."""

RESTORE = "restore it from a copy"

R = TypeVar("R", bound=BaseModel)

log = logging.getLogger(__name__)


def read_bytes(path: Path, remedy: str = RESTORE, most: int = MOST_BYTES) -> bytes:
    """Return the content of a regular file of at most ``most`` bytes.

    Raises:
        DataError: it is missing, larger, no regular file or cannot be read.
    """
    with _regular_file(path, remedy) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise DataError(f"{path}: larger than {most / 2**20:g} MiB, which no such file is; {remedy}")
    return content


def read_end(path: Path, most: int) -> tuple[bytes, bool]:
    """Return the last ``most`` bytes of a regular file, and whether they are all of it.

    Raises:
        DataError: it is missing, no regular file or cannot be read.
    """
    with _regular_file(path, RESTORE) as file:
        begin = max(0, file.seek(0, os.SEEK_END) - most)
        file.seek(begin)
        return file.read(most), begin == 0


@contextmanager
def _regular_file(path: Path, remedy: str) -> Iterator[BinaryIO]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not block
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DataError(f"{path}: cannot be read (no regular file); {remedy}")
            yield file
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{path}: cannot be read ({reason}); {remedy}") from error


def read_json(path: Path, remedy: str = RESTORE, most: int = MOST_BYTES) -> Any:
    """Return the value in a JSON file, without its checksum; a checksum that is wrong is a warning.

    Raises:
        DataError: it cannot be read, or is no JSON within the bounds of :func:`parse_json`.
    """
    try:
        content = parse_json(read_bytes(path, remedy, most))
    except ValueError as error:
        raise DataError(f"{path}: cannot be read as JSON ({printable(str(error))}); {remedy}") from error
    if not take_check(content):
        log.warning("%s: was changed since it was written, or is damaged: its checksum differs", path)
    return content


def read_record(kind: type[R], path: Path, remedy: str = RESTORE, most: int = MOST_BYTES) -> R:
    """Return the record in a JSON file.

    Raises:
        DataError: it cannot be read, or a key is missing or of another type; names it.
    """
    content = read_json(path, remedy, most)
    try:
        return parse_record(kind, content)
    except ValueError as error:
        raise DataError(f"{path}: {error}; {remedy}") from error


def parse_record(kind: type[R], content: Any) -> R:
    """Return ``content``, as JSON describes it, as a record; text does not count as a number or truth.

    Raises:
        ValueError: a key is missing or of another type; names the first.
    """
    try:
        return validated(kind, content)
    except ValidationError as error:
        raise ValueError(first_mistake(error)) from error


def validated(kind: type[R], content: Any) -> R:
    """Return what :func:`parse_record` does, for callers that look into pydantic's errors.

    Raises:
        ValidationError: a key is missing or of another type.
    """
    return kind.model_validate_json(json.dumps(content), strict=True)  # a list of JSON may be a tuple of the record


def read_yaml(path: Path, remedy: str = RESTORE) -> Any:
    """Return the value in a YAML file.

    Raises:
        DataError: it cannot be read, or is no YAML within the bounds of :func:`prelar_ray.config.yaml_text.parse`.
    """
    from prelar_ray.config import yaml_text  # a GPU machine may lack pyyaml

    try:
        return yaml_text.parse(read_bytes(path, remedy))
    except ValueError as error:
        raise DataError(f"{path}: not YAML ({printable(str(error))}); {remedy}") from error


def first_mistake(error: ValidationError) -> str:
    """Return the first of pydantic's errors in one short line that begins with its key."""
    first = error.errors()[0]
    key = printable(".".join(map(str, first["loc"])))
    said = str(first["ctx"]["error"]) if first["type"] == "value_error" else str(first["msg"])
    return f"{key}: {printable(said)}" if key else printable(said)
