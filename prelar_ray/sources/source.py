"""What a reader of a video format is: it lists what there is to read, and reads it front to back, picture by picture.

A source is opened in the process that prepares a store, and pickled to those that convert; it keeps no open files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from prelar_ray.sources.pictures import Picture
from prelar_ray.video.actions import Actions

__all__ = ["Choice", "Description", "Item", "Source", "SourceEpisode"]


class Choice(BaseModel):
    """Which of a source's episodes are wanted; a source raises ConfigError for a choice that it does not have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    camera: str = ""
    """View to read where there are several; "all": each view as an episode of its own."""
    episodes: tuple[tuple[int, int | None], ...] = ()
    """Ranges (first, stop) of episode numbers, from 0; empty: all."""
    list: Path | None = None
    """File that names what to read; see :mod:`prelar_ray.sources.lists`."""
    labels: tuple[str, ...] = ()
    """Classes of that list; empty: all."""
    limit: int | None = None
    """Episodes to read at most."""
    name: str = ""
    """Source name of every episode; empty: the file's, class's or task's."""
    start: float = 0.0
    """Seconds into each file at which reading starts."""
    end: float | None = None
    """Seconds into each file at which reading ends."""
    actions: bool = False
    """Read true actions too."""

    def wants(self, number: int) -> bool:
        """Whether the episode of this number is in ``episodes``."""
        ranges = self.episodes or ((0, None),)
        return any(first <= number and (stop is None or number < stop) for first, stop in ranges)


@dataclass(frozen=True)
class Item:
    """What one process reads front to back: a file, or part of one. It may hold several episodes."""

    key: str
    """Unique in the source and the same on every machine: mostly the path below the source's folder."""
    files: tuple[Path, ...]
    """Files that it is read from; their sizes and times tell whether it has changed."""
    detail: Any = None
    """What the source needs to read it, of types that JSON has."""


@dataclass
class SourceEpisode:
    """One episode while it is read."""

    name: str
    """Kept with the episode: its class, task or file, without its number."""
    pictures: Iterator[tuple[float | None, Picture]]
    """Front to back. Seconds since the first picture, never falling, or None where the source has no clock."""
    actions: Actions | None = None
    """float32 ``(T, A)``, one row for each picture; row t led to picture t."""
    notes: list[str] = field(default_factory=list)
    """What a user should know of it, complete once the pictures are read: cut short, tone-mapped, ..."""


@dataclass(frozen=True)
class Description:
    """What was found, before work starts; None and empty where only reading would tell."""

    format: str
    """For example ``LeRobot v2.1``."""
    items: int
    episodes: int | None = None
    frames: int | None = None
    """Estimated where the format does not say."""
    bytes: int = 0
    """Of all files."""
    cameras: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    """Of the pictures, ``width x height``."""
    rates: tuple[str, ...] = ()
    """Pictures per second."""
    notes: tuple[str, ...] = ()
    """What a user should know, a sentence each."""


class Source(ABC):
    """A reader of one format, of one file or folder that a user named."""

    format: ClassVar[str]
    """Name for ``--format``."""

    @classmethod
    @abstractmethod
    def recognise(cls, path: Path) -> bool:
        """Whether the file or folder at ``path``, which exists, looks like this format; quick, and never raises."""

    @abstractmethod
    def __init__(self, path: Path, choice: Choice) -> None:
        """Find what there is to read.

        Raises:
            DataError: nothing is there, or what describes it is damaged; names the file.
            ConfigError: the choice is not one of this format or of these files; lists what there is.
        """

    @abstractmethod
    def describe(self) -> Description:
        """Return what was found. It may open a few files, never all."""

    @abstractmethod
    def items(self) -> Sequence[Item]:
        """Return what to read, in the order of the store."""

    @abstractmethod
    def read(self, item: Item) -> Iterator[SourceEpisode]:
        """Read an item's episodes one after another; each is read to its end before the next is asked for.

        Raises:
            DataError: it cannot be read, or only to here; names the file and says why. What came before is good.
        """
