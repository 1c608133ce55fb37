"""Write frames that a program makes as a video store: ``python examples/own_videos.py videos/balls``.

Here a ball that bounces in a box. ``prelar-ray prepare`` does this for files; this is for everything else, such as a
camera, a simulator of one's own or another format.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import prelar_ray

SIZE, RADIUS = 64, 6


def ball(rng: np.random.Generator, steps: int) -> np.ndarray:
    """Return the frames of one video, uint8 (T, 64, 64, 3)."""
    y, x = np.mgrid[:SIZE, :SIZE]
    place, speed = rng.uniform(RADIUS, SIZE - RADIUS, 2), rng.uniform(-4, 4, 2)
    frames = np.full((steps, SIZE, SIZE, 3), 30, np.uint8)
    for frame in frames:
        frame[np.hypot(y - place[0], x - place[1]) <= RADIUS] = (250, 180, 60)
        speed = np.where((place + speed < RADIUS) | (place + speed > SIZE - RADIUS), -speed, speed)
        place = place + speed
    return frames


def write(path: str, videos: int = 50, steps: int = 40) -> None:
    """Write a store of several videos."""
    rng = np.random.default_rng(0)
    with prelar_ray.VideoWriter(Path(path), {"made by": "examples/own_videos.py"}, shard_frames=1_000) as writer:
        for _ in range(videos):
            writer.append(ball(rng, steps), "ball")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write(sys.argv[1])
