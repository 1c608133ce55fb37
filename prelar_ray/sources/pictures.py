"""Pictures as sources give them: decoded, and brought to the store's size, only if they are kept."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from prelar_ray.errors import DataError
from prelar_ray.sources.geometry import Geometry

__all__ = ["ArrayPicture", "EncodedPicture", "Frame", "Picture"]

Frame = npt.NDArray[np.uint8]
"""uint8 ``(Hpx, Wpx, C)``."""


class Picture(Protocol):
    """One picture of a source."""

    def square(self, geometry: Geometry) -> Frame:
        """Return it as the store holds it, uint8 ``(Hpx, Wpx, C)``.

        Raises:
            DataError: it cannot be decoded; names where it comes from.
        """


@dataclass(frozen=True)
class ArrayPicture:
    """Pixels in memory, uint8 ``(H, W, 3)``."""

    pixels: Frame

    def square(self, geometry: Geometry) -> Frame:
        """See :meth:`Picture.square`."""
        return geometry.apply(self.pixels)


@dataclass(frozen=True)
class EncodedPicture:
    """A picture file: jpeg, png, webp, bmp, ... as a path or as its bytes."""

    data: bytes | Path
    name: str
    """Where it comes from, for errors."""

    def square(self, geometry: Geometry) -> Frame:
        """See :meth:`Picture.square`."""
        return geometry.apply(decoded(self.data, self.name))


def decoded(data: bytes | Path, name: str) -> Frame:
    """Return a picture file as uint8 ``(H, W, 3)``; what is transparent is black.

    Raises:
        DataError: no picture, cut short, or a depth map of 16 bits; names ``name``.
    """
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{name}: pixels of type {image.mode}, a depth map; expected 8 bits a colour")
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                colour = image.convert("RGBA")
                opaque = Image.alpha_composite(Image.new("RGBA", colour.size, (0, 0, 0, 255)), colour)
                return np.asarray(opaque.convert("RGB"))
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not a picture; leave it out, or restore it") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: cannot be decoded ({error}); restore it from a copy") from error
