"""From pictures of any size to the square ones of a store: upright, crop, flip, fit, in this order."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from prelar_ray.errors import DataError
from prelar_ray.fitting import Fit, fitted
from prelar_ray.types import IMAGE_SIZE, ImageSize

__all__ = ["Box", "Geometry"]


class Box(NamedTuple):
    """A part of a picture, in pixels from its top left corner."""

    width: int
    height: int
    x: int
    y: int


class Geometry(BaseModel):
    """How a picture becomes ``(Hpx, Wpx, 3)``; the default squeezes it to 64x64, as the published code does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rotate: Literal["auto", 0, 90, 180, 270] = "auto"
    """Degrees counter-clockwise; auto: as a video file says, so that it is upright."""
    crop: Box | None = None
    """Part of the upright picture to keep."""
    flip: Literal["none", "rows", "columns", "both"] = "none"
    """Reverse the order of rows, columns, or both."""
    fit: Fit = "squeeze"
    """To a square: change the aspect ratio, take the centre, or add black bars."""
    image_size: ImageSize = IMAGE_SIZE
    """Height and width, pixels."""

    def apply(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return a picture ``(H, W, 3)`` of square pixels as ``(Hpx, Wpx, 3)``; one that fits already is not resampled.

        Raises:
            DataError: ``crop`` reaches beyond the picture.
        """
        if self.rotate != "auto":
            pixels = np.rot90(pixels, self.rotate // 90)
        if self.crop is not None:
            self.check_crop(pixels.shape[1], pixels.shape[0])
            width, height, x, y = self.crop
            pixels = pixels[y : y + height, x : x + width]
        if self.flip in ("rows", "both"):
            pixels = pixels[::-1]
        if self.flip in ("columns", "both"):
            pixels = pixels[:, ::-1]
        return fitted(pixels, self.fit, self.image_size)

    def check_crop(self, width: int, height: int) -> None:
        """Raise DataError if ``crop`` reaches beyond an upright picture of this size."""
        box = self.crop
        if box and not (0 <= box.x < box.x + box.width <= width and 0 <= box.y < box.y + box.height <= height):
            raise DataError(
                f"--crop {box.width}:{box.height}:{box.x}:{box.y} reaches beyond pictures of {width} x {height} "
                "pixels; give WIDTH:HEIGHT:X:Y within them"
            )
