"""Episodes as npz files: what DreamerV2, APV, DreamerV3 and iVideoGPT write.

::

    <time>-<uuid>-<length>.npz              DreamerV2, APV: an episode; row t has the action that led to picture t
    <time>-<uuid>-<successor>-<length>.npz  DreamerV3: a chunk, see prelar_ray.sources.npz_streams; row t has the action
                                            that was taken at picture t
    any other name                          an episode, for example iVideoGPT's <split>_eps_<i>.npz; no actions
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Final

from prelar_ray.errors import ConfigError, DataError
from prelar_ray.sources.arrays import as_actions, as_frames, no_pictures, picture_size
from prelar_ray.sources.choosing import check_choice, chosen_cameras, chosen_items
from prelar_ray.sources.files import mostly, total_bytes, visible_files
from prelar_ray.sources.npz_arrays import Headers, load, read_headers
from prelar_ray.sources.npz_streams import Stream, chunk_length, streams
from prelar_ray.sources.pictures import ArrayPicture
from prelar_ray.sources.source import Choice, Description, Item, Source, SourceEpisode

__all__ = ["Npz"]

_DREAMER_V2: Final = re.compile(r"[0-9]{8}T[0-9A-Z]+-[0-9A-Za-z]+-(?P<steps>[0-9]+)\.npz")


class Npz(Source):
    """Reads a folder of npz files, or one file."""

    format: ClassVar[str] = "npz"

    @classmethod
    def recognise(cls, path: Path) -> bool:
        """See :meth:`Source.recognise`."""
        return mostly(path, ".npz")

    def __init__(self, path: Path, choice: Choice) -> None:
        """See :class:`Source`."""
        check_choice(choice, path, self.format, "camera", "episodes", "actions")
        files = [path] if path.is_file() else visible_files(path, ".npz")
        if not files:
            raise DataError(f"{path}: no .npz files in it; name the folder that holds them")
        self._choice = choice
        self._name = choice.name or (path.stem if path.is_file() else path.resolve().name)
        self._headers = read_headers(files[0])
        self._cameras = chosen_cameras(choice, files[0], _cameras(files[0], self._headers))
        episodes = [file for file in files if chunk_length(file) is None]
        for file in episodes:
            if choice.actions and not _DREAMER_V2.fullmatch(file.name):
                raise ConfigError(
                    f"--actions: {file}: only names of DreamerV2 and 3 say what led to what; leave it out"
                )
        found = [*streams(files), *((file,) for file in episodes)]
        self._items = chosen_items(choice, path, [Item(parts[0].name, parts) for parts in found], _count)

    def describe(self) -> Description:
        """See :meth:`Source.describe`."""
        files = [file for item in self._items for file in item.files]
        chunked = any(chunk_length(file) is not None for file in files)
        headers = [self._headers[camera] for camera in self._cameras]
        sizes = dict.fromkeys(f"{size[0]} x {size[1]}" for header in headers if (size := picture_size(*header)))
        rows = sum(_rows_by_name(file) or headers[0][0][0] for file in files)
        return Description(
            format="npz (chunks of DreamerV3)" if chunked else "npz",
            items=len(self._items),
            episodes=None if chunked else len(files) * len(self._cameras),
            frames=rows * len(self._cameras),
            bytes=total_bytes(files)[0],
            cameras=self._cameras,
            sizes=tuple(sizes),
        )

    def items(self) -> Sequence[Item]:
        """See :meth:`Source.items`: one per episode, or per stream of chunks."""
        return self._items

    def read(self, item: Item) -> Iterator[SourceEpisode]:
        """See :meth:`Source.read`."""
        if chunk_length(item.files[0]) is not None:
            return self._of_stream(item)
        return self._of_file(item.files[0])

    def _of_file(self, file: Path) -> Iterator[SourceEpisode]:
        for camera in self._cameras:
            frames = as_frames(load(file, camera), f"{file}: {camera}")
            actions = None
            if self._choice.actions:
                actions = as_actions(load(file, "action"), taken_at=False, name=f"{file}: action")
                if len(actions) != len(frames):
                    raise DataError(f"{file}: {len(actions)} rows of action for {len(frames)} pictures; leave it out")
            yield SourceEpisode(self._name, ((None, ArrayPicture(pixels)) for pixels in frames), actions)

    def _of_stream(self, item: Item) -> Iterator[SourceEpisode]:
        stream = Stream(item.files)
        values = stream.rows("action") if self._choice.actions else None
        for camera in self._cameras:
            for number, (start, stop) in enumerate(stream.episodes()):
                if item.detail is None or number in item.detail:
                    actions = None
                    if values is not None:
                        actions = as_actions(values[start:stop], taken_at=True, name=f"{item.files[0]}: action")
                    notes = [stream.gap] if stream.gap and stop == stream.length else []
                    yield SourceEpisode(self._name, stream.pictures(camera, start, stop), actions, notes)


def _count(item: Item) -> int:
    """Return how many episodes an item has."""
    return 1 if chunk_length(item.files[0]) is None else len(Stream(item.files).episodes())


def _rows_by_name(file: Path) -> int | None:
    """Return how many rows a file has by its name."""
    if episode := _DREAMER_V2.fullmatch(file.name):
        return int(episode["steps"]) + 1  # and the reset
    return chunk_length(file)


def _cameras(file: Path, headers: Headers) -> list[str]:
    cameras = [key for key, header in headers.items() if picture_size(*header)]
    if cameras:
        return cameras
    for key, (_, dtype) in headers.items():
        if dtype.hasobject:
            raise DataError(f"{file}: {key} is a pickle, which is never opened; store it as numbers (T, H, W, 3)")
    raise no_pictures(str(file), headers)
