"""A source of made pictures: every item's pixels say which item and which picture they are."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from prelar_ray.errors import ConfigError, DataError
from prelar_ray.sources.pictures import ArrayPicture
from prelar_ray.sources.source import Choice, Description, Item, Source, SourceEpisode


class Made(Source):
    """A text file with a line ``name length [fault]`` for each item.

    Faults: ``ends=N`` cannot be read after N pictures, ``refused`` is asked for wrongly, ``dies`` kills its process.
    """

    format: ClassVar[str] = "made"

    @classmethod
    def recognise(cls, path: Path) -> bool:
        return path.suffix == ".made"

    def __init__(self, path: Path, choice: Choice) -> None:
        self.path, self.choice = path, choice
        self.lines = path.read_text().splitlines()

    def describe(self) -> Description:
        frames = sum(int(line.split()[1]) for line in self.lines)
        return Description("made pictures", len(self.lines), len(self.lines), frames, self.path.stat().st_size)

    def items(self) -> Sequence[Item]:
        names = [line.split()[0] for line in self.lines]
        return [Item(name, (self.path.parent / name,), number) for number, name in enumerate(names)]

    def read(self, item: Item) -> Iterator[SourceEpisode]:
        name, length, *fault = self.lines[item.detail].split()
        actions = np.arange(int(length), dtype=np.float32)[:, None] + 1 if self.choice.actions else None
        episode = SourceEpisode(name, iter(()), actions)
        episode.pictures = self._pictures(item.detail, int(length), fault, episode)
        yield episode

    def _pictures(
        self, number: int, length: int, fault: list[str], episode: SourceEpisode
    ) -> Iterator[tuple[float | None, ArrayPicture]]:
        if fault == ["refused"]:
            raise ConfigError("--camera: there is none")
        if fault == ["dies"]:
            os.kill(os.getpid(), signal.SIGKILL)
        for index in range(length):
            if fault and fault[0] == f"ends={index}":
                raise DataError(f"cut short after {index} pictures")
            yield index / 10, ArrayPicture(picture(number, index))
        if fault == ["odd"]:
            episode.notes.append("odd colours")


def picture(number: int, index: int) -> np.ndarray:
    """Pixels ``(64, 64, 3)`` of one colour: number of the item, and of the picture."""
    return np.full((64, 64, 3), (number % 256, index // 256, index % 256), np.uint8)


def made(path: Path, *lines: str) -> Path:
    """Write a source and the files that its items stand for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for line in lines:
        (path.parent / line.split()[0]).write_text(line)
    path.write_text("\n".join(lines))
    return path
