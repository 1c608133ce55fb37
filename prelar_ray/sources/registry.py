"""The formats that are known: those of this package, and readers that other packages register as entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from prelar_ray.errors import ConfigError, DataError
from prelar_ray.sources.source import Choice, Source
from prelar_ray.sources.trees import folders
from prelar_ray.video.layout import MANIFEST

__all__ = ["GROUP", "formats", "open_source"]

GROUP: Final = "prelar_ray.sources"
"""Entry points of readers: their names are formats, their objects subclasses of :class:`Source`."""


def formats() -> dict[str, type[Source]]:
    """Return all readers by format, in the order in which they are asked whether they recognise a path."""
    from prelar_ray.sources.hdf5 import Hdf5
    from prelar_ray.sources.image_folders import ImageFolders
    from prelar_ray.sources.lerobot import LeRobot
    from prelar_ray.sources.npz import Npz
    from prelar_ray.sources.rlds import Rlds
    from prelar_ray.sources.tar import Tar
    from prelar_ray.sources.video_files import VideoFiles

    own: list[type[Source]] = [LeRobot, Rlds, Hdf5, Tar, Npz, ImageFolders, VideoFiles]
    found = {point.name: point.load() for point in entry_points(group=GROUP)}
    return found | {reader.format: reader for reader in own}


def open_source(path: Path, choice: Choice, name: str = "auto") -> Source:
    """Open a file or folder with the reader of ``name``, or with the first that recognises it.

    Raises:
        DataError: it does not exist or cannot be listed, no reader recognises it, or see :class:`Source`.
        ConfigError: no reader of that name, or see :class:`Source`.
    """
    known = formats()
    if name not in ("auto", *known):
        raise ConfigError(f"--format {name}: unknown; known are auto, {', '.join(known)}")
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: no such file or folder; correct it") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}); correct the path or its permissions") from error
    if (path / MANIFEST).is_file():
        raise DataError(f"{path}: a video store already; `prelar-ray data merge` joins stores")
    if name != "auto":
        return known[name](path, choice)
    for reader in known.values():
        if reader.recognise(path):
            return reader(path, choice)
    for _ in folders(path) if path.is_dir() else ():
        pass  # one that cannot be listed is named, rather than that nothing is recognised
    raise DataError(
        f"{path}: none of the known formats ({', '.join(known)}); name one with --format to learn what is missing"
    )
