"""What the tests of readers share: all that a source gives, and what a broken one says."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prelar_ray.sources.geometry import Geometry
from prelar_ray.sources.source import Choice, Source

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


@dataclass
class Read:
    """An episode that was read to its end."""

    name: str
    frames: np.ndarray  # (T, 64, 64, 3) uint8
    times: list[float | None]
    actions: np.ndarray | None
    notes: list[str]

    @property
    def levels(self) -> list[int]:
        """Mean of every frame, rounded: tests draw frames of one colour."""
        return [round(float(frame.mean())) for frame in self.frames]


def everything(source: Source) -> list[Read]:
    """Read a source as a process that it was pickled to does."""
    source = pickle.loads(pickle.dumps(source))
    found = []
    for item in source.items():
        for episode in source.read(item):
            pairs = [(time, picture.square(Geometry())) for time, picture in episode.pictures]
            frames = np.stack([frame for _, frame in pairs]) if pairs else np.zeros((0, 64, 64, 3), np.uint8)
            found.append(Read(episode.name, frames, [time for time, _ in pairs], episode.actions, episode.notes))
    return found


def read(reader: Callable[[Path, Choice], Source], path: Path, **choice: Any) -> list[Read]:
    return everything(reader(path, Choice(**choice)))


def plain(levels: list[int], height: int = 64, width: int = 64, channels: int = 3) -> np.ndarray:
    """Frames ``(T, H, W, C)`` uint8, each of one level."""
    column = np.asarray(levels, np.uint8)[:, None, None, None]
    return np.broadcast_to(column, (len(levels), height, width, channels)).copy()
