"""Latent actions of videos as arrays: ``python examples/latent_actions.py runs/pretrain videos/mine latent.npz``.

``latent_action[i]`` is what the model infers between ``frame[i]`` and the next one; with them anything can be done that
is done with actions: cluster them, compare videos, label data.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import prelar_ray


def infer(run_path: str, store_path: str, steps: int = 25) -> dict[str, np.ndarray]:
    """Return latent actions ``(N, L)`` of each episode's beginning, and their episodes and frames ``(N,)``."""
    run, store = prelar_ray.load_run(run_path), prelar_ray.VideoStore(Path(store_path))
    found, episodes, frames = [], [], []
    for episode, length in enumerate(store.lengths):
        clip = store.read(episode, 0, min(steps, length))
        if len(clip) < 2:
            continue
        latent = prelar_ray.latents(run, clip).latent_action[0]
        found.append(latent)
        episodes.append(np.full(len(latent), episode))
        frames.append(np.arange(len(latent)))
    return {
        "latent_action": np.concatenate(found),
        "episode": np.concatenate(episodes),
        "frame": np.concatenate(frames),
    }


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    found = infer(sys.argv[1], sys.argv[2])
    np.savez(sys.argv[3], allow_pickle=False, **found)
