"""Rows of LeRobot's tables: pictures and actions of episodes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from prelar_ray.errors import DataError
from prelar_ray.sources.arrays import as_actions
from prelar_ray.sources.files import check_readable
from prelar_ray.sources.pictures import EncodedPicture
from prelar_ray.storage.names import name_problem
from prelar_ray.video.actions import Actions

__all__ = ["ActionTable", "open_parquet", "pictures_of_episodes"]

_ROWS: Final = 64
"""Pictures that are in memory at once."""


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a table.

    Raises:
        DataError: it is missing, damaged, or was never completed.
    """
    check_readable(path)
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        reason = "it has no footer: its recording was not completed by finalize()" if "footer" in str(error) else error
        raise DataError(f"{path}: not a readable table ({reason}); record or download it again") from error


def pictures_of_episodes(folder: Path, file: str, camera: str) -> Iterator[tuple[int, Iterator[EncodedPicture]]]:
    """Yield each episode of a table: its number, and its pictures from front to back.

    Raises:
        DataError: the table cannot be read, or has no pictures under this name.
    """
    for episode, rows in groupby(_rows(folder / file, "episode_index", camera), key=itemgetter(0)):
        yield episode, (_picture(folder, file, camera, number, cell) for number, (_, cell) in enumerate(rows))


class ActionTable:
    """Actions of the episodes in one table.

    Attributes:
        file: the table.
    """

    def __init__(self, path: Path) -> None:
        """Read them all.

        Raises:
            DataError: the table cannot be read, or has no actions.
        """
        self.file = path
        with open_parquet(path) as table:
            columns = _checked(path, table, "episode_index", "action")
            try:
                read = table.read(columns=columns)
                self._episodes = read.column("episode_index").to_numpy()
                self._values = _matrix(read.column("action"))
            except (pa.ArrowException, OSError, ValueError) as error:
                raise DataError(f"{path}: no actions can be read ({error}); leave --actions out") from error

    def of(self, episode: int) -> Actions:
        """Return the actions of an episode, float32 ``(T, A)``; row t led to picture t.

        Raises:
            DataError: the table does not have it.
        """
        values = self._values[self._episodes == episode]
        if not len(values):
            raise DataError(f"{self.file}: no rows of episode {episode}; restore it from a copy")
        return as_actions(values, taken_at=True, name=f"{self.file}: action")


def _rows(path: Path, *columns: str) -> Iterator[tuple[Any, ...]]:
    with open_parquet(path) as table:
        names = _checked(path, table, *columns)
        try:
            for batch in table.iter_batches(batch_size=_ROWS, columns=names):
                yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: cannot be read further ({error}); download it again") from error


def _checked(path: Path, table: pq.ParquetFile, *columns: str) -> list[str]:
    for name in columns:
        if name not in table.schema_arrow.names:
            raise DataError(f"{path}: no column {name} among {', '.join(table.schema_arrow.names)}; correct info.json")
    return list(columns)


def _picture(folder: Path, file: str, camera: str, number: int, cell: Any) -> EncodedPicture:
    name = f"{folder / file}: {camera}, picture {number}"
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if isinstance(data, bytes):
        return EncodedPicture(data, name)
    if isinstance(path, str) and not name_problem(path):
        check_readable(folder / path)
        return EncodedPicture(folder / path, name)
    raise DataError(f"{name}: neither bytes of a picture nor the path of one in the folder; convert it to video")


def _matrix(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Return a column of numbers or of lists of equal length as ``(T, ...)``."""
    array = column.combine_chunks()
    if not hasattr(array, "flatten") or not pa.types.is_nested(array.type):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    values: npt.NDArray[Any] = array.flatten().to_numpy(zero_copy_only=False)
    if len(values) % max(1, len(array)) or array.null_count:
        raise ValueError("rows of different lengths")
    return values.reshape(len(array), -1)
