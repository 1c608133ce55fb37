"""Ctrl-C between the steps of a loop instead of within them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

__all__ = ["STOPPING", "interrupts_deferred", "stopping_signals"]

STOPPING = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Signals beside Ctrl-C that ask a run to stop with a checkpoint: kill, a terminal that is closed, and a batch system
before its time is over."""

SIGNALS = (signal.SIGINT, *STOPPING)


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Defer Ctrl-C and the signals of :data:`STOPPING` to the end of the block, so that the block completes.

    An update that is cut off halfway can neither be saved nor repeated exactly, and an episode whose file is cut off is
    lost. A second signal interrupts at once. Signals that the process ignores, as under ``nohup``, stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are handled in the main thread only
        yield
        return
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if seen:
        signal.raise_signal(seen[0])


@contextmanager
def stopping_signals() -> Iterator[list[int]]:
    """Let the signals of :data:`STOPPING` interrupt the block as Ctrl-C does; yields those that came.

    Signals that the process ignores, as SIGHUP under ``nohup``, stay ignored.
    """
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        came.append(number)
        raise KeyboardInterrupt

    heard = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
