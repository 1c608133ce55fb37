"""Films of episodes for viewing: mp4 through PyAV, GIF through Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from prelar_ray.errors import UsageError
from prelar_ray.extras import require
from prelar_ray.storage.files import cannot_write
from prelar_ray.types import Frames

__all__ = ["SUFFIXES", "check_film", "write_film"]

SIDE = 256
"""To which frames are enlarged, pixels."""
SUFFIXES = (".mp4", ".gif")
"""Suffixes of the films that :func:`write_film` writes."""


def check_film(path: Path) -> None:
    """Make sure that a film can be written as ``path``, before the work of which it is made.

    Raises:
        UsageError: another suffix, or PyAV is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{path}: films are written as {' or '.join(SUFFIXES)}; choose one of these")
    if suffix == ".mp4":
        require(f"{path}: an mp4 film", "video")


def write_film(path: Path, episodes: Sequence[Frames], frames_per_second: int = 30) -> None:
    """Write episodes one after another, enlarged, to ``path`` (``.mp4`` or ``.gif``).

    Raises:
        UsageError: as :func:`check_film`.
        DataError: the file cannot be written.
    """
    check_film(path)
    frames = np.concatenate(list(episodes))
    enlarge = max(1, SIDE // frames.shape[1])
    frames = frames.repeat(enlarge, axis=1).repeat(enlarge, axis=2)
    write = _write_gif if path.suffix.lower() == ".gif" else _write_mp4
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, frames, frames_per_second)
    except OSError as error:
        raise cannot_write(path, error) from error


def _write_mp4(path: Path, frames: Frames, frames_per_second: int) -> None:
    import av  # an extra

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=frames_per_second)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"  # the format that browsers support
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _write_gif(path: Path, frames: Frames, frames_per_second: int) -> None:
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=1000 // frames_per_second, loop=0)
