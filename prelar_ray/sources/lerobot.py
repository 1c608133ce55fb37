"""Folders of LeRobot v2.0, v2.1 and v3.0, read from their own files: JSON, parquet and video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from prelar_ray.errors import DataError
from prelar_ray.sources.choosing import check_choice, chosen_cameras, chosen_numbers
from prelar_ray.sources.decoding import VideoFile
from prelar_ray.sources.files import check_readable, total_bytes
from prelar_ray.sources.film import Film
from prelar_ray.sources.lerobot_layout import Camera, Layout, read_layout
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
        layout = read_layout(path)
        keys = chosen_cameras(choice, path, [camera.key for camera in layout.cameras])
        self._folder, self._choice, self._fps = path, choice, layout.fps
        self._cameras = {camera.key: camera for camera in layout.cameras if camera.key in keys}
        if not layout.episodes:
            raise DataError(f"{path}/meta: no episodes in it; complete the recording or the download")
        self._items = self._grouped(layout)
        self._format = f"LeRobot {layout.version}"
        self._depth_maps = layout.depth_maps
        self._table: ActionTable | None = None  # the last one: episodes that follow are mostly in the same

    def describe(self) -> Description:
        """See :meth:`Source.describe`."""
        size, missing = total_bytes({file for item in self._items for file in item.files})
        lengths = [episode["length"] for item in self._items for episode in item.detail["episodes"]]
        notes = []
        if missing:
            notes.append(f"{counted(len(missing), 'file')} not there, the first is {min(missing)}")
        if self._depth_maps:
            notes.append(f"depth maps are left out: {', '.join(self._depth_maps)}")
        return Description(
            format=self._format,
            items=len(self._items),
            episodes=len(lengths),
            frames=sum(lengths),
            bytes=size,
            cameras=tuple(self._cameras),
            sizes=tuple(dict.fromkeys(filter(None, map(self._size, self._cameras.values())))),
            rates=(f"{self._fps:g}",),
            notes=tuple(notes),
        )

    def items(self) -> Sequence[Item]:
        """See :meth:`Source.items`: in the order of their first episodes."""
        return self._items

    def read(self, item: Item) -> Iterator[SourceEpisode]:
        """See :meth:`Source.read`."""
        camera = self._cameras[item.detail["camera"]]
        return self._of_video(item, camera) if camera.is_video else self._of_table(item, camera)

    def _grouped(self, layout: Layout) -> list[Item]:
        """Return an item for each file of each camera; its episodes are in the order in which they lie in the file."""
        chosen = set(chosen_numbers(self._choice, self._folder, [episode.index for episode in layout.episodes]))
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for episode in layout.episodes:
            if episode.index in chosen:
                for camera in self._cameras.values():
                    place = layout.video(episode, camera.key) if camera.is_video else layout.data(episode)
                    detail: dict[str, Any] = {"index": episode.index, "length": episode.length, "start": place.start}
                    detail["name"] = self._choice.name or episode.task or self._folder.resolve().name
                    if self._choice.actions:
                        detail["table"] = layout.data(episode).file
                    found.setdefault((camera.key, place.file), []).append(detail)
        items = []
        for (key, file), episodes in found.items():
            files = dict.fromkeys([file, *(episode["table"] for episode in episodes if self._choice.actions)])
            items.append(
                Item(
                    key=file if key in file else f"{file} {key}",
                    files=tuple(self._folder / name for name in files),
                    detail={"camera": key, "episodes": sorted(episodes, key=lambda episode: episode["start"])},
                )
            )
        return items

    def _size(self, camera: Camera) -> str:
        """Return the size of a camera's pictures, of its first video if that is there: info.json may be wrong."""
        if camera.is_video:
            file = next(item.files[0] for item in self._items if item.detail["camera"] == camera.key)
            with suppress(DataError), VideoFile(file) as video:
                figures = video.figures()
                return f"{figures.width} x {figures.height}"
        return camera.size

    def _of_video(self, item: Item, camera: Camera) -> Iterator[SourceEpisode]:
        check_readable(item.files[0])
        with VideoFile(item.files[0]) as video:
            film = Film(video.pictures(), camera.period / 2)
            for episode in item.detail["episodes"]:
                moments = [episode["start"] + row / self._fps for row in range(episode["length"])]
                found = self._episode(item, episode, film.at(moments))
                video.notes = found.notes
                yield found

    def _of_table(self, item: Item, camera: Camera) -> Iterator[SourceEpisode]:
        wanted = {episode["index"]: episode for episode in item.detail["episodes"]}
        file = item.files[0].relative_to(self._folder).as_posix()
        for index, pictures in pictures_of_episodes(self._folder, file, camera.key):
            if episode := wanted.pop(index, None):
                yield self._episode(item, episode, ((picture, True) for picture in pictures))
        if wanted:
            raise DataError(f"{item.files[0]}: no rows of episode {min(wanted)}; restore it from a copy")

    def _episode(self, item: Item, episode: dict[str, Any], pictures: Iterator[tuple[Picture, bool]]) -> SourceEpisode:
        """Return an episode of pictures, each with whether it is the one that belongs there, or stands for it."""
        actions = self._actions(episode) if self._choice.actions else None
        found = SourceEpisode(episode["name"], iter(()), actions)
        name = f"{item.files[0]}: episode {episode['index']}"
        found.pictures = self._timed(name, episode["length"], pictures, found)
        return found

    def _timed(
        self, name: str, length: int, pictures: Iterator[tuple[Picture, bool]], found: SourceEpisode
    ) -> Iterator[tuple[float, Picture]]:
        """Yield pictures with their times; what is missing is noted, and its actions go."""
        rows = missing = 0
        for picture, there in pictures:
            missing += not there
            yield rows / self._fps, picture
            rows += 1
        if missing:
            found.notes.append(f"{name}: {counted(missing, 'picture')} missing, the nearest is there in its place")
        if rows != length:
            found.notes.append(f"{name}: {counted(rows, 'picture')}, expected {length}")
        if found.actions is not None:
            found.actions = found.actions[:rows]

    def _actions(self, episode: dict[str, Any]) -> Actions:
        path = self._folder / episode["table"]
        if self._table is None or self._table.file != path:
            self._table = ActionTable(path)
        actions = self._table.of(episode["index"])
        if len(actions) < episode["length"]:
            raise DataError(
                f"{path}: {len(actions)} actions of episode {episode['index']}, expected {episode['length']}"
            )
        return actions
