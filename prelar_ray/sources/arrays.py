"""Arrays that other programs stored as pictures, brought to uint8 ``(T, H, W, 3)`` or refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from prelar_ray.errors import DataError
from prelar_ray.types import Frames
from prelar_ray.video.actions import Actions

__all__ = ["as_actions", "as_frames", "no_pictures", "picture_size"]


def picture_size(shape: Sequence[int], dtype: np.dtype[Any]) -> tuple[int, int] | None:
    """Return width and height if an array of this shape may be pictures, else None.

    Pictures are numbers ``(T, H, W, C)`` or ``(T, C, H, W)`` with one or three channels.
    """
    if len(shape) != 4 or dtype.kind not in "uif":
        return None
    if shape[3] in (1, 3):
        return shape[2], shape[1]
    return (shape[3], shape[2]) if shape[1] in (1, 3) else None


def no_pictures(name: str, arrays: Mapping[str, tuple[Sequence[int], np.dtype[Any]]]) -> DataError:
    """Return the error of a file none of whose arrays (shape and type by key) is pictures."""
    for key, (shape, _) in arrays.items():
        if len(shape) == 4 and 9 in (shape[1], shape[3]):
            return DataError(
                f"{name}: {key} {tuple(shape)} has 9 channels, three pictures on top of each other; store one a row"
            )
    listed = ", ".join(f"{key} {tuple(shape)} {dtype}" for key, (shape, dtype) in arrays.items())
    return DataError(f"{name}: no pictures (T, H, W, 3) among {listed or 'no arrays'}; store them under any key")


def as_frames(array: npt.NDArray[Any], name: str) -> Frames:
    """Return pictures of any type and order of channels, see :func:`picture_size`, as uint8 ``(T, H, W, 3)``.

    Integers are 0 to 255. Floats are 0 to 1, or whole numbers to 255; where both would do, they are refused.

    Raises:
        DataError: other numbers, or no pictures; starts with ``name``.
    """
    if picture_size(array.shape, array.dtype) is None or not array.size:
        raise DataError(f"{name}: shape {array.shape} of {array.dtype}, expected pictures (T, H, W, 3)")
    if array.shape[3] not in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.dtype != np.uint8:
        array = _as_bytes(array, name)
    return array if array.shape[3] == 3 else np.repeat(array, 3, axis=3)


def _as_bytes(array: npt.NDArray[Any], name: str) -> Frames:
    least, most = array.min(), array.max()
    if not (least >= 0 and most <= 255):  # so written, it is true of NaN too
        raise DataError(f"{name}: numbers from {least} to {most}, expected 0 to 255; convert them to uint8")
    if array.dtype.kind != "f" or most == 0:
        return array.astype(np.uint8)
    whole = bool((array == np.floor(array)).all())
    if whole and most > 1:
        return array.astype(np.uint8)
    if not whole and most <= 1:
        return np.rint(array * np.float32(255)).astype(np.uint8)
    kind = "only 0 and 1" if whole else f"fractions up to {most}"
    raise DataError(f"{name}: floats, {kind}: 0 to 1 or 0 to 255 is not certain; convert them to uint8")


def as_actions(values: npt.NDArray[Any], taken_at: bool, name: str) -> Actions:
    """Return actions ``(T, ...)`` as float32 ``(T, A)`` of this project: row t led to picture t, row 0 is zero.

    Args:
        values: numbers ``(T, ...)``.
        taken_at: row t was taken at picture t, so the next picture is the one that it led to.
        name: where they come from, for errors.

    Raises:
        DataError: they are no numbers.
    """
    if values.dtype.kind not in "uifb" or not values.size:
        raise DataError(f"{name}: actions of type {values.dtype}, expected numbers (T, A); leave --actions out")
    rows = values.reshape(len(values), -1).astype(np.float32)
    actions = np.zeros_like(rows)
    actions[1:] = rows[:-1] if taken_at else rows[1:]
    return actions
