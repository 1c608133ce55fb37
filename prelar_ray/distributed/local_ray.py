"""A Ray on this machine: what it needs is checked before it starts, and it listens to this machine only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import ray
from ray._private import ray_constants

from prelar_ray.distributed.ray_token import ensure_token
from prelar_ray.errors import ResourceError

__all__ = ["check_temporary_folder", "start_local_ray"]

SOCKET_BYTES: Final = 107
"""Longest path of a Unix socket on Linux."""


def start_local_ray(**options: Any) -> None:
    """Start a Ray on this machine that only this machine reaches, and connect to it.

    Args:
        options: of :func:`ray.init`.

    Raises:
        ResourceError: its token or its temporary files cannot be written; says what to set.
        Exception: Ray did not start.
    """
    check_temporary_folder()
    ensure_token()
    with _on_loopback():
        ray.init(address="local", **options)


def check_temporary_folder() -> None:
    """Make sure that Ray's sockets and logs can be made where ``TMPDIR`` says.

    Raises:
        ResourceError: not there, or the paths of the sockets would be too long.
    """
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), None)
    folder = Path(os.environ[variable] if variable else "/tmp")
    source = f"{variable}={folder}" if variable else str(folder)
    advice = "set RAY_TMPDIR to a folder that you can write, with a short path"
    session = f"ray/session_0000-00-00_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
    size = len(os.fsencode(folder / session))
    if size > SOCKET_BYTES:
        raise ResourceError(
            f"{source}: too long by {size - SOCKET_BYTES} bytes; Ray's sockets below it may have paths of "
            f"{SOCKET_BYTES}; {advice}"
        )
    nearest = next(part for part in (folder / "ray", folder, *folder.parents) if part.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise ResourceError(
            f"{source}: {nearest} cannot be written, and Ray keeps its sockets and logs there; {advice}"
        )


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Have Ray take 127.0.0.1 for the address of this node, so that its servers listen there and nowhere else.

    ``ray.init`` replaces a loopback address that it is given by one that others reach, but of itself takes 127.0.0.1
    where it does not expect clusters: on Windows and macOS, and where this constant says so
    (``RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER``, read once at the import). As of Ray 2.60.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
