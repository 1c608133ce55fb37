"""From an item of a source to the episodes of a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from prelar_ray.errors import ConfigError, PrelarError
from prelar_ray.sources.geometry import Geometry
from prelar_ray.sources.pictures import Frame
from prelar_ray.sources.selection import Selection
from prelar_ray.sources.source import Item, Source, SourceEpisode
from prelar_ray.types import Frames
from prelar_ray.video.actions import Actions

__all__ = ["Converted", "Converter", "Finished", "Piece"]


@dataclass(frozen=True)
class Piece:
    """An episode of the store."""

    frames: Frames
    """uint8 ``(T, Hpx, Wpx, C)``."""
    name: str
    actions: Actions | None
    """float32 ``(T, A)``; row 0, which led nowhere, is zero."""


@dataclass(frozen=True)
class Finished:
    """The end of an item."""

    too_short: int
    """Episodes that were left out for that."""
    notes: tuple[str, ...]
    """What a user should know."""
    failure: str = ""
    """Why the rest of it cannot be read; pieces before are good."""


Converted = Piece | Finished | ConfigError
"""What an item gives: its pieces, then that it is finished; or that it cannot be asked for so."""


@dataclass(frozen=True)
class Converter:
    """How every item is converted, in whichever process."""

    sources: Sequence[Source]
    geometry: Geometry
    selection: Selection

    def convert(self, source: int, item: Item) -> Iterator[Converted]:
        """Convert an item of the source of this number, front to back; at most one piece is in memory."""
        too_short, notes = 0, list[str]()
        try:
            for episode in self.sources[source].read(item):
                found = False
                for piece in self._pieces(episode):
                    found = True
                    yield piece
                too_short += not found
                notes += episode.notes
        except ConfigError as error:
            yield error
        except (PrelarError, OSError) as error:
            yield Finished(too_short, tuple(notes), str(error) or type(error).__name__)
        except MemoryError:  # without a message, mostly
            yield Finished(too_short, tuple(notes), "memory ran out; fewer --workers or a lower --max-frames need less")
        else:
            yield Finished(too_short, tuple(notes))

    def _pieces(self, episode: SourceEpisode) -> Iterator[Piece]:
        """Cut the kept pictures of an episode into pieces; a remainder that is too short is left out."""
        most, kept, start = self.selection.max_frames, list[Frame](), 0
        try:
            for picture in self.selection.select(episode.pictures):
                kept.append(picture.square(self.geometry))
                if len(kept) == most:
                    piece = _piece(kept, episode, start)
                    kept, start = [], start + most  # before the piece is taken: it is a copy
                    yield piece
                    del piece
        except ConfigError:
            raise
        except PrelarError:
            if len(kept) >= self.selection.min_frames:
                yield _piece(kept, episode, start)
            raise
        if len(kept) >= self.selection.min_frames:
            yield _piece(kept, episode, start)


def _piece(kept: list[Frame], episode: SourceEpisode, start: int) -> Piece:
    """Return pictures as a piece that starts at this picture of its episode."""
    actions = episode.actions
    if actions is not None:
        actions = actions[start : start + len(kept)].astype(np.float32)
        actions[:1] = 0.0  # within a longer episode an action led to this frame, from one that the piece lacks
    return Piece(np.stack(kept), episode.name, actions)
