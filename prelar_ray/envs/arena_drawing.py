"""The arena as a picture: soft discs and bars on grey."""

from __future__ import annotations

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
CENTRE: Final = (IMAGE_SIZE - 1) / 2
DISC_EDGE: Final = 0.6
"""Width of a disc's soft edge. Small discs with sharp edges are learnt late: a small shift must change many pixels."""
BAR_EDGE: Final = 0.15
X: Final = (np.arange(IMAGE_SIZE) - CENTRE)[None, :] / PIXELS_PER_UNIT
Y: Final = (CENTRE - np.arange(IMAGE_SIZE))[:, None] / PIXELS_PER_UNIT

Mask = npt.NDArray[np.float64]  # (Hpx, Wpx)


class Disc(NamedTuple):
    """A disc of a kind that has a colour and a radius."""

    position: Vector
    kind: str


def draw(world: World, behind: list[Disc]) -> Image:
    """Return a picture ``(64, 64, 3)``; later things cover earlier ones."""
    image = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), BACKGROUND)
    for disc in behind:
        _paint(image, _disc(disc), disc.kind)
    if world.wall:
        _paint(image, _bar(np.array((0.0, -1.3)), np.array((0.0, WALL_TOP)), WALL_HALF_WIDTH), "wall")
    if world.block is not None:
        _paint(image, _disc(Disc(world.block, "block")), "block")
    if world.arm is not None:
        for start, end in ((BASE, world.arm.elbow), (world.arm.elbow, world.arm.tip)):
            _paint(image, _bar(start, end, LINK_HALF_WIDTH), "arm")
    _paint(image, _disc(Disc(world.effector, "effector")), "effector")
    frame: Image = image.astype(np.uint8)
    return frame


def _paint(image: npt.NDArray[np.float64], mask: Mask, kind: str) -> None:
    image += mask[..., None] * (COLOURS[kind] - image)


def _disc(disc: Disc) -> Mask:
    distance = np.sqrt((X - disc.position[0]) ** 2 + (Y - disc.position[1]) ** 2)
    return _soft(distance, RADII[disc.kind], DISC_EDGE)


def _bar(start: Vector, end: Vector, half_width: float) -> Mask:
    """Return a line of some width with round ends."""
    along = end - start
    share = ((X - start[0]) * along[0] + (Y - start[1]) * along[1]) / (along @ along)
    share = np.clip(share, 0.0, 1.0)
    distance = np.sqrt((X - start[0] - share * along[0]) ** 2 + (Y - start[1] - share * along[1]) ** 2)
    return _soft(distance, half_width, BAR_EDGE)


def _soft(distance: Mask, radius: float, edge: float) -> Mask:
    """Return 1 within a distance and 0 beyond it, with a soft edge."""
    return np.clip((radius - distance) / edge + 0.5, 0.0, 1.0)
