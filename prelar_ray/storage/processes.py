"""Which process a record speaks of, and whether it is still there."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import psutil

__all__ = ["is_gone", "this_process"]


def this_process() -> dict[str, Any]:
    """What tells this process from all others, also from a later one with its number; JSON-able."""
    process = psutil.Process()
    return {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}


def is_gone(process: Mapping[str, Any]) -> bool:
    """Whether a process, told by :func:`this_process`, is known to have ended; on another host nobody can tell.

    Raises:
        KeyError, TypeError: it is no record of a process.
    """
    if process["host"] != socket.gethostname():
        return False
    try:
        found = psutil.Process(process["pid"])
        started = found.create_time()
        if found.status() == psutil.STATUS_ZOMBIE:  # ended, and nobody asked how
            return True
    except psutil.NoSuchProcess:
        return True
    return bool(abs(started - process["started"]) > 2.0)  # seconds; another got its number. Clocks are adjusted
