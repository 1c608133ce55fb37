"""Standard output and standard error that outlive their readers.

Whoever reads the log of a training may leave (``| head``, a closed terminal), its device may be full, or it may not be
there at all. None of that is a reason to lose hours of training: what is written then goes nowhere, and why can be
asked for. Characters that the encoding of a stream lacks are written as escapes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

__all__ = ["LastingStream", "forgive_output", "lasting_streams", "lost_log", "lost_output"]

_REPLACED: list[LastingStream] = []
"""Standard output and standard error, while :func:`lasting_streams` holds."""


class LastingStream:
    """A text stream whose writes never fail. After the first that would, what is written goes nowhere.

    Attributes:
        lost: why, or None; an OSError, or a ValueError of a stream that was closed.
        needed: whether what is written there is what the process is for.
    """

    def __init__(self, stream: TextIO | None) -> None:
        """Wrap a stream, None where the process was started without it."""
        self.lost: OSError | ValueError | None = None
        self.needed = True
        self._stream: TextIO | None = stream
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write, if that is possible still."""
        if self.lost is None:
            try:
                if self._stream is None:
                    raise ValueError("closed")
                self._stream.write(text)
            except (OSError, ValueError) as error:
                self._give_up(error)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of them."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, if that is possible still."""
        if self.lost is None and self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._give_up(error)

    def isatty(self) -> bool:
        """Whether somebody looks at it."""
        try:
            return self.lost is None and self._stream is not None and self._stream.isatty()
        except ValueError:
            return False

    def __getattr__(self, name: str) -> Any:
        """Whatever else the stream has."""
        if name.startswith("__") or self._stream is None:
            raise AttributeError(name)
        return getattr(self._stream, name)

    def _give_up(self, error: OSError | ValueError) -> None:
        """Direct the stream nowhere: what it holds still would fail again when the process ends."""
        self.lost = error
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, cast("TextIO", self._stream).fileno())
            os.close(nowhere)


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Let standard output and standard error outlive their readers for the length of the block."""
    _open_missing()
    before = sys.stdout, sys.stderr
    out, error = LastingStream(sys.stdout), LastingStream(sys.stderr)
    sys.stdout, sys.stderr = cast("TextIO", out), cast("TextIO", error)
    _REPLACED[:] = [out, error]
    try:
        yield
    finally:
        out.flush()
        error.flush()
        sys.stdout, sys.stderr = before
        _REPLACED.clear()


def lost_output() -> OSError | ValueError | None:
    """Return why standard output, which the command is for, is lost; None if it is not."""
    return _REPLACED[0].lost if _REPLACED and _REPLACED[0].needed else None


def forgive_output() -> None:
    """Let it be no failure of the command that standard output is lost: what matters was not written there."""
    if _REPLACED:
        _REPLACED[0].needed = False


def lost_log() -> str | None:
    """Return in words why standard error, where the log goes, is lost; None if it is not."""
    lost = _REPLACED[1].lost if _REPLACED else None
    return None if lost is None else f"standard error: {getattr(lost, 'strerror', None) or lost}"


def _open_missing() -> None:
    """Open the standard streams that the process was started without, nowhere.

    Otherwise the first file that it opens would take their number, and get what libraries write there.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
