"""Film a policy larger than it sees: ``python examples/film.py runs/press press.mp4``.

A second environment with the same seed gets the same actions and draws at 128 pixels in full quality.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import prelar_ray
from prelar_ray.envs import make_env
from prelar_ray.video.film import write_film

SIZE = 128


def film(run_path: str, to: str, episodes: int = 3, seed: int = 0, rest: int = 10) -> list[bool]:
    """Write episodes, each up to some steps after its first success, and return which succeeded."""
    run = prelar_ray.load_run(run_path)
    shown = run.config.env.model_copy(update={"image_size": SIZE, "render_quality": "full"})
    env, double, agent = run.make_env(seed), make_env(shown, seed), run.agent(seed)
    films, successes = [], []
    for _ in range(episodes):
        observation, _ = env.reset()
        frames = [double.reset()[0]["image"]]
        agent.reset()
        done, succeeded, left = False, False, rest
        while not done and left:
            action = agent.act(observation)
            observation, _, terminated, truncated, info = env.step(action)
            frames.append(double.step(action)[0]["image"])
            succeeded = succeeded or bool(info["success"])
            done, left = terminated or truncated, left - succeeded
        films.append(np.stack(frames))
        successes.append(succeeded)
    env.close()
    double.close()
    write_film(Path(to), films, frames_per_second=10)
    return successes


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(film(sys.argv[1], sys.argv[2]))
