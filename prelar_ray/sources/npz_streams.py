"""Streams of DreamerV3: chunks ``<time>-<uuid>-<successor>-<length>.npz`` in which episodes begin and end anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from prelar_ray.errors import DataError
from prelar_ray.sources.arrays import as_frames
from prelar_ray.sources.files import natural
from prelar_ray.sources.npz_arrays import load
from prelar_ray.sources.pictures import ArrayPicture, Picture
from prelar_ray.types import Frames

__all__ = ["Stream", "chunk_length", "streams"]

_NAME: Final = re.compile(
    r"[0-9]{8}T[0-9A-Z]+-(?P<uuid>[0-9A-Za-z]+)-(?P<successor>[0-9A-Za-z]+)-(?P<length>[0-9]+)\.npz"
)


def chunk_length(file: Path) -> int | None:
    """Return how many rows of a chunk count, by its name, or None if it is no chunk."""
    name = _NAME.fullmatch(file.name)
    return int(name["length"]) if name else None


def streams(files: Iterable[Path]) -> list[tuple[Path, ...]]:
    """Return the chunks in the order in which they follow one another; streams in the order of their first chunks.

    Raises:
        DataError: they follow one another in a circle.
    """
    chunks: dict[str, Path] = {}
    followers: dict[str, str] = {}
    for file in sorted(files, key=lambda file: chunk_length(file) or 0):  # the longest counts: saved again as it grew
        if name := _NAME.fullmatch(file.name):
            chunks[name["uuid"]] = file
            followers[name["uuid"]] = name["successor"]
    found = []
    for start in chunks.keys() - set(followers.values()):
        stream, uuid = [], start
        while uuid in chunks:
            stream.append(chunks.pop(uuid))
            uuid = followers[uuid]
        found.append(tuple(stream))
    if chunks:
        file = min(chunks.values())
        raise DataError(f"{file}: its chunks follow one another in a circle; remove the one that was renamed")
    return sorted(found, key=lambda stream: natural(stream[0].name))


class Stream:
    """The rows of chunks that follow one another; the pictures of one chunk are in memory at a time.

    Attributes:
        gap: what is missing at its end, or empty.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """Prepare to read; no file is opened."""
        self._files = [(file, chunk_length(file) or 0) for file in files]
        self._frames: tuple[Path, str, Frames] | None = None
        last = _NAME.fullmatch(files[-1].name)
        unfinished = last is not None and last["successor"].strip("0")
        self.gap = f"{files[-1].name}: the chunk that follows it is not there" if unfinished else ""

    @property
    def length(self) -> int:
        """Rows."""
        return sum(length for _, length in self._files)

    def episodes(self) -> list[tuple[int, int]]:
        """Return the rows (start, stop) of each episode.

        Raises:
            DataError: see :meth:`rows`.
        """
        first = self.rows("is_first").astype(bool)
        first[0] = True  # a stream may start within an episode
        return list(pairwise([*np.flatnonzero(first).tolist(), len(first)]))

    def rows(self, key: str) -> npt.NDArray[Any]:
        """Return an array ``(T, ...)`` of the whole stream.

        Raises:
            DataError: a chunk lacks it, or has fewer rows than its name says.
        """
        return np.concatenate([_rows(file, key, length) for file, length in self._files])

    def pictures(self, key: str, start: int, stop: int) -> Iterator[tuple[None, Picture]]:
        """Yield the pictures of these rows.

        Raises:
            DataError: a chunk cannot be read.
        """
        offset = 0
        for file, length in self._files:
            for row in range(max(start - offset, 0), min(stop - offset, length)):
                yield None, ArrayPicture(self._of(file, key, length)[row])
            offset += length

    def _of(self, file: Path, key: str, length: int) -> Frames:
        if self._frames is None or self._frames[:2] != (file, key):
            self._frames = None  # frees the last before the next is read
            self._frames = file, key, as_frames(_rows(file, key, length), f"{file}: {key}")
        return self._frames[2]


def _rows(file: Path, key: str, length: int) -> npt.NDArray[Any]:
    array = load(file, key)
    if len(array) < length:
        raise DataError(f"{file}: {key} has {len(array)} rows, its name says {length}; restore it from a copy")
    return array[:length]
