"""Writes a video store, episode by episode."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import numpy.typing as npt

from prelar_ray.errors import DataError
from prelar_ray.interrupts import interrupts_deferred
from prelar_ray.storage.arrow import Compression
from prelar_ray.types import IMAGE_SIZE, check_frames
from prelar_ray.video.journal import NEXT, Journal
from prelar_ray.video.shard import Shard, WholeEpisode, checksum_problem, write_shard

__all__ = ["Note", "VideoWriter"]

Note = Callable[[], dict[str, Any]]
"""Returns what to keep, JSON-serialisable, with a shard that is closed: it describes all that was appended so far."""


class VideoWriter:
    """Writes a video store, episode by episode; a context manager that writes the last shard on exit.

    Appended episodes are written even if the block ends with an exception, Ctrl-C included: an interrupt waits for the
    shard that is being written. A kill loses the episodes that no shard holds yet. The store counts as complete if the
    block ends without an exception and no episode was lost to a full disk; otherwise :meth:`resume` continues it.

    Attributes:
        episodes: written so far, also by earlier writers of this store.
        frames: of these episodes.
        appended: episodes, written or not.
        note: what describes each shard that is closed; it may be set later.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        attributes: dict[str, Any],
        shard_frames: int = 10_000,
        compression: Compression = "none",
        note: Note | None = None,
        image_size: int = IMAGE_SIZE,
    ) -> None:
        """Create the folder; ``attributes`` (camera, orientation, ...) must be JSON-serialisable.

        A shard is closed with the episode that reaches ``shard_frames``; until then its frames stay in memory. All
        frames are of ``image_size`` pixels, which the store records.

        Raises:
            RunFolderError: the folder holds a store or other files, is being written, or cannot be created.
        """
        self._take(Journal.create(Path(path), attributes, compression, image_size), shard_frames, note)

    @classmethod
    def resume(cls, path: Path, shard_frames: int, note: Note | None = None) -> Self:
        """Continue a store that is not complete; with the same ``shard_frames`` it becomes what it would have been.

        A last shard with fewer frames, which an interrupt closed, is taken back into memory; its file stays until the
        shard that replaces it is written. :attr:`notes` and :attr:`taken_back` say how far the store goes.

        Raises:
            RunFolderError: the store is complete, of version 1, or being written.
            DataError: there is no store, or one of its shards is missing or damaged.
        """
        writer = cls.__new__(cls)
        journal = Journal.reopen(path)
        try:
            writer._take(journal, shard_frames, note)
        except BaseException:
            journal.close()
            raise
        return writer

    def _take(self, journal: Journal, shard_frames: int, note: Note | None) -> None:
        self._journal, self._shard_frames, self.note = journal, shard_frames, note
        self._pending: list[WholeEpisode] = []
        self._taken_back = bool(journal.shards) and journal.shards[-1].frames < shard_frames
        if self._taken_back:
            self._pending = self._read_last()
        self._pending_frames = sum(len(one.frames) for one in self._pending)
        written = journal.shards[:-1] if self._taken_back else journal.shards
        self.episodes = sum(len(shard.lengths) for shard in written)
        self.frames = sum(shard.frames for shard in written)
        self.appended = self.episodes + len(self._pending)

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the store; of one that is resumed, as JSON gives them back."""
        return self._journal.attributes

    @property
    def appended_frames(self) -> int:
        """Frames of the episodes that were appended, written or not."""
        return self.frames + self._pending_frames

    @property
    def notes(self) -> list[dict[str, Any]]:
        """The notes of all shards, in order, without that of one that was taken back."""
        written = self._journal.shards[:-1] if self._taken_back else self._journal.shards
        return [shard.note for shard in written]

    @property
    def taken_back(self) -> dict[str, Any] | None:
        """The note of the shard that was taken back into memory, if one was."""
        return self._journal.shards[-1].note if self._taken_back else None

    def append(self, frames: npt.NDArray[Any], source: str) -> None:
        """Add one episode, uint8 ``(T, Hpx, Wpx, C)``; ``source`` names its task, for example "metaworld/push-v3".

        Raises:
            DataError: no frames, a wrong type or size, a name that is no text, or the disk is full.
        """
        frames = check_frames(frames, source, self._journal.image_size)
        if len(frames) == 0:
            raise DataError(f"{source}: an episode without frames; append at least one")
        try:
            source.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{source!r}: is not Unicode text; name the episode otherwise") from error
        with interrupts_deferred():
            self.appended += 1
            self._pending.append(WholeEpisode(source, frames.copy()))
            self._pending_frames += len(frames)
            if self._pending_frames >= self._shard_frames:
                self._close_shard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with interrupts_deferred():
                if self._pending:
                    self._close_shard()
                if kind is None and self.episodes == self.appended:
                    self._journal.complete()
        finally:
            self._journal.close()

    def _close_shard(self) -> None:
        note = self.note() if self.note else {}
        # Removed first: after a failure (disk full) the exit of the block must not try again.
        pending, self._pending, self._pending_frames = self._pending, [], 0
        replacing, self._taken_back = self._taken_back, False
        journal, compression = self._journal, cast(Compression, self._journal.compression)
        file = journal.shards[-1].file if replacing else journal.new_file()
        shard = write_shard(journal.path / (file + NEXT * replacing), file, pending, compression, note)
        if replacing:
            journal.replace_last(shard)
        else:
            journal.add(shard)
        self.episodes += len(pending)
        self.frames += shard.frames

    def _read_last(self) -> list[WholeEpisode]:
        """Return the episodes of the last shard, in memory."""
        record = self._journal.shards[-1]
        path = self._journal.path / record.file
        if problem := checksum_problem(path, record):
            raise DataError(problem)
        shard, start, episodes = Shard(path, record, self._journal.image_size), 0, []
        for source, length in zip(record.sources, record.lengths, strict=True):
            episodes.append(WholeEpisode(source, shard.read(start, start + length).copy()))
            start += length
        return episodes
