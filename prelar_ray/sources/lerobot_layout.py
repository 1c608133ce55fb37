"""What a LeRobot folder says of itself: cameras, episodes, and which file each lies in.

::

    meta/info.json                  rate, features, and the templates video_path and data_path
    meta/episodes.jsonl             v2.0, v2.1: a line per episode {"episode_index", "tasks", "length"}
    meta/episodes/*/*.parquet       v3.0: a row per episode, and which files it is in, from which second

The names in a template tell whether a file holds one episode or many; the version that a folder says it has does not.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Final

import pyarrow as pa
from pydantic import BaseModel, Field, ValidationError

from prelar_ray.errors import DataError
from prelar_ray.sources.files import check_readable
from prelar_ray.sources.lerobot_tables import open_parquet
from prelar_ray.storage.json_text import parse_json
from prelar_ray.storage.names import name_problem
from prelar_ray.storage.reading import first_mistake, read_bytes
from prelar_ray.wording import printable

__all__ = ["Camera", "Episode", "Layout", "Place", "read_layout"]

_NAMES: Final = frozenset({"video_key", "episode_chunk", "episode_index", "chunk_index", "file_index"})
"""What a template may ask for."""


@dataclass(frozen=True)
class Camera:
    """A view: a feature that is a video or images."""

    key: str
    is_video: bool
    period: float
    """Seconds between its pictures at most, if info.json has two opinions."""
    size: str
    """``width x height`` as info.json has it, or empty."""


@dataclass(frozen=True)
class Place:
    """Where an episode is in a file."""

    file: str
    """Below the source's folder."""
    start: float
    """Seconds into a video."""


@dataclass(frozen=True)
class Episode:
    """One episode: ``length`` rows."""

    index: int
    length: int
    task: str
    columns: Mapping[str, Any]
    """Of its row in a table of episodes: where it lies."""


class _Feature(BaseModel):
    dtype: str = ""
    shape: Any = None
    info: dict[str, Any] | None = None
    video_info: dict[str, Any] | None = None

    @property
    def details(self) -> dict[str, Any]:
        return self.info or self.video_info or {}

    @property
    def is_depth(self) -> bool:
        return bool(self.details.get("is_depth_map") or self.details.get("video.is_depth_map"))

    @property
    def size(self) -> str:
        if not isinstance(self.shape, list) or len(self.shape) != 3:
            return ""
        height, width = self.shape[1:] if self.shape[0] in (1, 3) else self.shape[:2]
        return f"{width} x {height}"


class _Info(BaseModel):
    codebase_version: str = "without a version"
    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    features: dict[str, _Feature]
    chunks_size: Annotated[int, Field(ge=1)] = 1000
    data_path: str | None = None
    video_path: str | None = None


@dataclass(frozen=True)
class _Template:
    key: str  # in info.json
    text: str
    names: frozenset[str]  # that are filled in


@dataclass(frozen=True)
class Layout:
    """What the files below ``meta`` say."""

    folder: Path
    version: str
    fps: float
    cameras: tuple[Camera, ...]
    depth_maps: tuple[str, ...]
    """Views that are left out."""
    episodes: tuple[Episode, ...]
    """In the order of their numbers."""
    chunks_size: int
    data_path: _Template
    video_path: _Template

    def data(self, episode: Episode) -> Place:
        """Return the table that has the rows of an episode.

        Raises:
            DataError: the folder does not say, or says a path that leaves it.
        """
        return self._place(self.data_path, episode, "data", "")

    def video(self, episode: Episode, camera: str) -> Place:
        """Return the video that has an episode.

        Raises:
            DataError: the folder does not say, or says a path that leaves it.
        """
        return self._place(self.video_path, episode, f"videos/{camera}", camera)

    def _place(self, template: _Template, episode: Episode, prefix: str, camera: str) -> Place:
        chunk, start = episode.index // self.chunks_size, 0.0
        values: dict[str, Any] = {"video_key": camera, "episode_index": episode.index, "episode_chunk": chunk}
        if "file_index" in template.names:
            try:
                values |= {name: int(episode.columns[f"{prefix}/{name}"]) for name in ("chunk_index", "file_index")}
                start = float(episode.columns[f"{prefix}/from_timestamp"]) if camera else 0.0
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{self.folder}/meta/episodes: does not say in which file and from when episode {episode.index} is "
                    f"({prefix}/chunk_index, file_index, from_timestamp); complete the download"
                ) from error
        elif "episode_index" in template.names:
            values["chunk_index"] = chunk
        else:
            raise DataError(
                f"{self.folder}/meta/info.json: {template.key} is {template.text!r}, expected file_index or "
                f"episode_index in it, as in LeRobot v2.0, v2.1 and v3.0; this is {self.version}"
            )
        file = template.text.format(**values)
        if problem := name_problem(file):
            where = f"{self.folder}/meta/info.json: {template.key} gives {printable(file)!r}"
            raise DataError(f"{where}, which is not in the folder: it {problem}")
        return Place(file, start)


