"""A time limit for calls that cannot be interrupted: a process of its own ends this one, and says why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["HUNG", "ended_after"]

HUNG: Final = signal.SIGVTALRM
"""What the watchdog ends a process with, so that its parent knows the reason; nothing else in the package uses it."""

_WATCH: Final = """
import os, select, sys
seconds, number, parent, message = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
if not select.select([0], [], [], seconds)[0] and os.getppid() == parent:
    os.write(2, f"error: {message}\\n".encode())
    os.kill(parent, number)
"""
"""Waits for its input: a byte at the end of the block, or its end when the parent is gone."""


@contextmanager
def ended_after(seconds: float, message: str) -> Iterator[None]:
    """End this process with :data:`HUNG` if the block takes longer than ``seconds``, after ``message`` on stderr.

    Neither an exception nor a thread would do: a graphics driver that hangs returns to no interpreter, and MuJoCo holds
    the interpreter's lock while it builds a context, so that no other thread runs either.
    """
    command = [sys.executable, "-I", "-S", "-c", _WATCH, str(seconds), str(int(HUNG)), str(os.getpid()), message]
    # In a session of its own, where Ctrl-C does not reach it.
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as watchdog:
        try:
            yield
        finally:
            watchdog.communicate(b".")
