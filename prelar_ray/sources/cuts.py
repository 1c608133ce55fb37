"""Parts of one video as episodes of their own, while it is read once from front to back."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prelar_ray.errors import DataError
from prelar_ray.sources.decoding import VideoFile
from prelar_ray.sources.geometry import Geometry
from prelar_ray.sources.pictures import Frame, Picture
from prelar_ray.sources.source import SourceEpisode

__all__ = ["Cut", "cut_episodes"]

ROUNDING = 1e-6
"""Seconds by which times of frames differ from those that a user can write."""
SLACK = 0.5
"""Seconds that a cut may end after its file without a note."""


@dataclass(frozen=True)
class Cut:
    """A part of a video: frames from ``start`` on and before ``end``, in seconds since the first frame."""

    name: str
    """Source name of the episode."""
    start: float = 0.0
    end: float | None = None
    """None: the end of the file."""
    of_file: bool = False
    """Whether the times are meant for this file, so that it must reach them."""


def cut_episodes(video: VideoFile, cuts: Sequence[Cut]) -> Iterator[SourceEpisode]:
    """Yield an episode for each cut, in order of their starts; each is read to its end before the next.

    Cuts may overlap: pictures that a later cut shows too are kept meanwhile as the store will hold them, 12 kB each.

    Raises:
        DataError: the file is damaged, or a cut of this file begins after its end.
    """
    ordered = sorted(cuts, key=lambda cut: cut.start)
    starts = [cut.start for cut in ordered[1:]] + [math.inf]
    reading = _Reading(video)
    for cut, following in zip(ordered, starts, strict=True):
        video.notes = []
        yield SourceEpisode(cut.name, reading.pictures(cut, following), notes=video.notes)


@dataclass
class _Shared:
    """A picture of several cuts; the frame is let go once it is scaled."""

    picture: Picture | None
    reading: _Reading
    pixels: Frame | None = None

    def square(self, geometry: Geometry) -> Frame:
        """Return the picture; the geometry is the same each time."""
        self.reading.geometry = geometry
        if self.picture is not None:
            self.pixels, self.picture = self.picture.square(geometry), None
        assert self.pixels is not None
        return self.pixels


class _Reading:
    def __init__(self, video: VideoFile) -> None:
        self.geometry: Geometry | None = None  # known once a shared picture was asked for
        self._video = video
        self._frames: Iterator[tuple[float, Picture]] = iter(video.pictures())
        self._held: deque[tuple[float, Picture]] = deque()  # were read, and cuts to come may show them
        self._last = 0.0  # time of the last frame that was read

    def pictures(self, cut: Cut, following: float) -> Iterator[tuple[float, Picture]]:
        """Yield the pictures of a cut, and hold those that the cuts from ``following`` on show too."""
        stop = math.inf if cut.end is None else cut.end
        held, self._held = self._held, deque()
        first: float | None = None
        ended = True
        for time, picture in self._next(held):
            shared = time >= following - ROUNDING
            if shared and not isinstance(picture, _Shared):
                picture = _Shared(picture, self)
            if shared:
                self._held.append((time, picture))
            if time >= stop - ROUNDING:
                ended = False
                break
            if time >= cut.start - ROUNDING:
                first = time if first is None else first
                yield time - first, picture
            if isinstance(picture, _Shared) and self.geometry is not None:
                picture.square(self.geometry)
        self._held.extend(held)  # all after those above
        if ended:
            self._check(cut, first is None)

    def _next(self, held: deque[tuple[float, Picture]]) -> Iterator[tuple[float, Picture]]:
        while held:
            yield held.popleft()
        for time, picture in self._frames:
            self._last = time
            yield time, picture

    def _check(self, cut: Cut, empty: bool) -> None:
        """Note or refuse what the file is too short for."""
        if empty and cut.of_file:
            raise DataError(
                f"{self._video.name}: ends at {self._last:.2f} s, before the cut that starts at {cut.start:g} s; "
                "correct the list, whose times are seconds or H:MM:SS"
            )
        if empty:
            self._video.notes.append(f"ends at {self._last:.2f} s, before {cut.start:g} s")
        elif cut.of_file and cut.end is not None and cut.end > self._last + SLACK:
            self._video.notes.append(f"ends at {self._last:.2f} s, before the end of the cut at {cut.end:g} s")
