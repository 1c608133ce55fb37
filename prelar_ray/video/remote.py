"""Video stores at an address: manifest and journal are copied when the store is opened, a shard when it is first read.

The copies lie in a local folder for each address; those of shards are named by their checksum, so that a store which is
replaced at its address never mixes with copies of the former one. A copy appears when it is whole and its checksum is
right: what a kill cut off is fetched again, and two processes at once at worst fetch the same shard twice.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from pyarrow import fs

from prelar_ray.errors import DataError
from prelar_ray.storage.addresses import FAILURES, is_address, open_address, reason
from prelar_ray.storage.cache import cache_folder
from prelar_ray.storage.files import cannot_write
from prelar_ray.video.folder import StoreFolder
from prelar_ray.video.layout import JOURNAL, MANIFEST, Contents, ShardRecord, read_contents
from prelar_ray.video.shard import checksum_problem, size_problem
from prelar_ray.video.verification import Verify

__all__ = ["RemoteFolder", "store_folder"]

CHUNK = 2**23
"""Bytes read at a time."""
PART = ".part"
FORGOTTEN_SECONDS = 3600.0
"""Age of a partial copy, since its last byte, at which its process is taken to be gone."""

log = logging.getLogger(__name__)


def store_folder(path: str, cache: str = "") -> StoreFolder:
    """Return where the store at a path or address lies; ``cache`` is the setting ``video.cache``.

    Raises:
        DataError: the address cannot be used.
    """
    if not is_address(path):
        return StoreFolder(Path(path))
    return RemoteFolder(path, Path(cache) if cache else cache_folder("videos"))


class RemoteFolder(StoreFolder):
    """A store at an address, with copies of its files in a folder below ``cache``."""

    def __init__(self, address: str, cache: Path) -> None:
        """Make the folder of the copies.

        Raises:
            DataError: pyarrow does not know such addresses, or the folder cannot be made.
        """
        try:
            self._remote, self._base = open_address(address)
        except FAILURES as error:
            raise DataError(
                f"{_shown(address)}: {reason(error)}; give video.path an address such as s3://bucket/videos"
            ) from error
        digest = hashlib.sha256(address.rstrip("/").encode()).hexdigest()[:16]
        super().__init__(cache / f"{self._base.rpartition('/')[2]}-{digest}")
        self.name = _shown(address)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._remove_forgotten()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def contents(self) -> Contents:
        """Copy manifest and journal, and read them.

        Raises:
            DataError: there is no store, it is damaged, or the address does not answer.
        """
        if not self._sizes([MANIFEST])[MANIFEST]:
            raise DataError(f"{self.name}: no {MANIFEST} there, so it is not a video store; correct video.path")
        self._copy(MANIFEST, self.path / MANIFEST)
        if self._sizes([JOURNAL])[JOURNAL] is None:  # of version 1, or without a shard
            (self.path / JOURNAL).unlink(missing_ok=True)
        else:
            self._copy(JOURNAL, self.path / JOURNAL)
        return read_contents(self.path)

    def damage(
        self, shards: Sequence[ShardRecord], verify: Verify, on_checked: Callable[[int], object] = lambda size: None
    ) -> dict[str, str]:
        """Return what is wrong with shards at the address, by file.

        Sizes are compared as listed there. Checksums are compared as shards arrive; ``verify=True`` fetches those that
        are not here, and compares the copies of the others.
        """
        there = self._sizes([shard.file for shard in shards])
        found = {one.file: said for one in shards if (said := self._problem(one, there[one.file]))}
        for shard in shards if verify is True else ():
            if shard.file not in found:
                copy = self._place(shard)
                if copy.exists() and (problem := checksum_problem(copy, shard)):
                    log.warning("%s; it is fetched again", problem)
                    copy.unlink(missing_ok=True)
                try:
                    self.file(shard)
                except DataError as error:
                    found[shard.file] = str(error)
                on_checked(shard.bytes)
        return found

    def file(self, shard: ShardRecord) -> Path:
        """Return the copy of a shard, fetched if it is not here.

        Raises:
            DataError: the address does not answer, the disk is full, or the shard is damaged there.
        """
        copy = self._place(shard)
        if size_problem(copy, shard):
            self._copy(shard.file, copy, shard.sha256)
        return copy

    def _place(self, shard: ShardRecord) -> Path:
        return self.path / f"{shard.sha256}.arrow"

    def _problem(self, shard: ShardRecord, size: int | None) -> str:
        address = f"{self.name}: {shard.file}"
        if size is None:
            return f"{address}: missing; restore it from a copy"
        if size != shard.bytes:
            return f"{address}: {size} bytes, expected {shard.bytes}, it is truncated or damaged; restore it"
        return ""

    def _sizes(self, names: Sequence[str]) -> dict[str, int | None]:
        """Return the sizes of files at the address, None for those that are not there."""
        try:
            if len(names) == 1:
                found = self._remote.get_file_info([f"{self._base}/{names[0]}"])
            else:
                found = self._remote.get_file_info(fs.FileSelector(self._base, allow_not_found=True))
        except FAILURES as error:
            raise self._failed(error) from error
        sizes = {info.base_name: info.size for info in found if info.is_file}
        return {name: sizes.get(name) for name in names}

    def _copy(self, name: str, to: Path, sha256: str = "") -> None:
        """Copy a file from the address; DataError if it does not have the checksum."""
        digest = hashlib.sha256()
        partial = None
        try:
            with tempfile.NamedTemporaryFile(dir=self.path, suffix=PART, delete=False) as sink:
                partial = Path(sink.name)
                for chunk in self._chunks(name):
                    digest.update(chunk)
                    sink.write(chunk)
                sink.flush()
                os.fsync(sink.fileno())
            if sha256 and digest.hexdigest() != sha256:
                raise DataError(
                    f"{self.name}: {name}: the checksum differs from the recorded one, it is damaged; "
                    "restore it from a copy"
                )
            os.replace(partial, to)
        except OSError as error:  # of this machine's disk
            raise cannot_write(to, error) from error
        finally:
            if partial is not None:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)

    def _chunks(self, name: str) -> Iterator[bytes]:
        """Yield the content of a file at the address."""
        try:
            with self._remote.open_input_stream(f"{self._base}/{name}") as source:
                while chunk := source.read(CHUNK):
                    yield chunk
        except FAILURES as error:
            raise self._failed(error) from error

    def _failed(self, error: BaseException) -> DataError:
        return DataError(f"{self.name}: cannot be read ({reason(error)}); check the address, network and credentials")

    def _remove_forgotten(self) -> None:
        """Remove partial copies whose process was killed."""
        for partial in self.path.glob(f"*{PART}"):
            with suppress(FileNotFoundError):  # whole meanwhile
                if time.time() - partial.stat().st_mtime > FORGOTTEN_SECONDS:
                    partial.unlink()


def _shown(address: str) -> str:
    """Return an address without keys and options, which may be secret."""
    return re.sub(r"//[^/@]*@", "//", address.partition("?")[0])
