"""Times of decoded frames, from those of the packets that a decoder was given."""

from __future__ import annotations

import heapq
import math
from fractions import Fraction
from typing import Final

__all__ = ["Clock"]

MOST_REORDERED: Final = 32
"""Packets of which a decoder may hold back the frames: more than any codec does."""
RESTART: Final = 1.0
"""Seconds that times go back by where they start again; where frames are reordered it is less."""


class Clock:
    """Times of frames in the order in which the decoder returns them, which is the order to show them in.

    Some files (AVI, MP4 without composition offsets) give packets the times at which to decode them, so that the times
    of the frames go back where pictures refer to later ones. The decoder has then been given the packets of all
    frames up to the one that it returns: this one's time is the earliest that no frame has taken.
    """

    def __init__(self, rate: float) -> None:
        self._period = 1 / rate  # seconds between frames that have no time at all
        self._waiting: list[float] = []  # a heap of times of packets that no frame has taken
        self._latest = -math.inf  # time of a packet
        self._rising = True  # no packet so far was to be shown before an earlier one
        self.first = math.nan
        """Time of the first frame in the time of the file, seconds; NaN before it."""
        self._last = -math.inf  # time of a frame, continued where times start again
        self._shift = 0.0  # seconds that times are continued by
        self.restarts = 0
        """How often the times started again, as in recordings that were joined without a change."""

    def give(self, shown: int | None, decoded: int | None, time_base: Fraction) -> None:
        """Note the times of a packet that the decoder gets, in units of ``time_base``: as shown, else as decoded."""
        ticks = decoded if shown is None else shown
        if ticks is None:
            return
        time = float(ticks * time_base)
        self._rising &= time >= self._latest
        self._latest = time
        heapq.heappush(self._waiting, time)
        if len(self._waiting) > MOST_REORDERED:
            heapq.heappop(self._waiting)

    def take(self, own: float | None, reordered: bool) -> float:
        """Return the time of the next frame in seconds since the first; never less than that of the frame before.

        ``own`` is the frame's own time, ``reordered`` whether its codec may return frames in another order than that of
        the packets.
        """
        time = own
        if self._waiting and (own is None or (reordered and self._rising)):
            time = heapq.heappop(self._waiting)
        if time is None:
            time = 0.0 if math.isnan(self.first) else self._last - self._shift + self._period
        while self._waiting and self._waiting[0] < time:  # of packets that gave no frame
            heapq.heappop(self._waiting)
        if math.isnan(self.first):
            self.first = time
        if time + self._shift < self._last - RESTART:
            self.restarts += 1
            self._shift = self._last + self._period - time
        self._last = max(time + self._shift, self._last)
        return self._last - self.first
