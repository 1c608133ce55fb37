"""Contact sheet of a video store: first, middle and last frame of some episodes, in one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from prelar_ray.errors import DataError
from prelar_ray.types import Frames
from prelar_ray.video.store import VideoStore

__all__ = ["draw_sheet", "write_sheet"]

SIDE = 128
"""Of a frame as it is shown, pixels."""
COLUMNS = 4
MARGIN, CAPTION = 8, 14
"""Pixels around an episode, and for the text above it."""
GAP = 2
"""Pixels between the frames of an episode."""


def write_sheet(path: Path, store: VideoStore, count: int, rng: np.random.Generator) -> None:
    """Write a contact sheet of ``count`` episodes, drawn at random and shown in the order of the store.

    Raises:
        DataError: a shard is damaged, or the file cannot be written.
    """
    chosen = sorted(rng.permutation(len(store))[:count].tolist())
    sources, lengths = store.sources, store.lengths
    names = [f"{episode}: {sources[episode]}, {lengths[episode]} frames" for episode in chosen]
    draw_sheet(path, names, [store.frames(episode) for episode in chosen])


def draw_sheet(path: Path, names: Sequence[str], episodes: Sequence[Frames]) -> None:
    """Write a contact sheet of episodes ``(T, Hpx, Wpx, C)``, each under its name.

    Raises:
        DataError: the file cannot be written.
    """
    width, height = 3 * SIDE + 2 * GAP + MARGIN, SIDE + CAPTION + MARGIN
    columns = min(COLUMNS, len(episodes))
    sheet = Image.new("RGB", (columns * width + MARGIN, math.ceil(len(episodes) / columns) * height + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (name, frames) in enumerate(zip(names, episodes, strict=True)):
        left, top = place % columns * width + MARGIN, place // columns * height + MARGIN
        draw.text((left, top), name.encode("latin-1", "replace").decode("latin-1")[:60], fill="black")
        for number, frame in enumerate((0, len(frames) // 2, len(frames) - 1)):
            image = Image.fromarray(np.asarray(frames[frame])).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(image, (left + number * (SIDE + GAP), top + CAPTION))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    except (OSError, ValueError) as error:  # Pillow raises ValueError for a suffix that it does not know
        raise DataError(f"{path}: cannot write: {error}; name a .png file") from error
