"""A lock that ends with the process that holds it."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

__all__ = ["FileLock"]

log = logging.getLogger(__name__)


class FileLock:
    """Exclusive lock on a file, which exists while the lock is held; a process that is killed leaves the file behind.

    The kernel releases the lock when its process ends, however it ends. The file that stays is taken over.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock, without waiting.

        Raises:
            BlockingIOError: another process, or this one, holds it.
            OSError: the file cannot be created.
        """
        self._path = path
        while True:
            self._file = path.open("ab")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._file.close()
                raise
            except OSError as error:
                log.warning("%s: no lock (%s); make sure that no other process writes here", path, error.strerror)
                return
            if self._is_there():
                return
            self._file.close()  # its holder removed the file between the two calls above

    def release(self) -> None:
        """Remove the file and end the lock; a second call does nothing."""
        if not self._file.closed:
            self._path.unlink(missing_ok=True)  # before the lock ends: afterwards it may be another's
            self._file.close()

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False
