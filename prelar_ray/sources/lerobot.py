"""Folders of LeRobot v2.0, v2.1 and v3.0, read from their own files: JSON, parquet and video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from prelar_ray.errors import DataError
from prelar_ray.sources.choosing import check_choice, chosen_cameras, chosen_numbers
from prelar_ray.sources.decoding import VideoFile
from prelar_ray.sources.files import check_readable, total_bytes
from prelar_ray.sources.film import Film
from prelar_ray.sources.lerobot_layout import Camera, Episode, read_layout
from prelar_ray.sources.lerobot_tables import ActionTable, pictures_of_episodes
from prelar_ray.sources.pictures import Picture
from prelar_ray.sources.source import Choice, Description, Item, Source, SourceEpisode
from prelar_ray.video.actions import Actions
from prelar_ray.wording import counted

__all__ = ["LeRobot"]


class LeRobot(Source):
    """Reads a LeRobot folder: an item is one video, or one table, of one camera."""

    format: ClassVar[str] = "lerobot"

    @classmethod
    def recognise(cls, path: Path) -> bool:
        """See :meth:`Source.recognise`."""
        try:
            return (path / "meta" / "info.json").exists() or (path / "meta_data" / "info.json").exists()
        except OSError:
            return False

    def __init__(self, path: Path, choice: Choice) -> None:
        """See :class:`Source`."""
        check_choice(choice, path, self.format, "camera", "episodes", "actions")
        self._layout = layout = read_layout(path)
        self._choice = choice
        keys = chosen_cameras(choice, path, [camera.key for camera in layout.cameras])
        self._cameras = {camera.key: camera for camera in layout.cameras if camera.key in keys}
        if not layout.episodes:
            raise DataError(f"{path}/meta: no episodes in it; complete the recording or the download")
        chosen = set(chosen_numbers(choice, path, [episode.index for episode in layout.episodes]))
        self._episodes = {episode.index: episode for episode in layout.episodes if episode.index in chosen}
        self._items = self._grouped()
        self._table: ActionTable | None = None

    def describe(self) -> Description:
        """See :meth:`Source.describe`."""
        size, missing = total_bytes({file for item in self._items for file in item.files})
        notes = []
        if missing:
            notes.append(f"{counted(len(missing), 'file')} not there, the first is {min(missing)}")
        if self._layout.depth_maps:
            notes.append(f"depth maps are left out: {', '.join(self._layout.depth_maps)}")
        return Description(
            format=f"LeRobot {self._layout.version}",
            items=len(self._items),
            episodes=len(self._episodes) * len(self._cameras),
            frames=sum(episode.length for episode in self._episodes.values()) * len(self._cameras),
            bytes=size,
            cameras=tuple(self._cameras),
            sizes=tuple(dict.fromkeys(filter(None, map(self._size, self._cameras.values())))),
            rates=(f"{self._layout.fps:g}",),
            notes=tuple(notes),
        )

    def items(self) -> Sequence[Item]:
        """See :meth:`Source.items`."""
        return self._items

    def read(self, item: Item) -> Iterator[SourceEpisode]:
        """See :meth:`Source.read`."""
        camera = self._cameras[item.detail["camera"]]
        episodes = [self._episodes[index] for index in item.detail["episodes"]]
        return self._of_video(item, camera, episodes) if camera.is_video else self._of_table(item, camera, episodes)

    def _size(self, camera: Camera) -> str:
        """Return the size of a camera's pictures, of its first video if that is there: info.json may be wrong."""
        if camera.is_video:
            file = next(item.files[0] for item in self._items if item.detail["camera"] == camera.key)
            with suppress(DataError), VideoFile(file) as video:
                figures = video.figures()
                return f"{figures.width} x {figures.height}"
        return camera.size

    def _grouped(self) -> list[Item]:
        """Return an item for each file of each camera, in the order of its first episode."""
        found: dict[tuple[str, str], list[tuple[float, int]]] = {}
        for episode in self._episodes.values():
            for camera in self._cameras.values():
                place = self._layout.video(episode, camera.key) if camera.is_video else self._layout.data(episode)
                found.setdefault((camera.key, place.file), []).append((place.start, episode.index))
        items = []
        for (camera_key, file), starts in found.items():
            numbers = [index for _, index in sorted(starts)]
            files = [file]
            if self._choice.actions:
                files += [self._layout.data(self._episodes[index]).file for index in numbers]
            items.append(
                Item(
                    key=file if camera_key in file else f"{file} {camera_key}",
                    files=tuple(self._layout.folder / name for name in dict.fromkeys(files)),
                    detail={"camera": camera_key, "episodes": numbers},
                )
            )
        return items

    def _of_video(self, item: Item, camera: Camera, episodes: list[Episode]) -> Iterator[SourceEpisode]:
        check_readable(item.files[0])
        with VideoFile(item.files[0]) as video:
            film = Film(video.pictures(), camera.period / 2)
            for episode in episodes:
                start, fps = self._layout.video(episode, camera.key).start, self._layout.fps
                found = self._episode(item, episode, film.at([start + row / fps for row in range(episode.length)]))
                video.notes = found.notes
                yield found

    def _of_table(self, item: Item, camera: Camera, episodes: list[Episode]) -> Iterator[SourceEpisode]:
        wanted = {episode.index: episode for episode in episodes}
        file = item.files[0].relative_to(self._layout.folder).as_posix()
        for index, pictures in pictures_of_episodes(self._layout.folder, file, camera.key):
            if episode := wanted.pop(index, None):
                yield self._episode(item, episode, ((picture, True) for picture in pictures))
        if wanted:
            raise DataError(f"{item.files[0]}: no rows of episode {min(wanted)}; restore it from a copy")

    def _episode(self, item: Item, episode: Episode, pictures: Iterator[tuple[Picture, bool]]) -> SourceEpisode:
        """Return an episode of pictures that are where they belong, or stand for one that is missing."""
        actions = self._actions(episode) if self._choice.actions else None
        name = self._choice.name or episode.task or self._layout.folder.resolve().name
        found = SourceEpisode(name, iter(()), actions)
        found.pictures = self._timed(f"{item.files[0]}: episode {episode.index}", episode.length, pictures, found)
        return found

    def _timed(
        self, name: str, length: int, pictures: Iterator[tuple[Picture, bool]], found: SourceEpisode
    ) -> Iterator[tuple[float, Picture]]:
        """Yield pictures with their times; what is missing is noted, and its actions go."""
        rows = missing = 0
        for picture, there in pictures:
            missing += not there
            yield rows / self._layout.fps, picture
            rows += 1
        if missing:
            found.notes.append(f"{name}: {counted(missing, 'picture')} missing, the nearest is there in its place")
        if rows != length:
            found.notes.append(f"{name}: {counted(rows, 'picture')}, expected {length}")
        if found.actions is not None:
            found.actions = found.actions[:rows]

    def _actions(self, episode: Episode) -> Actions:
        path = self._layout.folder / self._layout.data(episode).file
        if self._table is None or self._table.file != path:
            self._table = ActionTable(path)  # the last one serves the episodes that follow in the same file
        actions = self._table.of(episode.index)
        if len(actions) < episode.length:
            raise DataError(f"{path}: {len(actions)} actions of episode {episode.index}, expected {episode.length}")
        return actions
