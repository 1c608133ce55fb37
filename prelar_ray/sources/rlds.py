"""RLDS and Open-X data sets as TensorFlow Datasets stores them, read without TensorFlow.

::

    <name>/<version>/dataset_info.json, features.json
    <name>/<version>/<name>-<split>.tfrecord-00000-of-01024

A record is an episode: an Example with a list of JPEG or PNG files under ``steps/observation/<camera>``, one a step.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from PIL import Image

from prelar_ray.errors import ConfigError, DataError
from prelar_ray.sources.arrays import as_actions
from prelar_ray.sources.choosing import check_choice, chosen_cameras, chosen_items
from prelar_ray.sources.files import natural, total_bytes, visible_files
from prelar_ray.sources.geometry import Geometry
from prelar_ray.sources.pictures import EncodedPicture, Frame, Picture, decoded
from prelar_ray.sources.source import Choice, Description, Item, Source, SourceEpisode
from prelar_ray.sources.tfrecord import Example, count_records, records
from prelar_ray.storage.json_text import parse_json
from prelar_ray.storage.reading import read_bytes
from prelar_ray.video.actions import Actions
from prelar_ray.wording import counted

__all__ = ["Rlds"]

_FILE: Final = re.compile(r"(?P<name>.+)-(?P<split>[^-]+)\.tfrecord-(?P<shard>\d{5})-of-(?P<shards>\d{5})")
_VERSION: Final = re.compile(r"\d+\.\d+\.\d+")
_BGR: Final = {
    "stanford_hydra": None,
    "utaustin_mutex": None,
    "berkeley_fanuc": None,
    "berkeley_autolab_ur5": "hand_image",
}
"""Data sets, by how their names begin, whose colours are stored as blue, green, red: in all cameras, or in one."""
_INSTRUCTIONS: Final = ("steps/language_instruction", "steps/observation/natural_language_instruction")
_PICTURES: Final = (b"\xff\xd8", b"\x89PNG")
"""How JPEG and PNG files begin."""


class Rlds(Source):
    """Reads a folder ``<name>/<version>`` or ``<name>``: an item is one file."""

    format: ClassVar[str] = "rlds"

    @classmethod
    def recognise(cls, path: Path) -> bool:
        """See :meth:`Source.recognise`."""
        try:
            return any(_has_records(folder) for folder in [path, *_versions(path)])
        except OSError:
            return False

    def __init__(self, path: Path, choice: Choice) -> None:
        """See :class:`Source`."""
        check_choice(choice, path, self.format, "camera", "episodes", "actions")
        self._choice = choice
        folder = _folder(path)
        self._files = files = [file for file in visible_files(folder, "") if ".tfrecord" in file.name]
        if not files:
            raise DataError(f"{folder}: no .tfrecord files in it; complete the download, or convert array_record")
        self._info = _read_json(folder / "dataset_info.json")
        self._name = str(self._info.get("name") or files[0].name.partition("-")[0])
        _, record = next(records(files[0]), (0, b""))
        self._first_bytes = max(1, len(record))
        first = Example(record, f"{files[0]}: record 0")
        depth_maps = _depth_maps(_read_json(folder / "features.json"))
        self._keys = {_camera(key): key for key in _picture_keys(first) if key not in depth_maps}
        if not self._keys:
            listed = ", ".join(first.keys()) or "none"
            raise DataError(f"{files[0]}: no lists of JPEG or PNG files under steps/ (keys: {listed})")
        self._cameras = chosen_cameras(choice, path, list(self._keys))
        pictures = [first.byte_strings(self._keys[camera]) for camera in self._cameras]
        self._first_frames = sum(map(len, pictures))
        self._sizes = tuple(dict.fromkeys(_size(images[0]) for images in pictures))
        items = [Item(file.name, (file,)) for file in files]
        self._items = chosen_items(choice, path, items, lambda item: count_records(item.files[0]))

    def describe(self) -> Description:
        """See :meth:`Source.describe`; frames are estimated by the first episode."""
        files = [item.files[0] for item in self._items]
        size = total_bytes(files)[0]
        episodes = self._stated_episodes()
        guess = size / self._first_bytes if episodes is None else episodes
        return Description(
            format=f"RLDS {self._name}",
            items=len(files),
            episodes=None if episodes is None else episodes * len(self._cameras),
            frames=round(guess * self._first_frames),
            bytes=size,
            cameras=self._cameras,
            sizes=self._sizes,
            notes=tuple(self._notes()),
        )

    def items(self) -> Sequence[Item]:
        """See :meth:`Source.items`."""
        return self._items

    def read(self, item: Item) -> Iterator[SourceEpisode]:
        """See :meth:`Source.read`."""
        for number, record in records(item.files[0], item.detail):
            example = Example(record, f"{item.files[0]}: record {number}")
            for camera in self._cameras:
                yield self._episode(example, camera)

    def _episode(self, example: Example, camera: str) -> SourceEpisode:
        images = example.byte_strings(self._keys[camera])
        if not images:
            raise DataError(f"{example.name}: no pictures under {self._keys[camera]}; choose another --camera")
        name = f"{example.name}: {camera}"
        notes = [] if decoded(bytes(images[0]), name).any() else [f"{name}: all black, no picture was recorded"]
        task = next(
            (str(words[0], "utf-8", "replace") for key in _INSTRUCTIONS if (words := example.byte_strings(key))), ""
        )
        return SourceEpisode(
            self._choice.name or task.strip() or self._name,
            ((None, self._picture(bytes(data), name, camera)) for data in images),
            _actions(example, len(images)) if self._choice.actions else None,
            notes,
        )

    def _picture(self, data: bytes, name: str, camera: str) -> Picture:
        picture = EncodedPicture(data, name)
        return _Swapped(picture) if self._is_bgr(camera) else picture

    def _is_bgr(self, camera: str) -> bool:
        return any(self._name.startswith(name) and only in (None, camera) for name, only in _BGR.items())

    def _notes(self) -> Iterator[str]:
        for camera in filter(self._is_bgr, self._cameras):
            yield f"{camera} of {self._name} is known to be stored as blue, green, red: red and blue are exchanged"
        splits: dict[tuple[str, str], set[str]] = {}
        for file in self._files:
            if match := _FILE.fullmatch(file.name):
                splits.setdefault((match["split"], match["shards"]), set()).add(match["shard"])
        for (split, shards), found in splits.items():
            if len(found) < int(shards):
                yield f"{counted(int(shards) - len(found), 'file')} of {int(shards)} of split {split} are not there"

    def _stated_episodes(self) -> int | None:
        """Return how many episodes will be read, for whole files by dataset_info.json, or None."""
        total = 0
        try:
            lengths = {split["name"]: split["shardLengths"] for split in self._info["splits"]}
            for item in self._items:
                if item.detail is None:
                    match = _FILE.fullmatch(item.files[0].name)
                    total += int(lengths[match["split"]][int(match["shard"])]) if match else 0
                else:
                    total += len(item.detail)
        except (KeyError, IndexError, TypeError, ValueError):
            return None
        return total


@dataclass(frozen=True)
class _Swapped:
    """A picture whose red and blue are exchanged."""

    picture: Picture

    def square(self, geometry: Geometry) -> Frame:
        """See :meth:`Picture.square`."""
        return np.ascontiguousarray(self.picture.square(geometry)[..., ::-1])


def _versions(path: Path) -> list[Path]:
    names = os.listdir(path) if path.is_dir() else []
    return [path / name for name in sorted(names, key=natural) if _VERSION.fullmatch(name)]


def _has_records(folder: Path) -> bool:
    names = os.listdir(folder) if folder.is_dir() else []
    return any(".tfrecord" in name for name in names) or {"dataset_info.json", "features.json"} <= set(names)


def _folder(path: Path) -> Path:
    """Return the folder with the records: ``path``, or the version in it."""
    try:
        if not path.is_dir():
            raise DataError(f"{path}: one file of a data set; name its folder")
        if _has_records(path):
            return path
        versions = [folder for folder in _versions(path) if _has_records(folder)]
    except OSError as error:
        raise DataError(f"{path}: cannot be listed ({error.strerror}); check its permissions") from error
    if len(versions) > 1:
        listed = ", ".join(folder.name for folder in versions)
        raise ConfigError(f"{path}: several versions ({listed}); name the folder of one")
    return versions[0] if versions else path


def _read_json(path: Path) -> dict[str, Any]:
    """Return the content of a file that helps, but is not needed, or nothing."""
    try:
        content = parse_json(read_bytes(path))
    except (DataError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _depth_maps(features: dict[str, Any]) -> set[str]:
    """Return the keys of pictures that are not of 8 bits a colour, by features.json."""

    def types(node: dict[str, Any], key: str) -> Iterator[tuple[str, str]]:
        for name, feature in node.get("featuresDict", {}).get("features", {}).items():
            yield from types(feature, f"{key}/{name}" if key else name)
        if "sequence" in node:
            yield from types(node["sequence"]["feature"], key)
        if "image" in node:
            yield key, node["image"].get("dtype", "uint8")

    try:
        return {key for key, dtype in types(features, "") if dtype != "uint8"}
    except (AttributeError, KeyError, TypeError, RecursionError):
        return set()


def _picture_keys(example: Example) -> Iterator[str]:
    for key in example.keys():
        if key.startswith("steps/") and (values := example.byte_strings(key)):
            if bytes(values[0][:4]).startswith(_PICTURES):
                yield key


def _camera(key: str) -> str:
    return key.removeprefix("steps/").removeprefix("observation/")


def _size(data: memoryview) -> str:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return f"{image.width} x {image.height}"
    except (OSError, ValueError, SyntaxError):
        return ""


def _actions(example: Example, rows: int) -> Actions:
    """Return ``steps/action``, or what is below it in the order of its names, as ``(T, A)``."""
    keys = [key for key in example.keys() if key == "steps/action" or key.startswith("steps/action/")]
    columns = [values for key in keys if len(values := example.floats(key))]
    if not columns or any(len(values) % rows for values in columns):
        found = ", ".join(f"{len(values)} numbers" for values in columns) or "no numbers"
        raise DataError(
            f"{example.name}: {found} under steps/action for {counted(rows, 'picture')}; leave --actions out"
        )
    values = np.concatenate([values.reshape(rows, -1) for values in columns], axis=1)
    return as_actions(values, taken_at=True, name=example.name)
