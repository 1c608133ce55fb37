"""Where a decoded picture goes in a square one: a rectangle of it is scaled once, the small result is turned."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from prelar_ray.sources.geometry import Box, Geometry
from prelar_ray.sources.pictures import Frame

__all__ = ["Orientation", "Placement"]


@dataclass(frozen=True)
class Orientation:
    """How a picture as stored becomes the upright one that a player shows."""

    aspect: Fraction = Fraction(1)
    """Width of a stored pixel by its height."""
    turns: int = 0
    """Quarter turns counter-clockwise."""
    mirrored: bool = False
    """Reverse the columns after turning."""

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height of the upright picture, in square pixels."""
        wide = max(1, round(width * self.aspect))
        return (height, wide) if self.turns % 2 else (wide, height)


@dataclass(frozen=True)
class Placement:
    """The steps of :meth:`Geometry.apply <prelar_ray.sources.geometry.Geometry.apply>` with scaling as the first.

    Turning, reversing and padding come after it, on few pixels, and only the part that is kept is scaled.
    """

    part: Box
    """Of the picture as stored."""
    width: int
    """Of that part after scaling, pixels."""
    height: int
    turns: int
    """Quarter turns counter-clockwise after scaling."""
    flip_rows: bool
    """Reverse the rows after turning."""
    flip_columns: bool
    image_size: int
    """Height and width of the square, pixels."""

    @classmethod
    def of(cls, geometry: Geometry, width: int, height: int, orientation: Orientation) -> Placement:
        """Return that of stored pictures of ``width`` x ``height``.

        Raises:
            DataError: ``geometry.crop`` reaches beyond the upright picture.
        """
        if geometry.rotate != "auto":  # in place of what the file says
            orientation = Orientation(orientation.aspect, geometry.rotate // 90)
        upright = orientation.size(width, height)
        geometry.check_crop(*upright)
        part = geometry.crop or Box(*upright, 0, 0)
        flip_rows, flip_columns = geometry.flip in ("rows", "both"), geometry.flip in ("columns", "both")
        if geometry.fit == "crop":
            part = _centre(part, flip_rows, flip_columns)
        size: int = geometry.image_size
        inner = size, size
        if geometry.fit == "pad":
            scale = size / max(part.width, part.height)
            inner = max(1, round(part.width * scale)), max(1, round(part.height * scale))
        if orientation.mirrored:
            part = part._replace(x=upright[0] - part.x - part.width)
        turned = upright
        for _ in range(orientation.turns):  # back to the picture before it was turned
            turned = turned[1], turned[0]
            part = Box(part.height, part.width, turned[0] - part.y - part.height, part.x)
        return cls(
            _stored(part, turned[0], width),
            *(inner[::-1] if orientation.turns % 2 else inner),
            orientation.turns,
            flip_rows,
            flip_columns ^ orientation.mirrored,
            geometry.image_size,
        )

    def finish(self, scaled: Frame) -> Frame:
        """Return the scaled part ``(height, width, 3)`` as the store holds it, ``(Hpx, Wpx, 3)``."""
        turned = np.rot90(scaled, self.turns)
        turned = turned[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]
        height, width = turned.shape[:2]
        size = self.image_size
        if height == width == size:
            return np.ascontiguousarray(turned)
        padded = np.zeros((size, size, 3), np.uint8)
        top, left = (size - height) // 2, (size - width) // 2
        padded[top : top + height, left : left + width] = turned
        return padded


def _centre(part: Box, flip_rows: bool, flip_columns: bool) -> Box:
    """Return the centre square; of two centres, the left or upper one after flipping."""
    side = min(part.width, part.height)
    left, top = (part.width - side) // 2, (part.height - side) // 2
    if flip_columns:
        left = part.width - side - left
    if flip_rows:
        top = part.height - side - top
    return Box(side, side, part.x + left, part.y + top)


def _stored(part: Box, square: int, stored: int) -> Box:
    """Return a part of a picture ``square`` pixels wide within the same picture ``stored`` pixels wide."""
    left = min(round(part.x * stored / square), stored - 1)
    right = max(left + 1, round((part.x + part.width) * stored / square))
    return part._replace(width=right - left, x=left)
