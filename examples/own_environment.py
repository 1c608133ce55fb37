"""An environment of one's own, learnt from pixels: ``python -m examples.own_environment runs/shade``.

An action brightens or darkens a picture, which should be of one grey. Nothing of it knows this package; the id of its
module is enough. A command would be ``prelar-ray finetune env.task=gym/examples.own_environment:Shade-v0 ...``.
"""

from __future__ import annotations

import sys
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

import prelar_ray

GOAL = 0.8


class Shade(gymnasium.Env[np.ndarray, np.ndarray]):
    """A grey picture; reward 1 where it has the wanted brightness."""

    observation_space = spaces.Box(0, 255, (48, 48, 3), np.uint8)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin with any brightness."""
        super().reset(seed=seed)
        self.brightness = float(self.np_random.uniform())
        return self._picture(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Brighten or darken."""
        self.brightness = float(np.clip(self.brightness + 0.2 * action[0], 0, 1))
        distance = abs(self.brightness - GOAL)
        return self._picture(), 1.0 - distance, False, False, {"success": distance < 0.1}

    def _picture(self) -> np.ndarray:
        return np.full((48, 48, 3), round(255 * self.brightness), np.uint8)


if "Shade-v0" not in gymnasium.registry:
    gymnasium.register("Shade-v0", entry_point="examples.own_environment:Shade", max_episode_steps=20)


def learn(out: str, *overrides: str) -> float:
    """Learn from scratch and return the mean return of the last evaluation."""
    settings = ["method=dreamerv2", "cluster=none", "env.task=gym/examples.own_environment:Shade-v0", *overrides]
    config = prelar_ray.load_config("tiny", overrides=settings)
    latest: dict[str, float] = {}
    for line in prelar_ray.finetune(config, out):
        latest.update(line)
        if "evaluation/return_mean" in line:
            print(f"{line['env_steps']:.0f} steps: return {line['evaluation/return_mean']:.1f} of at most 20")
    return latest["evaluation/return_mean"]


if __name__ == "__main__":
    learn(*sys.argv[1:])
