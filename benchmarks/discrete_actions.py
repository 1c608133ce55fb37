"""Are discrete actions and terminations learnt? A policy of a small game against a random one, seed by seed (minutes).

``gym/benchmarks.discrete_actions:Catch-v0`` is made as a stranger would: it knows nothing of this package. A ball
falls, and a paddle below goes left, stays or goes right; the episode terminates when the ball is down, with 1 if it is
caught.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from benchmarks.measuring import Result, Row, report_options, show
from prelar_ray.acting.evaluator import Evaluator
from prelar_ray.checkpoint.store import load_checkpoint
from prelar_ray.checkpoint.transfer import policy_weights
from prelar_ray.config import load_config, to_yaml
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.training.finetuning import finetune
from prelar_ray.training.local_backend import LocalBackend

SHOWN = {"updates": "d", "caught": ".2f", "random": ".2f", "seconds": ".0f"}
COLUMNS, ROWS, SIDE = 5, 7, 8
"""Of the game, and pixels of a place."""

SETTINGS = (
    *("method=dreamerv2", "cluster=none", "threads=1", "env.task=gym/benchmarks.discrete_actions:Catch-v0"),
    *("world_model.encoder.depth=8", "world_model.decoder.depth=8"),
    *("world_model.rssm.deter=64", "world_model.rssm.hidden=64", "behaviour.horizon=8"),
    *("finetune.segment_length=12", "finetune.random_steps=500", "finetune.initial_updates=100"),
    *("finetune.env_steps=2400", "finetune.env_steps_per_update=2", "env.reward_scale=10"),
    *("evaluation.episodes=40", "evaluation.envs=8", "evaluation.every_env_steps=1000"),
)
"""On top of the preset tiny; a reward of 10 is worth as much there as one of point-reach."""


class Catch(gymnasium.Env[Any, int]):
    """Catch a falling ball."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 gymnasium's own type

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.MultiDiscrete([COLUMNS, ROWS, COLUMNS])
        self.action_space = spaces.Discrete(3)
        self._ball, self._row, self._paddle = 0, 0, COLUMNS // 2

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Drop a ball."""
        super().reset(seed=seed)
        self._ball, self._row, self._paddle = int(self.np_random.integers(COLUMNS)), 0, COLUMNS // 2
        return self._observe(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move the paddle; the ball falls by a place."""
        self._paddle = int(np.clip(self._paddle + action - 1, 0, COLUMNS - 1))
        self._row += 1
        over = self._row == ROWS - 1
        caught = over and self._ball == self._paddle
        return self._observe(), float(caught), over, False, {"is_success": caught}

    def render(self) -> Any:
        """Draw ball and paddle."""
        image = np.full((ROWS * SIDE, COLUMNS * SIDE, 3), 128, np.uint8)
        self._fill(image, self._row, self._ball, (235, 40, 40))
        self._fill(image, ROWS - 1, self._paddle, (40, 60, 235))
        return image

    def _fill(self, image: Any, row: int, column: int, colour: tuple[int, int, int]) -> None:
        image[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = colour

    def _observe(self) -> Any:
        return np.array([self._ball, self._row, self._paddle])


gymnasium.register("Catch-v0", entry_point=f"{__name__}:Catch", max_episode_steps=100)


def measure(seed: int, overrides: Sequence[str], folder: Path) -> Row:
    """Train with a seed, and return the share of balls that its policy and a random one catch."""
    config = load_config("tiny", None, [*SETTINGS, f"seed={seed}", *overrides])
    run = RunFolder.create(folder / f"seed-{seed}", to_yaml(config), "finetune")
    began = time.perf_counter()
    last = load_checkpoint(finetune(config, run, LocalBackend, None, resume=False))
    seconds, episodes = time.perf_counter() - began, config.evaluation.episodes
    caught, random = (
        sum(Evaluator(config).evaluate(weights, episodes).successes) / episodes
        for weights in (policy_weights(last), None)
    )
    return {
        "name": f"seed {seed}",
        "updates": last.update,
        "caught": caught,
        "random": random,
        "seconds": seconds,
    }


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; 1 where a policy is no better than a random one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks discrete_actions", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as for the commands")
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="seeds 0 to N-1 (default 2)")
    report_options(parser)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(seed, args.overrides, Path(folder)) for seed in range(args.seeds)]
    show(Result("discrete_actions", {"overrides": args.overrides}, {"device": "cpu"}, rows), SHOWN, args)
    return int(any(row["caught"] <= row["random"] for row in rows))
