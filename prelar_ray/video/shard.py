"""One shard of a video store: written whole, checked against its line of the journal, read by ranges of frames."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prelar_ray.errors import DataError
from prelar_ray.storage.arrow import ArrayFile, Compression, checksum, write_arrays
from prelar_ray.storage.json_text import parse_json
from prelar_ray.types import Frames, check_frames
from prelar_ray.video.layout import ShardRecord

__all__ = ["Shard", "WholeEpisode", "checksum_problem", "size_problem", "write_shard"]

COLUMN = "frames"


class WholeEpisode(NamedTuple):
    """Frames of an episode, and where it came from."""

    source: str
    frames: Frames  # (T, Hpx, Wpx, C)


def write_shard(
    path: Path, file: str, episodes: Sequence[WholeEpisode], compression: Compression, note: dict[str, Any]
) -> ShardRecord:
    """Write episodes to ``path`` atomically and return their line of the journal, which names them ``file``.

    Raises:
        DataError: the disk is full.
    """
    sources, lengths = [one.source for one in episodes], [len(one.frames) for one in episodes]
    frames = np.concatenate([one.frames for one in episodes])  # (T, Hpx, Wpx, C)
    info = write_arrays(path, {COLUMN: frames}, {"episodes": _episodes(sources, lengths)}, compression)
    return ShardRecord(
        file=file,
        frames=len(frames),
        bytes=info.bytes,
        sha256=info.sha256,
        sources=sources,
        lengths=lengths,
        note=note,
    )


class Shard:
    """An open shard. Threads may share it."""

    def __init__(self, path: Path, record: ShardRecord, image_size: int | None = None) -> None:
        """Map the file, whose frames are of ``image_size`` pixels, or of any size that a store can have.

        Raises:
            DataError: it is missing, damaged, or not what the journal describes.
        """
        if problem := size_problem(path, record):
            raise DataError(problem)
        self._file = ArrayFile(path)
        if list(self._file.shapes) != [COLUMN]:
            names = ", ".join(self._file.shapes)
            raise DataError(f"{path}: holds {names}, expected frames and nothing else; record it again")
        shape, dtype = self._file.shapes[COLUMN]
        check_frames(np.broadcast_to(np.zeros((), dtype), shape), str(path), image_size)
        if not _describes(self._file.metadata.get("episodes", ""), record) or shape[0] != record.frames:
            raise DataError(f"{path}: its episodes are not those of the manifest, it is of another store; restore it")

    def read(self, start: int, stop: int, out: Frames | None = None) -> Frames:
        """Return the frames ``start`` to ``stop``, ``(T, Hpx, Wpx, C)``: in ``out``, or a view where uncompressed.

        Raises:
            DataError: they cannot be decoded.
        """
        return self._file.read(COLUMN, start, stop, out)


def size_problem(path: Path, record: ShardRecord) -> str:
    """Return what is wrong with the size of a shard's file, or nothing."""
    if not path.is_file():
        return f"{path}: missing; restore it from a copy"
    size = path.stat().st_size
    if size != record.bytes:
        return f"{path}: {size} bytes, expected {record.bytes}, it is truncated or damaged; restore it"
    return ""


def checksum_problem(path: Path, record: ShardRecord) -> str:
    """Return what is wrong with a shard's file, after reading all of it, or nothing."""
    try:
        if checksum(path) != record.sha256:
            return f"{path}: the checksum differs from the recorded one, it is damaged; restore it from a copy"
        Shard(path, record)
    except DataError as error:
        return str(error)
    return ""


def _episodes(sources: Sequence[str], lengths: Sequence[int]) -> str:
    """Return the text about its episodes in a shard: readers compare it, which detects shards of another store."""
    episodes = [{"source": source, "length": length} for source, length in zip(sources, lengths, strict=True)]
    return json.dumps(episodes, ensure_ascii=False, separators=(",", ":"))


def _describes(text: str, record: ShardRecord) -> bool:
    """Whether the text in a shard describes the episodes of a record."""
    if text == _episodes(record.sources, record.lengths):
        return True
    try:
        return bool(parse_json(text) == json.loads(_episodes(record.sources, record.lengths)))
    except ValueError:
        return False
