"""Durable episodes of the replay buffer: one Arrow file each, so that a restarted run gets its experience back.

File names carry the order of insertion and the key, ``00000012-env0001-episode000003.arrow``; a folder listing is the
index. Each file holds the episode's arrays and, in its metadata, the remaining fields and a SHA-256 over all of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prelar_ray.errors import DataError
from prelar_ray.storage.arrow import read_arrays, write_arrays
from prelar_ray.types import Episode, no_frames

__all__ = ["EpisodeStore"]

_FILE_NAME = re.compile(r"(\d{8,})-(env\d+-episode\d+)\.arrow")

log = logging.getLogger(__name__)


class EpisodeStore:
    """Keeps finished episodes in a folder, in order of insertion and each key once. One process writes a folder."""

    def __init__(self, path: Path) -> None:
        """Open or create the folder and remove what a killed writer left unfinished.

        Raises:
            DataError: the folder cannot be used.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            for stray in path.glob("*.tmp"):
                stray.unlink()
            names = [_FILE_NAME.fullmatch(file.name) for file in path.iterdir()]
        except OSError as error:
            raise DataError(f"{path}: cannot hold episodes ({error.strerror}); choose another folder") from error
        self._path = path
        self._files = {match[2]: path / match[0] for match in sorted(filter(None, names), key=lambda m: int(m[1]))}
        self._next = max(map(_order, self._files.values()), default=-1) + 1

    @property
    def appended(self) -> int:
        """Order number of the next episode; it only grows, so that ``upto`` can name a moment."""
        return self._next

    def append(self, episode: Episode) -> None:
        """Write an episode durably; a key that is already here is left as it is.

        Raises:
            DataError: the disk is full; the store is as before.
        """
        if episode.key in self._files:
            return
        arrays, metadata = _split(episode)
        path = self._path / f"{self._next:08d}-{episode.key}.arrow"
        write_arrays(path, arrays, {**metadata, "sha256": _digest(arrays, metadata)})
        self._files[episode.key] = path
        self._next += 1

    def keys(self, upto: int | None = None) -> list[str]:
        """Keys in order of insertion; ``upto`` leaves out those inserted once ``appended`` had reached it."""
        return [key for key, path in self._files.items() if upto is None or _order(path) < upto]

    def load(self, key: str) -> Episode:
        """Return an episode that owns its arrays.

        Raises:
            DataError: it is not here or damaged; the message names the file.
        """
        if key not in self._files:
            raise DataError(f"{self._path}: holds no episode {key}; it was never appended, or discarded since")
        path = self._files[key]
        arrays, metadata = read_arrays(path, copy=True)
        expected = metadata.pop("sha256", None)
        if _digest(arrays, metadata) != expected:
            raise DataError(
                f"{path}: the checksum differs, the episode is damaged; delete the file to continue without it"
            )
        if "image" not in arrays and "vector" in arrays:
            arrays["image"] = no_frames(len(arrays["vector"]))
        try:
            episode = Episode(**arrays, **{name: int(value) for name, value in metadata.items()})  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: not an episode of this release ({error}); start a new run") from error
        if episode.key != key:
            raise DataError(f"{path}: holds {episode.key}, not what its name says; rename or delete the file")
        return episode

    def iterate(self, upto: int | None = None, skip_bad: bool = False) -> Iterator[Episode]:
        """Load episodes one by one in order of insertion; see :meth:`keys` for ``upto``.

        Raises:
            DataError: one is damaged and not to be skipped (with a warning) by ``skip_bad``.
        """
        for key in self.keys(upto):
            try:
                episode = self.load(key)
            except DataError as error:
                if not skip_bad:
                    raise
                log.warning("episode %s is left out: %s", key, error)
                continue
            yield episode

    def load_all(self, skip_bad: bool = False) -> list[Episode]:
        """Return all episodes in order of insertion; raises as :meth:`iterate` does."""
        return list(self.iterate(skip_bad=skip_bad))

    def discard(self, keys: Iterable[str]) -> None:
        """Delete episodes that left the buffer; keys that are not here are passed over."""
        for key in keys:
            if key in self._files:
                self._files.pop(key).unlink(missing_ok=True)


def _order(path: Path) -> int:
    """Return the order number in a file name."""
    return int(path.name.partition("-")[0])


def _split(episode: Episode) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """Return the fields of an episode as arrays, of which those without numbers are left out, and as metadata."""
    values = {field.name: getattr(episode, field.name) for field in fields(episode)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    metadata = {name: str(value) for name, value in values.items() if name not in arrays}
    return {name: array for name, array in arrays.items() if array.size}, metadata


def _digest(arrays: dict[str, npt.NDArray[Any]], metadata: dict[str, str]) -> str:
    """Return the SHA-256 over names, types, shapes, content and metadata."""
    layout = [[name, str(array.dtype), array.shape] for name, array in arrays.items()]
    digest = hashlib.sha256(json.dumps([layout, metadata], sort_keys=True).encode())
    for array in arrays.values():
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
