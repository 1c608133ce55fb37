"""Tar archives in the manner of WebDataset: videos, or numbered pictures, and perhaps a text beside each.

::

    <key>.mp4                                           a video
    <key>_000.jpg, <key>.000.jpg, <key>/000.jpg         pictures of one video, next to each other
    <key>.cls, <key>.txt, <key>.json                    its class or caption

Members are read one after another, a sample at a time in memory, and never written to disk.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Final

from prelar_ray.errors import DataError
from prelar_ray.sources.choosing import check_choice, chosen_items
from prelar_ray.sources.decoding import VideoFile
from prelar_ray.sources.files import mostly, total_bytes, visible_files
from prelar_ray.sources.pictures import EncodedPicture, decoded
from prelar_ray.sources.source import Choice, Description, Item, Source, SourceEpisode
from prelar_ray.sources.tar_samples import Sample, samples

__all__ = ["Tar"]

_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz")


class Tar(Source):
    """Reads an archive, or a folder of archives: an item is an archive."""

    format: ClassVar[str] = "tar"

    @classmethod
    def recognise(cls, path: Path) -> bool:
        """See :meth:`Source.recognise`."""
        return mostly(path, *_SUFFIXES)

    def __init__(self, path: Path, choice: Choice) -> None:
        """See :class:`Source`."""
        check_choice(choice, path, self.format)
        files = [path] if path.is_file() else visible_files(path, *_SUFFIXES)
        if not files:
            raise DataError(f"{path}: no .tar or .tar.gz files in it; name the folder that holds them")
        if next(samples(files[0], load=False), None) is None:
            raise DataError(f"{files[0]}: no videos <key>.mp4 or pictures <key>_000.jpg in it; leave it out")
        self._name = choice.name or (path.name.partition(".")[0] if path.is_file() else path.resolve().name)
        self._choice = choice
        items = [Item(file.name, (file,)) for file in files]
        self._items = chosen_items(choice, path, items, lambda item: sum(1 for _ in samples(item.files[0], load=False)))

    def describe(self) -> Description:
        """See :meth:`Source.describe`."""
        chosen = [item.detail for item in self._items]
        size = rate = ""
        with suppress(DataError):
            size, rate = _figures(next(samples(self._items[0].files[0])))
        return Description(
            format="tar",
            items=len(self._items),
            episodes=None if None in chosen else sum(map(len, chosen)),
            bytes=total_bytes(item.files[0] for item in self._items)[0],
            sizes=(size,) if size else (),
            rates=(rate,) if rate else (),
        )

    def items(self) -> Sequence[Item]:
        """See :meth:`Source.items`."""
        return self._items

    def read(self, item: Item) -> Iterator[SourceEpisode]:
        """See :meth:`Source.read`."""
        for number, sample in enumerate(samples(item.files[0])):
            if item.detail is not None and number > item.detail[-1]:
                return
            name = self._choice.name or sample.text or self._name
            if sample.is_video:
                ((data, where),) = sample.files
                with VideoFile(io.BytesIO(data), where) as video:
                    yield SourceEpisode(name, video.pictures(), notes=video.notes)
            else:
                pictures = [EncodedPicture(data, where) for data, where in sample.files]
                yield SourceEpisode(name, ((None, picture) for picture in pictures), notes=[*sample.gaps])


def _figures(sample: Sample) -> tuple[str, str]:
    """Return size and rate of a sample."""
    data, where = sample.files[0]
    if not sample.is_video:
        height, width, _ = decoded(data, where).shape
        return f"{width} x {height}", ""
    with VideoFile(io.BytesIO(data), where) as video:
        figures = video.figures()
        return f"{figures.width} x {figures.height}", f"{figures.rate:g}" if figures.rate else ""
