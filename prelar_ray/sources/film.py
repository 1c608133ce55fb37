"""Pictures of a video at given moments, read once from front to back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prelar_ray.sources.pictures import Picture

__all__ = ["Film"]


class Film:
    """A video of which one moment after another is asked for; it never goes back."""

    def __init__(self, frames: Iterator[tuple[float, Picture]], tolerance: float) -> None:
        """Prepare to read frames with their times in seconds, which never fall.

        ``tolerance``: half of the time between them.
        """
        self._frames = frames
        self._tolerance = tolerance
        self._nearest: tuple[float, Picture] | None = None
        self._next: tuple[float, Picture] | None = None
        self._started = False

    def at(self, moments: Iterable[float]) -> Iterator[tuple[Picture, bool]]:
        """Yield for each moment the frame nearest to it, and whether it is within the tolerance.

        It ends with the video, where the last frame is too far from a moment. Times of encoded files are rounded, and
        those of tables are sums of rounded numbers: neither is ever compared for equality.
        """
        if not self._started:
            self._started, self._next = True, next(self._frames, None)
        for moment in moments:
            while self._next is not None and (
                self._nearest is None or abs(self._next[0] - moment) < abs(self._nearest[0] - moment)
            ):
                self._nearest, self._next = self._next, next(self._frames, None)
            if self._nearest is None:
                return
            near = abs(self._nearest[0] - moment) <= self._tolerance
            if not near and self._next is None and moment > self._nearest[0]:
                return
            yield self._nearest[1], near
