"""From a picture of any size to a square one: the same for videos and for environments."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Fit", "fitted"]

Fit = Literal["squeeze", "crop", "pad"]
"""To a square: change the aspect ratio, take the centre, or add black bars."""


def fitted(pixels: npt.NDArray[np.uint8], fit: Fit, image_size: int) -> npt.NDArray[np.uint8]:
    """Return a picture ``(H, W, 3)`` as ``(image_size, image_size, 3)``; one that fits already is not resampled."""
    height, width = pixels.shape[:2]
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    if fit != "pad" or height == width:
        return _resized(pixels, image_size, image_size)
    scale = image_size / max(height, width)
    inner = _resized(pixels, max(1, round(width * scale)), max(1, round(height * scale)))
    padded = np.zeros((image_size, image_size, 3), np.uint8)
    top, left = (image_size - inner.shape[0]) // 2, (image_size - inner.shape[1]) // 2
    padded[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return padded


def _resized(pixels: npt.NDArray[np.uint8], width: int, height: int) -> npt.NDArray[np.uint8]:
    if pixels.shape[:2] == (height, width):
        return np.ascontiguousarray(pixels)
    from PIL import Image  # takes a tenth of a second, and most pictures fit

    image = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)
