"""Videos as numbered pictures: a folder each, or one folder with the pictures of several."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import ClassVar, Final, NamedTuple

from PIL import Image

from prelar_ray.errors import ConfigError, DataError
from prelar_ray.sources.choosing import check_choice
from prelar_ray.sources.files import total_bytes
from prelar_ray.sources.geometry import Geometry
from prelar_ray.sources.lists import read_list
from prelar_ray.sources.pictures import Frame, decoded
from prelar_ray.sources.source import Choice, Description, Item, Source, SourceEpisode
from prelar_ray.sources.trees import folders, spread
from prelar_ray.sources.video_files import is_video
from prelar_ray.wording import counted

__all__ = ["SUFFIXES", "ImageFolders"]

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
"""Of names of pictures, in lower case."""
LOOKED_AT: Final = 2000
"""Names that tell whether a folder is of this format."""


class ImageFolders(Source):
    """Numbered pictures, ordered by the last number in their names; they have no times.

    A folder with pictures is a video. Where pictures lie directly in the source and the text before their numbers
    differs, ``<title>_<number>.jpg``, each title is a video, and so is what follows a gap in its numbers.

    An episode is named after its class where a list is given, after its title, or after the folder that its folder lies
    in, with the path below the source: mostly its class. Folders directly in the source are named after the source.
    """

    format: ClassVar[str] = "frames"

    @classmethod
    def recognise(cls, path: Path) -> bool:
        """Whether it is a folder whose first files are numbered pictures, and no videos."""
        try:
            names = islice((name for folder in folders(path) for name in folder.names), LOOKED_AT)
            numbered = videos = 0
            for name in names if path.is_dir() else ():
                numbered, videos = numbered + (_numbered(name) is not None), videos + is_video(name)
        except DataError:
            return False
        return numbered > 1 and not videos

    def __init__(self, path: Path, choice: Choice) -> None:
        """See :meth:`Source.__init__`."""
        check_choice(choice, path, self.format, "list", "labels")
        if choice.labels and choice.list is None:
            raise ConfigError("--label: classes are those of a list; name it with --list")
        if not path.is_dir():
            raise DataError(f"{path}: not a folder; numbered pictures are read from the folder they lie in")
        self._path, self._choice = path, choice
        found = self._found() if choice.list is None else self._listed(choice.list)
        self._items = tuple(islice(found, choice.limit))
        if not self._items:
            raise DataError(f"{path}: no pictures with numbers in their names ({', '.join(sorted(SUFFIXES))})")

    def describe(self) -> Description:
        """See :meth:`Source.describe`; sizes, bytes and, without a list, frames are judged by some videos."""
        notes, sizes, counts, volumes = [], Counter[str](), [], []
        for item in spread(self._items):
            try:
                pictures = self._pictures(item).pictures
                with Image.open(pictures[0].path) as image:
                    sizes[f"{image.width} x {image.height}"] += 1
            except (DataError, OSError) as error:
                notes.append(str(error))
                continue
            counts.append(len(pictures))
            volumes.append(total_bytes(picture.path for picture in pictures)[0])
        listed = [item.detail["frames"] for item in self._items]
        estimated = round(len(self._items) * sum(counts) / len(counts)) if counts else None
        return Description(
            "folders of pictures",
            items=len(self._items),
            episodes=len(self._items),
            frames=sum(listed) if None not in listed else estimated,
            bytes=round(len(self._items) * sum(volumes) / len(volumes)) if volumes else 0,
            sizes=tuple(size for size, _ in sizes.most_common()),
            notes=tuple(notes),
        )

    def items(self) -> Sequence[Item]:
        """See :meth:`Source.items`; a video each, whose folder stands for its files."""
        return self._items

    def read(self, item: Item) -> Iterator[SourceEpisode]:
        """See :meth:`Source.read`."""
        found, frames = self._pictures(item), item.detail["frames"]
        notes = list(found.notes)
        if frames is not None and frames != len(found.pictures):
            notes.append(f"{counted(len(found.pictures), 'picture')}, the list says {frames}")
        sizes = _Sizes()
        pictures = ((None, _FolderPicture(picture.path, sizes)) for picture in found.pictures)
        yield SourceEpisode(item.detail["name"], pictures, notes=notes)

    def _found(self) -> Iterator[Item]:
        """Yield all videos, in order of their paths; no picture is opened."""
        items: list[Item] = []
        for folder in folders(self._path):
            names = [name for name in folder.names if _numbered(name)] if not folder.below else []
            if 1 < len({_title(name) for name in names}) <= len(names) / 2:
                items += self._titled(names)
            elif any(map(_numbered, folder.names)):
                above = os.path.dirname(folder.below) or self._path.resolve().name
                items.append(self._item(folder.below or ".", self._path / folder.below, above))
        yield from sorted(items, key=lambda item: item.key)

    def _titled(self, names: Sequence[str]) -> Iterator[Item]:
        """Yield the videos of one folder: runs of pictures of the same title without a gap."""
        titles: dict[str, list[str]] = {}
        for name in names:
            titles.setdefault(_title(name), []).append(name)
        for title, members in titles.items():
            numbered = _ordered(self._path, members)
            step = _step(numbered)
            runs = [[numbered[0]]]
            for before, picture in pairwise(numbered):
                if picture.number - before.number > step:
                    runs.append([])
                runs[-1].append(picture)
            for run in runs:
                name = title.rstrip(" _-.") or self._path.resolve().name
                yield self._item(run[0].path.stem, self._path, name, [picture.path.name for picture in run])

    def _item(
        self, key: str, folder: Path, name: str, names: Sequence[str] | None = None, frames: int | None = None
    ) -> Item:
        return Item(key, (folder,), {"name": self._choice.name or name, "names": names, "frames": frames})

    def _listed(self, path: Path) -> Iterator[Item]:
        """Yield the folders of a list, in its order; none is looked into."""
        lines: dict[str, int] = {}
        for entry in read_list(path, self._choice.labels):
            if entry.is_cut:
                raise ConfigError(f"{path}: gives times, which numbered pictures have not; list <id> <frames> <class>")
            if entry.path in lines:
                raise DataError(f"{path}:{entry.line}: {entry.path} again, as in line {lines[entry.path]}; remove one")
            lines[entry.path] = entry.line
            yield self._item(entry.path, self._path / entry.path, entry.name or entry.label, frames=entry.frames)

    def _pictures(self, item: Item) -> _Found:
        """List the pictures of a video.

        Raises:
            DataError: there are none, or two have the same number.
        """
        folder = item.files[0]
        if item.detail["names"] is not None:
            return _Found(_ordered(folder, item.detail["names"]), [])
        try:
            names = sorted(name for name in os.listdir(folder) if not name.startswith(".") and _is_picture(name))
        except OSError as error:
            raise DataError(f"{folder}: no such folder of pictures ({error.strerror}); restore it") from error
        numbered = [name for name in names if _numbered(name) is not None]
        if not numbered:
            raise DataError(f"{folder}: no pictures with numbers in their names; restore them, or leave it out")
        pictures, notes = _ordered(folder, numbered), []
        if len(numbered) < len(names):
            other = next(name for name in names if _numbered(name) is None)
            notes.append(f"{counted(len(names) - len(numbered), 'picture')} without a number left out ({other})")
        step = _step(pictures)
        gaps = [before.number for before, after in pairwise(pictures) if after.number - before.number > step]
        if gaps:
            notes.append(f"{counted(len(gaps), 'gap')} in the numbers, the first after {gaps[0]}")
        return _Found(pictures, notes)


class _Numbered(NamedTuple):
    number: int
    path: Path


class _Found(NamedTuple):
    pictures: Sequence[_Numbered]
    notes: Sequence[str]


@dataclass
class _Sizes:
    """The size of a video's pictures, once one is decoded."""

    first: Path | None = None
    shape: tuple[int, ...] = ()

    def check(self, path: Path, shape: tuple[int, ...]) -> None:
        """Raise DataError if a picture is not of the size of the first."""
        if self.first is None:
            self.first, self.shape = path, shape
        elif shape != self.shape:
            raise DataError(
                f"{path}: {shape[1]} x {shape[0]} pixels, but {self.first.name} of the same video has "
                f"{self.shape[1]} x {self.shape[0]}; leave out the one that does not belong to it"
            )


