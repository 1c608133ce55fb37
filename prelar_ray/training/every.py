"""When something is due that happens at every so many updates or environment steps."""

from __future__ import annotations

__all__ = ["Every"]


class Every:
    """Due each time that a count, which only grows, has passed a multiple of ``interval``.

    Multiples are those of the whole run, so that a resumed run does the same things at the same counts.
    """

    def __init__(self, interval: int, count: int = 0) -> None:
        """Begin at ``count``, what is due up to there being done."""
        self.interval = interval
        self.last = count
        """The count at which it was done last."""

    def due(self, count: int) -> bool:
        """Whether a multiple lies between the last time and ``count``."""
        return count // self.interval > self.last // self.interval

    def done(self, count: int) -> None:
        """Note that it was done at ``count``."""
        self.last = count

    def take(self, count: int) -> bool:
        """Whether it is due; then it counts as done."""
        if not self.due(count):
            return False
        self.done(count)
        return True
