"""Identity of the process that wrote a record, and whether it still runs."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import psutil

__all__ = ["is_gone", "this_process"]


def this_process() -> dict[str, Any]:
    """Return the identity of this process, unique even if its pid is reused; JSON-serialisable."""
    process = psutil.Process()
    return {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}


def is_gone(process: Mapping[str, Any]) -> bool:
    """Whether a process, identified by :func:`this_process`, is known to have ended; never known of another host.

    Raises:
        KeyError, TypeError: it is not an identity of a process.
    """
    if process["host"] != socket.gethostname():
        return False
    try:
        found = psutil.Process(process["pid"])
        started = found.create_time()
        if found.status() == psutil.STATUS_ZOMBIE:  # ended, but its parent has not read the exit status
            return True
    except psutil.NoSuchProcess:
        return True
    return bool(abs(started - process["started"]) > 2.0)  # s, as clocks are adjusted; more: a reused pid