@dataclass(frozen=True)
class _FolderPicture:
    """A picture file of a video; see :class:`prelar_ray.sources.pictures.Picture`."""

    path: Path
    sizes: _Sizes

    def square(self, geometry: Geometry) -> Frame:
        """Decode it if it is kept, and check that its size is that of the others."""
        pixels = decoded(self.path, str(self.path))
        self.sizes.check(self.path, pixels.shape)
        return geometry.apply(pixels)


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _numbered(name: str) -> re.Match[str] | None:
    """Return where the last integer is in the name of a picture; None in other names."""
    return re.search(r"[0-9]+(?=[^0-9]*$)", os.path.splitext(name)[0]) if _is_picture(name) else None


def _title(name: str) -> str:
    """Return what comes before the number."""
    found = _numbered(name)
    return name[: found.start()] if found else name


def _ordered(folder: Path, names: Iterable[str]) -> list[_Numbered]:
    """Return pictures in order of their numbers.

    Raises:
        DataError: two have the same.
    """
    matches = ((_numbered(name), name) for name in names)
    pictures = sorted(_Numbered(int(found[0]), folder / name) for found, name in matches if found)
    for before, after in pairwise(pictures):
        if before.number == after.number:
            raise DataError(
                f"{folder}: {before.path.name} and {after.path.name} have the same number; "
                "a folder holds one video, so move one of the two series out"
            )
    return pictures


def _step(pictures: Sequence[_Numbered]) -> int:
    """Return the usual difference between numbers: 5 where every fifth frame was kept."""
    steps = Counter(after.number - before.number for before, after in pairwise(pictures))
    return max(steps, key=lambda step: (steps[step], -step), default=1)
