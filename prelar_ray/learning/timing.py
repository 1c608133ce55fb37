"""How long an update takes here: for estimates of what a study costs."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from prelar_ray.types import IMAGE_SIZE, SequenceBatch

__all__ = ["ACTION", "noise_batch", "time_updates"]

ACTION = 4
"""Size A of the action in a batch of noise, Meta-World's."""


def noise_batch(rows: int, length: int, vector: int = 0, image_size: int = IMAGE_SIZE) -> SequenceBatch:
    """Return ``B`` segments of ``T`` steps of noise, the same each time, with vectors of size V."""
    rng, shape = np.random.default_rng(0), (rows, length)
    image = rng.integers(0, 256, (*shape, image_size, image_size, 3), dtype=np.uint8)
    action = rng.uniform(-1, 1, (*shape, ACTION)).astype(np.float32)
    flags = np.zeros(shape, np.bool_)
    reward, vectors = (rng.normal(size=size).astype(np.float32) for size in (shape, (*shape, vector)))
    return SequenceBatch(image, action, reward, flags, flags, vectors)


def time_updates(update: Callable[[], object], count: int) -> list[float]:
    """Return the seconds of ``count`` calls, after one that is not timed: it does what happens once."""

    def done() -> None:
        update()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    done()
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        done()
        seconds.append(time.perf_counter() - began)
    return seconds
