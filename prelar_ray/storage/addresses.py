"""Addresses that ``pyarrow.fs`` opens: ``s3://bucket/folder``, ``gs://...``, ``file:///folder``."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import fs

__all__ = ["FAILURES", "is_address", "open_address", "reason"]

FAILURES = (OSError, pa.ArrowException)
"""What the functions of a remote file system raise."""


def is_address(text: str) -> bool:
    """Whether ``text`` is an address; otherwise it is the path of a local file or folder."""
    return "://" in text


def open_address(address: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of an address, and the path in it.

    Raises:
        OSError, pyarrow.ArrowException: it is no address that pyarrow knows, or the file system does not answer.
    """
    filesystem, path = fs.FileSystem.from_uri(address)
    return filesystem, path.rstrip("/")


def reason(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
