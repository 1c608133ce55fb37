"""What a preparation would do: what was found, how long it would take, and how its frames would look."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from prelar_ray.errors import ConfigError, DataError
from prelar_ray.preparation.conversion import Converter, Finished, Piece
from prelar_ray.preparation.ordered import Task
from prelar_ray.preparation.prepare import Preparation, all_tasks, open_sources
from prelar_ray.sources.selection import Selection
from prelar_ray.sources.source import Description, Source
from prelar_ray.sources.trees import spread
from prelar_ray.types import Frames
from prelar_ray.wording import counted

__all__ = ["Survey", "sample", "survey"]

TRIAL_SECONDS: Final = 3.0
"""Time spent to estimate how long all would take."""

TRIAL_ITEMS: Final = 16
"""Items, from all over the sources, that a trial converts at most."""

TRIAL_FRAMES: Final = 64
"""Frames of a piece of a trial."""


@dataclass(frozen=True)
class Survey:
    """What was found."""

    image_size: int
    """Height and width of the store's frames, pixels."""
    found: tuple[tuple[Path, Description], ...]
    """By source, in their order."""
    items: int
    """Of all sources."""
    frames: int | None
    """Estimated frames of the store; None where that is unknown."""
    seconds: float | None
    """Estimated time to convert all on one core; None where that is unknown."""

    @property
    def lines(self) -> list[str]:
        """What to tell a user."""
        lines = []
        for path, found in self.found:
            lines += [f"{path}: {_facts(found)}", *(f"  {note}" for note in found.notes)]
        if self.frames is not None:
            size = self.frames * self.image_size**2 * 3 / 1e9
            lines.append(f"to store: about {counted(self.frames, 'frame')}, {size:.2g} GB uncompressed")
        if self.seconds is not None:
            lines.append(f"expected time: {timedelta(seconds=max(1, round(self.seconds)))} on one core")
        return lines


def survey(preparation: Preparation, trial: bool = True) -> Survey:
    """Open all sources and describe them; a trial of a few seconds estimates the time.

    Raises:
        DataError, ConfigError: a source cannot be opened.
    """
    sources = open_sources(preparation)
    found = tuple(zip(preparation.sources, (source.describe() for source in sources), strict=True))
    tasks = all_tasks(preparation, sources)
    counts = [description.frames for _, description in found]
    frames = None
    if None not in counts and preparation.selection.fps is None:
        frames = sum(count or 0 for count in counts) // preparation.selection.every
    seconds = _time(preparation, sources, tasks, frames) if trial else None
    return Survey(preparation.geometry.image_size, found, len(tasks), frames, seconds)


def sample(preparation: Preparation, episodes: int) -> tuple[list[str], list[Frames]]:
    """Return names and first frames ``(T, Hpx, Wpx, C)`` of episodes from all over the sources, as they would be kept.

    Raises:
        DataError: no episode can be read.
    """
    sources = open_sources(preparation)
    tasks = all_tasks(preparation, sources)
    converter = _trial(preparation, sources)
    names, found = list[str](), list[Frames]()
    for task in spread(tasks, episodes):
        piece = next((piece for piece in _converted(converter, task) if isinstance(piece, Piece)), None)
        if piece is not None:
            names.append(f"{task[1].key}: {piece.name}")
            found.append(piece.frames)
    if not found:
        raise DataError(f"{preparation.sources[0]}: nothing of {len(tasks)} items can be read; `--dry-run` says more")
    return names, found


def _time(
    preparation: Preparation, sources: Sequence[Source], tasks: Sequence[Task], frames: int | None
) -> float | None:
    """Convert a few items for a few seconds and scale by frames, or by items where their frames are unknown."""
    converter = _trial(preparation, sources)
    began, kept, items = time.monotonic(), 0, 0
    for task in spread(tasks, TRIAL_ITEMS):
        for found in _converted(converter, task):
            kept += len(found.frames) if isinstance(found, Piece) else 0
            items += isinstance(found, Finished)
            if time.monotonic() - began > TRIAL_SECONDS:
                break
        if time.monotonic() - began > TRIAL_SECONDS:
            break
    seconds = time.monotonic() - began
    if frames is not None and kept:
        return seconds * frames / kept
    return seconds * len(tasks) / items if items else None


def _trial(preparation: Preparation, sources: Sequence[Source]) -> Converter:
    """Return a converter that gives something soon, of long videos too."""
    short = Selection(fps=preparation.selection.fps, every=preparation.selection.every, max_frames=TRIAL_FRAMES)
    return Converter(sources, preparation.geometry, short)


def _converted(converter: Converter, task: Task) -> Iterator[Piece | Finished]:
    """Convert a task; ConfigError if its source does not have what is chosen."""
    for found in converter.convert(*task):
        if isinstance(found, ConfigError):
            raise found
        yield found


def _facts(found: Description) -> str:
    """Return for example ``LeRobot v2.1, 206 episodes, 25 650 frames, 96 x 96, 10 a second, 0.01 GB``."""
    facts = [found.format]
    facts.append(counted(found.items, "item") if found.episodes is None else counted(found.episodes, "episode"))
    if found.frames is not None:
        facts.append(f"about {counted(found.frames, 'frame')}")
    for name, values in (("camera", found.cameras), ("size", found.sizes), ("rate", found.rates)):
        if values:
            shown = ", ".join(values[:4]) + (f" and {len(values) - 4} more" if len(values) > 4 else "")
            facts.append(f"{name}{'s' if len(values) > 1 else ''} {shown}")
    facts.append(f"{found.bytes / 1e6:.1f} MB")
    return "; ".join(facts)
