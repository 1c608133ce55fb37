"""Addresses that ``pyarrow.fs`` opens: ``s3://bucket/folder``, ``gs://...``, ``file:///folder``."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from prelar_ray.config import RunConfig

__all__ = ["FAILURES", "absolute_videos", "is_address", "open_address", "reason", "without_places"]

FAILURES = (OSError, pa.ArrowException)
"""What the functions of a remote file system raise."""


def is_address(text: str) -> bool:
    """Whether ``text`` is an address; otherwise it is the path of a local file or folder."""
    return "://" in text


def absolute_videos(config: RunConfig) -> RunConfig:
    """Return the configuration with absolute paths to the videos, valid from any working directory."""
    paths = tuple(path if is_address(path) else str(Path(path).absolute()) for path in config.video.paths)
    path = paths[0] if len(paths) == 1 else paths
    return config.model_copy(update={"video": config.video.model_copy(update={"path": path})})


def without_places(config: RunConfig) -> RunConfig:
    """Return a configuration without what is of this machine: paths, addresses, devices.

    An address may hold keys, so whatever leaves the machine passes here first.
    """
    plain = (path.partition("?")[0] if is_address(path) else path for path in config.video.paths)
    names = [path.rstrip("/").rpartition("/")[2].rpartition("@")[2] for path in plain]
    # Stores of a mixture must differ, also in their names alone.
    names = [f"{name}-{n}" if name in names[:n] else name for n, name in enumerate(names)]
    video = config.video.model_copy(update={"path": names[0] if len(names) == 1 else tuple(names), "cache": ""})
    checkpoint = config.checkpoint.model_copy(update={"mirror": ""})
    changed = {"video": video, "checkpoint": checkpoint, "cluster": "auto", "device": "auto"}
    return config.model_copy(update=changed)


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