def read_layout(folder: Path) -> Layout:
    """Read what describes a folder.

    Raises:
        DataError: a file is missing, damaged, or of an unknown structure; names it.
    """
    path = folder / "meta" / "info.json"
    if not os.path.exists(path) and os.path.exists(folder / "meta_data"):  # never raise
        raise DataError(
            f"{folder}: LeRobot v1, which is not read; convert it with lerobot, or give its folder of videos"
        )
    info = _read_info(path)
    found = {key: feature for key, feature in info.features.items() if feature.dtype in ("video", "image")}
    cameras = [_camera(key, feature, info.fps) for key, feature in found.items() if not feature.is_depth]
    if not cameras:
        listed = ", ".join(info.features) or "none"
        raise DataError(f"{path}: no video or images among its features ({listed}); it cannot be pre-trained from")
    return Layout(
        folder=folder,
        version=info.codebase_version,
        fps=info.fps,
        cameras=tuple(cameras),
        depth_maps=tuple(key for key, feature in found.items() if feature.is_depth),
        episodes=tuple(sorted(_episodes(folder, info, cameras), key=lambda episode: episode.index)),
        chunks_size=info.chunks_size,
        data_path=_template(path, "data_path", info.data_path),
        video_path=_template(path, "video_path", info.video_path),
    )


def _read_info(path: Path) -> _Info:
    check_readable(path)
    try:
        return _Info.model_validate_json(json.dumps(parse_json(read_bytes(path))))
    except ValidationError as error:
        raise DataError(f"{path}: {first_mistake(error)}; restore it from a copy") from error
    except ValueError as error:
        raise DataError(f"{path}: its text: {error}; restore it from a copy") from error


def _camera(key: str, feature: _Feature, fps: float) -> Camera:
    own = feature.details.get("video.fps")
    rate = min(fps, float(own)) if isinstance(own, int | float) and own > 0 else fps
    return Camera(key, feature.dtype == "video", 1 / rate, feature.size)


def _template(path: Path, key: str, text: str | None) -> _Template:
    names = set()
    try:
        for _, name, spec, conversion in Formatter().parse(text or ""):
            if name is not None:
                if name not in _NAMES or conversion or not re.fullmatch(r"(0?[1-9]?d)?", spec or ""):
                    raise ValueError(name)
                names.add(name)
    except ValueError as error:
        raise DataError(f"{path}: {key} {text!r}: only {', '.join(sorted(_NAMES))} can be filled in") from error
    return _Template(key, text or "", frozenset(names))


def _episodes(folder: Path, info: _Info, cameras: list[Camera]) -> Iterator[Episode]:
    lines, tables = folder / "meta" / "episodes.jsonl", sorted((folder / "meta" / "episodes").rglob("[!.]*.parquet"))
    shared = "file_index" in f"{info.video_path}{info.data_path}"
    if lines.exists() and not (shared and tables):
        yield from _episodes_of_lines(lines)
    elif tables:
        for table in tables:
            yield from _episodes_of_table(table, cameras)
    else:
        raise DataError(
            f"{folder}/meta: neither episodes.jsonl nor episodes/*/*.parquet (LeRobot {info.codebase_version}); "
            "complete the download, or convert it to v2.0, v2.1 or v3.0"
        )


def _episodes_of_lines(path: Path) -> Iterator[Episode]:
    check_readable(path)
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if line.strip():
            try:
                yield _episode(parse_json(line))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise DataError(f"{path}: line {number} is no episode ({error}); restore it from a copy") from error


def _episodes_of_table(path: Path, cameras: list[Camera]) -> Iterator[Episode]:
    with open_parquet(path) as table:
        wanted = {"episode_index", "length", "tasks", "data/chunk_index", "data/file_index"}
        for camera in cameras:
            wanted |= {f"videos/{camera.key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")}
        columns = [name for name in table.schema_arrow.names if name in wanted]
        try:
            for row in table.read(columns=columns).to_pylist():
                yield _episode(row)
        except (pa.ArrowException, ValueError, TypeError, KeyError, OSError) as error:
            raise DataError(f"{path}: not a table of episodes ({error}); restore it from a copy") from error


def _episode(row: dict[str, Any]) -> Episode:
    tasks = row.pop("tasks", None) or [""]
    task = tasks if isinstance(tasks, str) else str(tasks[0])
    return Episode(int(row.pop("episode_index")), int(row.pop("length")), task, row)
