"""Frames that a run predicted, as its report shows them."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prelar_ray.errors import DataError
from prelar_ray.types import Frames, check_frames

__all__ = ["PredictedFrames", "read_prediction"]

MOST_FRAME_BYTES = 2**28
"""Size above which predicted frames are not unpacked."""


@dataclass(frozen=True)
class PredictedFrames:
    """``frames/prediction.npz``."""

    true: Frames
    reconstructed: Frames
    open_loop: Frames
    context: int
    """Frames that the model observed before it predicted open loop."""


def read_prediction(path: Path) -> PredictedFrames:
    """Read the frames that a run predicted.

    Raises:
        DataError: they are missing, damaged, or unpack to more than any prediction.
    """
    if not path.exists():
        raise DataError(f"{path}: missing; the run ended before it wrote predicted frames")
    names = ("true", "reconstructed", "open_loop")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MOST_FRAME_BYTES:
                raise DataError(f"{path}: unpacks to more than {MOST_FRAME_BYTES // 2**20} MiB")
        with np.load(path, allow_pickle=False) as arrays:
            frames = [check_frames(arrays[name], f"{path}: {name}", None) for name in names]
            if arrays["context"].shape or arrays["context"].dtype.kind not in "iu":
                raise DataError(f"{path}: context is no whole number")
            context = int(arrays["context"])
    except DataError:
        raise
    except Exception as error:  # damaged archives raise whatever zip, zlib and NumPy come upon
        raise DataError(f"{path}: damaged or of another format ({error})") from error
    lengths = [len(of) for of in frames]
    if len(set(lengths)) > 1 or not lengths[0]:
        raise DataError(f"{path}: has {lengths[0]} true, {lengths[1]} reconstructed, {lengths[2]} open-loop frames")
    if not 0 < context <= lengths[0]:
        raise DataError(f"{path}: context is {context}, expected 1 to {lengths[0]} frames")
    return PredictedFrames(frames[0], frames[1], frames[2], context)
