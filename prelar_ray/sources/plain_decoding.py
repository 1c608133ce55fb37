"""Stand-in until prelar_ray.sources.decoding is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av

from prelar_ray.errors import DataError
from prelar_ray.sources.pictures import ArrayPicture, Picture

__all__ = ["decode"]


def decode(path: Path) -> Iterator[tuple[float, Picture]]:
    """Yield time and picture, front to back."""
    try:
        with av.open(str(path)) as container:
            first: float | None = None
            for frame in container.decode(video=0):
                first = frame.time if first is None else first
                yield (frame.time or 0.0) - (first or 0.0), ArrayPicture(frame.to_ndarray(format="rgb24"))
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{path}: cannot be decoded ({error}); restore it from a copy") from error
