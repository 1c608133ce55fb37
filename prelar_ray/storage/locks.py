"""A lock that ends with the process that holds it, and says who that is.

What is promised. On a local file system one process at a time holds a lock, and the kernel releases it however that
process ends, ``kill -9`` included. The same holds over NFS (version 4, or 3 with its lock service) and other shared
storage that passes ``flock`` to its server; there the lock of a machine that went down is free once the server gives
up on it, after a minute or two. Where the file system knows no locks at all, the record in the file decides alone: it
is refused while its process lives, and where it names another host until somebody deletes it. No promise is made
where ``flock`` works on each host for itself (NFS mounted with ``nolock`` or ``local_lock``, Lustre with
``localflock``): the record that another host left is then all there is, see :attr:`FileLock.left`.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakValueDictionary

from prelar_ray.storage.processes import is_gone, this_process
from prelar_ray.storage.provenance import utc_now

__all__ = ["FileLock", "HeldError", "described", "hold"]

log = logging.getLogger(__name__)

_HELD: WeakValueDictionary[Path, FileLock] = WeakValueDictionary()
"""Locks of this process, by resolved path."""


class HeldError(BlockingIOError):
    """Somebody else holds a lock."""

    def __init__(self, holder: Mapping[str, Any] | None, path: Path) -> None:
        """``holder`` is the record in the file ``path``; None if it cannot be read."""
        super().__init__(f"{path}: {described(holder)} holds this lock")
        self.holder, self.path = holder, path


def described(holder: Mapping[str, Any] | None) -> str:
    """Return ``process 12 on host since 2026-01-02T03:04:05+00:00``, as far as the record of a holder says."""
    if holder is None:
        return "who it is cannot be read"
    since = f" since {holder['since']}" if holder.get("since") else ""
    return f"process {holder['pid']} on {holder['host']}{since}"


class FileLock:
    """Exclusive lock on a file, which exists while the lock is held; a process that is killed leaves the file behind.

    The file that stays is taken over. It holds host, pid and start time of its holder.

    Attributes:
        left: the record of a holder on another host that did not release the lock; normally None. It was killed or its
            host went down, unless the file system is one of those whose locks end at the host.
    """

    def __init__(self, path: Path, strict: bool = False) -> None:
        """Take the lock, without waiting.

        Args:
            strict: do not take over what another host left.

        Raises:
            HeldError: another process, or this one, holds it.
            OSError: the file cannot be created.
        """
        self._path, self._owner = path, os.getpid()
        self._file = self._locked()
        record = _read(self._file)
        if record and not _is_over(record):  # of a file system without locks, or of a version that took none
            if strict or record["host"] == this_process()["host"] or not self._exclusive:
                self._file.close()
                raise HeldError(record, path)
            self.left: Mapping[str, Any] | None = record
        else:
            self.left = None
        self._write()

    @property
    def held(self) -> bool:
        """Whether this process holds it still."""
        return not self._file.closed and self._owner == os.getpid()

    def release(self) -> None:
        """Remove the file and end the lock; a second call does nothing, nor does one in a forked process."""
        if self.held:
            if self._is_there(self._file):  # else somebody deleted it, and it may be another's
                self._path.unlink(missing_ok=True)  # before the lock ends, for the same reason
            self._file.close()

    def __del__(self) -> None:
        """Release what nobody refers to any more."""
        if hasattr(self, "_file"):
            with suppress(OSError):
                self.release()

    def _locked(self) -> BinaryIO:
        while True:
            # Never through a link, which could lead to a file that is none of a lock's.
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.fdopen(os.open(self._path, flags, 0o644), "ab+")
            self._exclusive = True
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = _patiently_read(file)
                file.close()
                raise HeldError(holder, self._path) from error
            except OSError as error:
                log.warning(
                    "%s: this file system has no locks (%s); make sure that no other process writes here",
                    *(self._path, error.strerror),
                )
                self._exclusive = False
                return file
            if self._is_there(file):
                return file
            file.close()  # its holder removed the file between the two calls above

    def _write(self) -> None:
        record = this_process() | {"since": utc_now()}
        with suppress(OSError):  # the lock holds on a full disk too
            self._file.truncate(0)
            self._file.write(json.dumps(record).encode() + b"\n")
            self._file.flush()

    def _is_there(self, file: BinaryIO) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False


def hold(path: Path, strict: bool = False) -> FileLock:
    """Return the lock on a file, taken now or held by this process already; ``strict`` as for :class:`FileLock`.

    Raises:
        HeldError: another process holds it.
        OSError: the file cannot be created.
    """
    key = path.parent.resolve() / path.name
    lock = _HELD.get(key)
    if lock is None or not lock.held:
        lock = _HELD[key] = FileLock(path, strict)
    return lock


def _read(file: BinaryIO) -> dict[str, Any] | None:
    """Return the record in a lock's file, if it is one."""
    try:
        file.seek(0)
        record = json.loads(file.read(10_000))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and {"host", "pid", "started"} <= record.keys() else None


def _patiently_read(file: BinaryIO) -> dict[str, Any] | None:
    """Return the record of a holder, who writes it a moment after it took the lock."""
    for _ in range(10):
        if record := _read(file):
            return record
        time.sleep(0.05)
    return None


def _is_over(record: Mapping[str, Any]) -> bool:
    """Whether the process of a record has ended, or is this one."""
    this = this_process()
    if (record["host"], record["pid"]) == (this["host"], this["pid"]):
        return True
    try:
        return is_gone(record)
    except (TypeError, ValueError, OverflowError):
        return True
