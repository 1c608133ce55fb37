"""The arena as a picture: soft discs and bars on grey."""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from prelar_ray.envs.arena_world import BASE, WALL_HALF_WIDTH, WALL_TOP, Vector, World
from prelar_ray.envs.pixel_env import Image
from prelar_ray.types import IMAGE_SIZE

__all__ = ["Disc", "draw"]

# Mid-grey is zero to a network; strong colours and soft edges let a small model learn to draw them in few updates.
BACKGROUND: Final = 128.0
COLOURS: Final = {
    "target": np.array((40.0, 235.0, 40.0)),
    "block": np.array((40.0, 60.0, 235.0)),
    "wall": np.array((30.0, 30.0, 30.0)),
    "arm": np.array((230.0, 230.0, 230.0)),
    "distractor": np.array((230.0, 220.0, 30.0)),
    "effector": np.array((235.0, 40.0, 40.0)),
}
RADII: Final = {"target": 0.3, "block": 0.33, "effector": 0.33, "distractor": 0.3}
"""Where a disc has faded to half; what touches is smaller."""
LINK_HALF_WIDTH: Final = 0.07
PIXELS_PER_UNIT: Final = 25.0
"""At 64x64; larger frames show the same with more pixels."""
DISC_EDGE: Final = 0.6
"""Width of a disc's soft edge. Small discs with sharp edges are learnt late: a small shift must change many pixels."""
BAR_EDGE: Final = 0.15

Mask = npt.NDArray[np.float64]  # (Hpx, Wpx)


class Grid(NamedTuple):
    """Where the pixels of a frame are, y upwards."""

    x: Mask  # (1, Wpx)
    y: Mask  # (Hpx, 1)


class Disc(NamedTuple):
    """A disc of a kind that has a colour and a radius."""

    position: Vector
    kind: str


def draw(world: World, behind: list[Disc], image_size: int) -> Image:
    """Return a picture ``(image_size, image_size, 3)``; later things cover earlier ones."""
    image, grid = np.full((image_size, image_size, 3), BACKGROUND), _grid(image_size)
    for disc in behind:
        _paint(image, _disc(grid, disc), disc.kind)
    if world.wall:
        _paint(image, _bar(grid, np.array((0.0, -1.3)), np.array((0.0, WALL_TOP)), WALL_HALF_WIDTH), "wall")
    if world.block is not None:
        _paint(image, _disc(grid, Disc(world.block, "block")), "block")
    if world.arm is not None:
        for start, end in ((BASE, world.arm.elbow), (world.arm.elbow, world.arm.tip)):
            _paint(image, _bar(grid, start, end, LINK_HALF_WIDTH), "arm")
    _paint(image, _disc(grid, Disc(world.effector, "effector")), "effector")
    frame: Image = image.astype(np.uint8)
    return frame


@cache
def _grid(image_size: int) -> Grid:
    pixels, centre = np.arange(image_size, dtype=np.float64), (image_size - 1) / 2
    pixels_per_unit = image_size / IMAGE_SIZE * PIXELS_PER_UNIT
    return Grid((pixels - centre)[None, :] / pixels_per_unit, (centre - pixels)[:, None] / pixels_per_unit)


def _paint(image: npt.NDArray[np.float64], mask: Mask, kind: str) -> None:
    image += mask[..., None] * (COLOURS[kind] - image)


def _disc(grid: Grid, disc: Disc) -> Mask:
    distance = np.sqrt((grid.x - disc.position[0]) ** 2 + (grid.y - disc.position[1]) ** 2)
    return _soft(distance, RADII[disc.kind], DISC_EDGE)


def _bar(grid: Grid, start: Vector, end: Vector, half_width: float) -> Mask:
    """Return a line of some width with round ends."""
    along = end - start
    x, y = grid.x - start[0], grid.y - start[1]
    share = (x * along[0] + y * along[1]) / (along @ along)
    share = np.clip(share, 0.0, 1.0)
    distance = np.sqrt((x - share * along[0]) ** 2 + (y - share * along[1]) ** 2)
    return _soft(distance, half_width, BAR_EDGE)


def _soft(distance: Mask, radius: float, edge: float) -> Mask:
    """Return 1 within a distance and 0 beyond it, with a soft edge."""
    return np.clip((radius - distance) / edge + 0.5, 0.0, 1.0)
