"""HDF5 files of robomimic, LIBERO and stable-worldmodel; needs h5py, the extra ``hdf5``.

::

    data/demo_<i>/obs/<camera>, data/demo_<i>/actions    robomimic, LIBERO: a group per episode
    pixels, ep_len, ep_offset                            stable-worldmodel: all episodes one after another

Pictures are uint8 ``(T, H, W, 3)``; an action of robomimic in row t was taken at picture t.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from prelar_ray.errors import ConfigError, DataError
from prelar_ray.extras import require
from prelar_ray.sources.arrays import as_actions, as_frames, no_pictures, picture_size
from prelar_ray.sources.choosing import check_choice, chosen_cameras, chosen_numbers
from prelar_ray.sources.files import check_readable, mostly, natural, total_bytes, visible_files
from prelar_ray.sources.pictures import ArrayPicture, Picture
from prelar_ray.sources.source import Choice, Description, Item, Source, SourceEpisode
from prelar_ray.video.actions import Actions

__all__ = ["Hdf5"]

_SUFFIXES: Final = (".hdf5", ".h5")
_LIBERO: Final = frozenset({"agentview_rgb", "eye_in_hand_rgb"})
_BLOCK: Final = 32
"""Pictures that are read at once."""


class Hdf5(Source):
    """Reads a file, or a folder of files: an item is an episode."""

    format: ClassVar[str] = "hdf5"

    @classmethod
    def recognise(cls, path: Path) -> bool:
        """See :meth:`Source.recognise`."""
        try:
            has_videos = (path / "recordings").exists()  # an episode of DROID: its trajectory.h5 has no pictures
        except OSError:
            return False
        return mostly(path, *_SUFFIXES) and not has_videos

    def __init__(self, path: Path, choice: Choice) -> None:
        """See :class:`Source`."""
        check_choice(choice, path, self.format, "camera", "episodes", "actions")
        files = [path] if path.is_file() else visible_files(path, *_SUFFIXES)
        if not files:
            raise DataError(f"{path}: no {' or '.join(_SUFFIXES)} files in it; name the folder that holds them")
        self._choice = choice
        items = [item for file in files for item in _episodes(file)]
        if not items:
            raise DataError(
                f"{files[0]}: neither data/demo_<i> nor ep_len and ep_offset with episodes; expected either"
            )
        self._items = [items[number] for number in chosen_numbers(choice, path, range(len(items)))]
        with _opened(files[0]) as file:
            group = _pictures_of(file, items[0])
            arrays = {key: (array.shape, array.dtype) for key, array in group.items() if hasattr(array, "shape")}
            self._first = {key: header for key, header in arrays.items() if _is_camera(*header)}
            if not self._first:
                raise no_pictures(f"{files[0]}: {group.name}", arrays)
            self._masks = sorted(file["mask"]) if "mask" in file else []
        self._cameras = chosen_cameras(choice, path, sorted(self._first))
        if choice.actions and not items[0].detail["group"]:
            raise ConfigError(f"--actions: {files[0]}: ep_len and ep_offset do not say what led to what; leave it out")

    def describe(self) -> Description:
        """See :meth:`Source.describe`; frames are estimated by the first episode where the file does not say."""
        rows = self._first[self._cameras[0]][0][0]
        lengths = [item.detail["rows"][1] if item.detail["rows"] else rows for item in self._items]
        sizes = [picture_size(*self._first[camera]) or () for camera in self._cameras]
        notes = []
        if set(self._cameras) & _LIBERO:
            notes.append("pictures of LIBERO are stored upside down and are kept so; --flip rows makes them upright")
        if self._masks:
            notes.append(f"lists of demonstrations ({', '.join(self._masks)}) are not used; all are read")
        return Description(
            format="HDF5",
            items=len(self._items),
            episodes=len(self._items) * len(self._cameras),
            frames=sum(lengths) * len(self._cameras),
            bytes=total_bytes({item.files[0] for item in self._items})[0],
            cameras=self._cameras,
            sizes=tuple(dict.fromkeys(" x ".join(map(str, size)) for size in sizes)),
            notes=tuple(notes),
        )

    def items(self) -> Sequence[Item]:
        """See :meth:`Source.items`: in the order of their numbers."""
        return self._items

    def read(self, item: Item) -> Iterator[SourceEpisode]:
        """See :meth:`Source.read`."""
        path = item.files[0]
        with _opened(path) as file:
            group = _pictures_of(file, item)
            for camera in self._cameras:
                name = f"{path}: {group.name.rstrip('/')}/{camera}"
                if camera not in group or not _is_camera(group[camera].shape, group[camera].dtype):
                    raise DataError(f"{name}: no pictures uint8 (T, H, W, 3); leave the file out")
                start, length = item.detail["rows"] or (0, len(group[camera]))
                if start < 0 or start + length > len(group[camera]):
                    raise DataError(f"{name}: {len(group[camera])} rows, its ep_len says {start + length}; restore it")
                yield SourceEpisode(
                    self._choice.name or path.stem.removesuffix("_demo"),
                    _blocks(group[camera], start, start + length, path),
                    _actions(file, item, length) if self._choice.actions else None,
                )


def _h5py() -> Any:
    require("reading HDF5 files", "hdf5")
    return importlib.import_module("h5py")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file.

    Raises:
        DataError: it is missing or damaged.
    """
    h5py = _h5py()
    check_readable(path)
    with _naming(path), h5py.File(path, "r") as file:
        yield file


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what h5py raises for damaged files, and for other structures than expected, into a DataError."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a readable HDF5 file ({error}); restore it from a copy") from error


def _episodes(path: Path) -> list[Item]:
    """Return an item for each episode of a file, in the order of their numbers."""
    with _opened(path) as file:
        if "ep_len" in file and "ep_offset" in file:
            spans = zip(file["ep_offset"][:].tolist(), file["ep_len"][:].tolist(), strict=True)
            places = [(f"episode {number}", "", [*span]) for number, span in enumerate(spans)]
        else:
            demos = [name for name in file.get("data", ()) if "obs" in file["data"][name]]
            places = [(name, f"data/{name}", []) for name in sorted(demos, key=natural)]
    return [Item(f"{path.name}: {key}", (path,), {"group": group, "rows": rows}) for key, group, rows in places]


def _pictures_of(file: Any, item: Item) -> Any:
    """Return the group that has an episode's pictures, by camera."""
    return file[f"{item.detail['group']}/obs"] if item.detail["group"] else file


def _is_camera(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    return dtype == np.uint8 and picture_size(shape, dtype) is not None


def _blocks(array: Any, start: int, stop: int, path: Path) -> Iterator[tuple[None, Picture]]:
    for first in range(start, stop, _BLOCK):
        with _naming(path):
            block = array[first : min(first + _BLOCK, stop)]
        for pixels in as_frames(block, str(path)):
            yield None, ArrayPicture(pixels)


def _actions(file: Any, item: Item, length: int) -> Actions:
    name = f"{item.files[0]}: {item.detail['group']}/actions"
    group = file[item.detail["group"]]
    if "actions" not in group or len(group["actions"]) != length:
        raise DataError(f"{name}: not one for each of {length} pictures; leave --actions out")
    return as_actions(group["actions"][:], taken_at=True, name=name)
