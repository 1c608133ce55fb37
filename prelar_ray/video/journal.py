"""What a writer changes of a video store besides its shards: the lock, the manifest and the journal."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from prelar_ray.errors import DataError, RunFolderError
from prelar_ray.storage.arrow import Compression, checksum
from prelar_ray.storage.files import atomic_file, cannot_write, remove_unfinished, write_json
from prelar_ray.storage.json_text import with_check
from prelar_ray.storage.locks import FileLock, HeldError, described
from prelar_ray.types import IMAGE_SIZE
from prelar_ray.video.layout import JOURNAL, MANIFEST, Manifest, ShardRecord, read_contents, read_manifest
from prelar_ray.video.shard import size_problem

__all__ = ["Journal", "refuse_occupied"]

LOCK = "writer.lock"
NEXT = ".next"
"""Suffix of a shard that will replace the one of its name, once the journal describes it."""

_SHARD = re.compile(rf"shard-\d{{5,}}\.arrow({re.escape(NEXT)})?(\.tmp)?")
_OF_OLDER_RELEASES = {f"{MANIFEST}.tmp", f"{JOURNAL}.tmp"}


class Journal:
    """A store that this process writes, and no other.

    Attributes:
        path: folder of the store.
        shards: complete shards.
    """

    def __init__(self, path: Path, manifest: Manifest, shards: list[ShardRecord], lock: FileLock) -> None:
        """See :meth:`create` and :meth:`reopen`."""
        self.path, self.shards = path, shards
        self._manifest, self._lock = manifest, lock

    @classmethod
    def create(
        cls, path: Path, attributes: dict[str, Any], compression: Compression | str, image_size: int = IMAGE_SIZE
    ) -> Self:
        """Create the folder of a new store, of frames of ``image_size`` pixels.

        Raises:
            RunFolderError: the folder holds a store or other files, or cannot be created.
        """
        manifest = Manifest.model_validate(
            {"attributes": attributes, "compression": compression, "image_size": image_size}
        )
        try:
            path.mkdir(parents=True, exist_ok=True)
            if (path / MANIFEST).exists() and (path / LOCK).exists():
                _lock(path).release()  # refuses a folder that is being written
            refuse_occupied(path)
            lock = _lock(path)
        except OSError as error:
            raise RunFolderError(
                f"{path}: no folder can be made here ({error.strerror}); choose another name"
            ) from error
        journal = cls(path, manifest, [], lock)
        try:
            refuse_occupied(path)  # another process may have been faster
            journal._write_manifest()
        except BaseException:
            journal.close()
            raise
        return journal

    @classmethod
    def reopen(cls, path: Path) -> Self:
        """Take an incomplete store up again, and remove what no line of its journal names.

        Raises:
            RunFolderError: it is complete, of version 1, or being written.
            DataError: there is no store, or a shard is missing.
        """
        read_contents(path)  # that there is a store comes before a lock in it
        try:
            lock = _lock(path)
        except OSError as error:
            raise RunFolderError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
        try:
            manifest, shards = read_contents(path)
            _refuse_finished(path, manifest)
            journal = cls(path, manifest, shards, lock)
            journal._cut_half_line()
            journal._end_replacement()
            journal._remove_unnamed()
            if missing := [problem for shard in shards if (problem := size_problem(path / shard.file, shard))]:
                raise DataError("; ".join(missing))
        except BaseException:
            lock.release()
            raise
        return journal

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the store."""
        return self._manifest.attributes

    @property
    def compression(self) -> str:
        """Compression of its shards."""
        return self._manifest.compression

    @property
    def image_size(self) -> int:
        """Height and width of its frames, pixels."""
        return self._manifest.image_size

    def new_file(self) -> str:
        """Return the name of the next shard."""
        return f"shard-{len(self.shards):05d}.arrow"

    def add(self, shard: ShardRecord) -> None:
        """Append the line of a shard that is complete.

        Raises:
            DataError: the disk is full; the journal is as before.
        """
        path = self.path / JOURNAL
        before = path.stat().st_size if path.exists() else 0
        try:
            with path.open("ab") as file:
                file.write(_line(shard))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                os.truncate(path, before)
            raise cannot_write(path, error) from error
        self.shards.append(shard)

    def replace_last(self, shard: ShardRecord) -> None:
        """Replace the last shard by one that is complete under its name and the suffix ``NEXT``.

        A kill leaves the old shard or the new one, and what :meth:`reopen` needs to know which.

        Raises:
            DataError: the disk is full; the old shard stays.
        """
        shards = [*self.shards[:-1], shard]
        with atomic_file(self.path / JOURNAL) as file:
            file.writelines(map(_line, shards))
        self.shards = shards
        os.replace(self.path / (shard.file + NEXT), self.path / shard.file)

    def complete(self) -> None:
        """Mark the store complete.

        Raises:
            DataError: the disk is full.
        """
        self._manifest = self._manifest.model_copy(update={"complete": True, "shards": len(self.shards)})
        self._write_manifest()

    def close(self) -> None:
        """Let other processes write."""
        self._lock.release()

    def _write_manifest(self) -> None:
        write_json(self.path / MANIFEST, self._manifest.model_dump(mode="json"))

    def _cut_half_line(self) -> None:
        path = self.path / JOURNAL
        if path.exists():
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)

    def _end_replacement(self) -> None:
        """Finish a :meth:`replace_last` that a kill cut off after the journal was written."""
        if self.shards:
            last = self.shards[-1]
            path = self.path / (last.file + NEXT)
            if path.exists() and checksum(path) == last.sha256:
                os.replace(path, self.path / last.file)

    def _remove_unnamed(self) -> None:
        named = {shard.file for shard in self.shards}
        remove_unfinished(self.path)
        for path in self.path.iterdir():
            if path.name in _OF_OLDER_RELEASES or (_SHARD.fullmatch(path.name) and path.name not in named):
                path.unlink()


def _line(shard: ShardRecord) -> bytes:
    line = with_check(shard.model_dump(mode="json"))
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _lock(path: Path) -> FileLock:
    """Lock a folder; RunFolderError if another process writes it."""
    try:
        return FileLock(path / LOCK)
    except HeldError as error:
        raise RunFolderError(
            f"{path} is being written by another process ({described(error.holder)}); wait for it, or choose another "
            "folder name"
        ) from error


def _is_occupied(path: Path) -> bool:
    """Whether a folder holds more than a lock and the manifest of a store that never got a shard."""
    names = {file.name for file in path.iterdir()} - {LOCK}
    if names != {MANIFEST}:
        return bool(names)
    try:
        manifest = read_manifest(path)
    except DataError:
        return True
    return manifest.version == 1 or manifest.complete


def refuse_occupied(path: Path) -> None:
    """Raise RunFolderError if the folder at ``path`` holds a store or other files."""
    if _is_occupied(path):
        content = "a video store" if (path / MANIFEST).exists() else "other files"
        raise RunFolderError(f"{path} already holds {content}; choose a new folder name, or delete this one first")


def _refuse_finished(path: Path, manifest: Manifest) -> None:
    if manifest.version == 1:
        raise RunFolderError(f"{path}: a store of version 1, which cannot be continued; write a new one")
    if manifest.complete:
        raise RunFolderError(f"{path}: is complete, nothing is left to write; choose a new folder name for more")
