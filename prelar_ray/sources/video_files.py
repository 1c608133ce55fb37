"""Video files: one, a folder of them at any depth, or those that a list names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Final

from prelar_ray.errors import ConfigError, DataError
from prelar_ray.sources.choosing import check_choice
from prelar_ray.sources.cuts import Cut, cut_episodes
from prelar_ray.sources.decoding import Figures, VideoFile
from prelar_ray.sources.files import total_bytes
from prelar_ray.sources.lists import Entry, read_list
from prelar_ray.sources.source import Choice, Description, Item, Source, SourceEpisode
from prelar_ray.sources.trees import folders, spread
from prelar_ray.wording import counted

__all__ = ["SUFFIXES", "VideoFiles", "is_video"]

SUFFIXES: Final = frozenset(
    ".mp4 .webm .mkv .avi .mov .mpg .mpeg .m4v .gif .ogv .wmv .flv .ts .mts .m2ts .3gp .3g2 .asf .divx .dv .f4v .m2v "
    ".mjpeg .mjpg .mpe .mxf .ogm .vob .y4m .h264 .264 .hevc .h265 .265".split()
)
"""Of names of video files, in lower case."""


class VideoFiles(Source):
    """Videos as files, each an episode, or several where a list cuts it into parts.

    An episode is named after what the list says, its class in words or the name of the part. Without a list it is named
    after the folder of its file, with its path below the source: mostly its class. Files directly in the source are
    named after the source, and a single file after itself.
    """

    format: ClassVar[str] = "video"

    @classmethod
    def recognise(cls, path: Path) -> bool:
        """Whether it is a video file by its name, or a folder with one at any depth."""
        if path.is_file():
            return is_video(path.name)
        try:
            return any(is_video(name) for folder in folders(path) for name in folder.names)
        except DataError:
            return False

    def __init__(self, path: Path, choice: Choice) -> None:
        """See :meth:`Source.__init__`."""
        check_choice(choice, path, self.format, "list", "labels", "start", "end")
        if choice.labels and choice.list is None:
            raise ConfigError("--label: classes are those of a list; name it with --list")
        if choice.end is not None and choice.end <= choice.start:
            raise ConfigError(f"--end {choice.end:g}: not after --start {choice.start:g}; seconds of each file")
        self._path, self._choice = path, choice
        self._others = Counter[str]()  # files by the end of their names
        self._items = tuple(self._found() if choice.list is None else self._listed(choice.list))
        if not self._items:
            raise DataError(f"{path}: no video files ({', '.join(sorted(SUFFIXES))}); correct the path")

    def describe(self) -> Description:
        """See :meth:`Source.describe`; sizes, rates and frames are judged by some files."""
        notes, figures = [], []
        for item in spread(self._items):
            try:
                with VideoFile(item.files[0]) as video:
                    figures.append(video.figures())
            except DataError as error:
                notes.append(str(error))
        total, missing = total_bytes(item.files[0] for item in self._items)
        if missing:
            notes.append(f"{counted(len(missing), 'file')} missing")
        if self._others:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self._others.most_common(4))
            notes.append(f"not read, for they are no videos: {kinds}; unpack or name them if they are wanted too")
        sizes = Counter(f"{figure.width} x {figure.height}" for figure in figures)
        rates = Counter(f"{figure.rate:.4g}" for figure in figures if figure.rate)
        return Description(
            "video files",
            items=len(self._items),
            episodes=sum(len(item.detail) for item in self._items),
            frames=self._estimate(figures),
            bytes=total,
            sizes=tuple(size for size, _ in sizes.most_common()),
            rates=tuple(rate for rate, _ in rates.most_common()),
            notes=tuple(notes),
        )

    def items(self) -> Sequence[Item]:
        """See :meth:`Source.items`; a file each."""
        return self._items

    def read(self, item: Item) -> Iterator[SourceEpisode]:
        """See :meth:`Source.read`."""
        with VideoFile(item.files[0]) as video:
            yield from cut_episodes(video, [Cut(*cut) for cut in item.detail])

    def _found(self) -> Iterator[Item]:
        """Yield all files, in order of their paths."""
        if self._path.is_file():
            yield self._item(self._path.name, self._path, self._path.stem)
            return
        files = []
        for folder in folders(self._path):
            for name in folder.names:
                if is_video(name):
                    files.append((f"{folder.below}/{name}" if folder.below else name, folder.below))
                else:
                    self._others[os.path.splitext(name)[1] or name] += 1
        for key, below in sorted(files)[: self._choice.limit]:
            yield self._item(key, self._path / key, below or self._path.resolve().name)

    def _item(self, key: str, file: Path, name: str) -> Item:
        cut = self._choice.name or name, self._choice.start, self._choice.end, False
        return Item(key, (file,), [list(cut)])

    def _listed(self, path: Path) -> Iterator[Item]:
        """Yield the files of a list, in its order; the parts of one file together."""
        choice, folder = self._choice, self._path if self._path.is_dir() else self._path.parent
        entries = [(entry, file) for entry, file in _located(folder, read_list(path, choice.labels))]
        if self._path != folder:
            entries = [(entry, file) for entry, file in entries if file == self._path]
        cuts: dict[Path, list[list[str | float | bool | None]]] = {}
        lines: dict[Path, int] = {}
        for entry, file in entries[: choice.limit]:
            name = choice.name or entry.name or entry.label or folder.resolve().name
            if entry.is_cut and (choice.start or choice.end is not None):
                raise ConfigError(f"--start, --end: {path} has times of its own; leave them out")
            if not entry.is_cut and file in lines:
                raise DataError(f"{path}:{entry.line}: {entry.path} again, as in line {lines[file]}; remove one")
            lines[file] = entry.line
            start, end = (entry.start, entry.end) if entry.is_cut else (choice.start, choice.end)
            cuts.setdefault(file, []).append([name, start, end, entry.is_cut])
        if not cuts:
            raise ConfigError(f"{path}: names no video of {self._path}; its paths are relative to the folder")
        for file, parts in cuts.items():
            key = file.relative_to(folder) if file.is_relative_to(folder) else file
            yield Item(key.as_posix(), (file,), parts)

    def _estimate(self, figures: Sequence[Figures]) -> int | None:
        """Return about how many frames there are, from what some files say of themselves."""
        known = [(figure.frames, figure.rate) for figure in figures if figure.frames and figure.rate]
        if not known:
            return None
        rate = sum(rate for _, rate in known) / len(known)
        seconds = sum(frames / rate for frames, rate in known) / len(known)  # of a file
        total = 0.0
        for item in self._items:
            for _, start, end, of_file in item.detail:
                stop = seconds if end is None else end if of_file else min(end, seconds)
                total += max(0.0, stop - start)
        return round(total * rate)


def is_video(name: str) -> bool:
    """Whether a file of this name should be a video."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _located(folder: Path, entries: Sequence[Entry]) -> Iterator[tuple[Entry, Path]]:
    """Yield entries with their files; a name without a suffix is looked for in its folder alone."""
    stems: dict[Path, dict[str, str]] = {}
    for entry in entries:
        file = folder / entry.path
        if not is_video(entry.path):
            if file.parent not in stems:
                names = sorted(os.listdir(file.parent), reverse=True) if file.parent.is_dir() else []
                stems[file.parent] = {os.path.splitext(name)[0]: name for name in names if is_video(name)}
            file = file.with_name(stems[file.parent].get(file.name, file.name))
        yield entry, file
