"""What could not be read, a line each; the rest is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from prelar_ray.errors import DataError

__all__ = ["Problems"]

T = TypeVar("T")


class Problems:
    """Collects the lines.

    Attributes:
        lines: each begins with the path of a file.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        """Note a problem once."""
        if line not in self.lines:
            self.lines.append(line)

    def read(self, read: Callable[[], T], default: T) -> T:
        """Return what ``read`` returns or, where it finds damage, the default; the damage is noted."""
        try:
            return read()
        except DataError as error:
            self.add(str(error))
            return default
