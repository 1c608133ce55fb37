"""Metrics on disk: ``metrics.jsonl`` for programs, TensorBoard event files for people."""

from __future__ import annotations

import difflib
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, SupportsFloat

from pydantic import ValidationError

from prelar_ray.errors import DataError, RunFolderError
from prelar_ray.storage.files import append_json_line, read_json_lines, read_last_json_lines
from prelar_ray.storage.reading import first_mistake
from prelar_ray.storage.records import MetricLine, drop_lines_after
from prelar_ray.telemetry.metrics import METRICS

__all__ = ["MetricWriter", "read_last_metrics", "read_metrics"]

logger = logging.getLogger(__name__)


class MetricWriter:
    """Writes metrics to ``metrics.jsonl`` and TensorBoard; after ``write`` returns, they survive a kill."""

    def __init__(self, metrics_path: Path, tensorboard_dir: Path, resume_at_update: int | None = None) -> None:
        """Create new files, or continue after ``resume_at_update`` and drop all later lines.

        Raises:
            RunFolderError: a new run finds an old ``metrics.jsonl``.
            DataError: the file to continue is damaged, or the folder cannot be written.
        """
        from prelar_ray.telemetry.tensorboard import EventFile  # imports torch, which readers of metrics do not need

        if resume_at_update is not None:
            drop_lines_after(metrics_path, resume_at_update)
        elif metrics_path.exists():
            raise RunFolderError(f"{metrics_path}: already holds metrics of another run; choose another --out")
        self._path = metrics_path
        self._events = EventFile(tensorboard_dir, None if resume_at_update is None else resume_at_update + 1)

    def write(self, update: int, env_steps: int, values: Mapping[str, SupportsFloat]) -> None:
        """Write one line. NaN and infinity become ``null`` with a warning in the log.

        Raises:
            ValueError: a name is not in :data:`METRICS`.
            DataError: the disk is full or the folder cannot be written.
        """
        for name in values:
            if name not in METRICS:
                near = difflib.get_close_matches(name, METRICS, n=1)
                raise ValueError(f"unknown metric {name!r}{f', the nearest is {near[0]!r}' if near else ''}")
        numbers = {name: float(value) for name, value in values.items()}
        finite = {name: number for name, number in numbers.items() if math.isfinite(number)}
        for name in numbers.keys() - finite.keys():
            logger.warning("update %d: %s is %s, written as null", update, name, numbers[name])
        now = round(time.time(), 3)
        row = {"time": now, "update": int(update), "env_steps": int(env_steps)}
        append_json_line(self._path, row | {name: finite.get(name) for name in numbers})
        self._events.write(now, update, finite)

    def close(self) -> None:
        """Close the TensorBoard file."""
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, float | None]]:
    """Return the lines of a ``metrics.jsonl``; a line cut off by a kill is omitted.

    Raises:
        DataError: the file is missing, or a line within it is damaged.
    """
    rows = read_json_lines(path)
    for number, row in enumerate(rows, start=1):
        try:
            MetricLine.model_validate(row, strict=True)
        except ValidationError as error:
            raise DataError(
                f"{path}: line {number}: {first_mistake(error)}; delete that line to use the rest"
            ) from error
    return rows


def read_last_metrics(path: Path) -> tuple[list[dict[str, float | None]], int]:
    """Return the last lines of a ``metrics.jsonl`` that may be being written, and how many of them are damaged.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    rows, damaged = read_last_json_lines(path)
    sound = [row for row in rows if _is_line(row)]
    return sound, damaged + len(rows) - len(sound)


def _is_line(row: dict[str, float | None]) -> bool:
    try:
        MetricLine.model_validate(row, strict=True)
    except ValidationError:
        return False
    return True
