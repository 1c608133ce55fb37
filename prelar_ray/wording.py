"""Wording shared by the messages of several packages."""

from __future__ import annotations

import hashlib
import signal
import unicodedata

__all__ = ["counted", "how_it_ended", "printable", "shortened"]

LONGEST = 200
"""Characters of a name or value that a message or page shows."""


def counted(number: int, noun: str) -> str:
    """Return for example "1 episode" or "2 episodes"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def how_it_ended(status: int | None) -> str:
    """Return for example "was killed by SIGKILL", from the exit code of a process."""
    return f"was killed by {signal.Signals(-status).name}" if status and status < 0 else f"left with status {status}"


def printable(text: str, most: int = LONGEST) -> str:
    """Return text of unknown origin on one line, without control characters, and cut if it is long."""
    if len(text) > most:
        text = f"{text[: most - 1]}…"
    if text.isprintable():
        return text
    return "".join(" " if unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") else sign for sign in text)


def shortened(text: str, most: int = LONGEST) -> str:
    """Return text of at most ``most`` characters, on one line; text that is cut ends in a digest of all of it."""
    if len(text) <= most:
        return printable(text)
    digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:6]
    return f"{printable(text[: most - 7])}…{digest}"
