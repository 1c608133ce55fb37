"""Contact sheet of a video store: first, middle and last frame of some episodes, in one picture."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from prelar_ray.storage.files import cannot_write
from prelar_ray.types import IMAGE_SIZE
from prelar_ray.video.store import VideoStore

__all__ = ["write_sheet"]

ENLARGE = 2
COLUMNS = 4
MARGIN, CAPTION = 8, 14
"""Pixels around an episode, and for the text above it."""


def write_sheet(path: Path, store: VideoStore, count: int, rng: np.random.Generator) -> None:
    """Write a contact sheet of ``count`` episodes, drawn at random and shown in the order of the store.

    Raises:
        DataError: a shard is damaged, or the file cannot be written.
    """
    chosen = sorted(rng.permutation(len(store))[:count].tolist())
    size = IMAGE_SIZE * ENLARGE
    width, height = 3 * size + MARGIN, size + CAPTION + MARGIN
    columns = min(COLUMNS, len(chosen))
    sheet = Image.new("RGB", (columns * width + MARGIN, math.ceil(len(chosen) / columns) * height + MARGIN), "white")
    draw, sources = ImageDraw.Draw(sheet), store.sources
    for place, episode in enumerate(chosen):
        left, top = place % columns * width + MARGIN, place // columns * height + MARGIN
        length = int(store.lengths[episode])
        text = f"{episode}: {sources[episode]}, {length} frames"
        draw.text((left, top), text.encode("latin-1", "replace").decode("latin-1")[:60], fill="black")
        for number, frame in enumerate((0, length // 2, length - 1)):
            image = Image.fromarray(store.read(episode, frame, frame + 1)[0]).resize(
                (size, size), Image.Resampling.NEAREST
            )
            sheet.paste(image, (left + number * size, top + CAPTION))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    except OSError as error:
        raise cannot_write(path, error) from error
