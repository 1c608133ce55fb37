"""Is anything learnt in environments of others? A policy against a random one, task by task and seed by seed (minutes).

``catch`` (images, discrete actions) is made as a stranger would: it knows nothing of this package. A ball falls, and a
paddle below goes left, stays or goes right; the episode terminates when the ball is down, with 1 if it is caught.
``pendulum`` (continuous actions) and ``cartpole`` (discrete) are gymnasium's, seen as vectors alone.
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

SHOWN = {"env_steps": "d", "updates": "d", "trained": ".2f", "random": ".2f", "cpu_seconds": ".0f"}
COLUMNS, ROWS, SIDE = 5, 7, 8
"""Of the game, and pixels of a place."""

COMMON = ("method=dreamerv2", "cluster=none", "threads=1", "evaluation.envs=8")
"""On top of the preset tiny."""

CATCH = (
    *("env.task=gym/benchmarks.own_environments:Catch-v0", "env.reward_scale=10"),
    *("world_model.encoder.depth=8", "world_model.decoder.depth=8"),
    *("world_model.rssm.deter=64", "world_model.rssm.hidden=64", "behaviour.horizon=8"),
    *("finetune.segment_length=12", "finetune.random_steps=500", "finetune.initial_updates=100"),
    *("finetune.env_steps=2400", "finetune.env_steps_per_update=2"),
    *("evaluation.episodes=40", "evaluation.every_env_steps=1000"),
)
"""A reward of 10 is worth as much as one of point-reach, for which the preset is made."""

VECTOR = (
    *("env.image_size=0", "env.vector_key=observation", "world_model.vector.units=64"),
    *("world_model.rssm.deter=64", "world_model.rssm.hidden=64", "world_model.rssm.stoch=8"),
    *("world_model.rssm.classes=8", "finetune.batch_size=16", "finetune.segment_length=16"),
    *("behaviour.return_normalisation=percentiles", "behaviour.entropy_weight=0.003", "finetune.random_steps=1000"),
    *("evaluation.episodes=16", "evaluation.every_env_steps=2000"),
)
"""Of tasks that are seen as vectors alone."""

TASKS = {
    "catch": CATCH,
    "pendulum": (
        *("env.task=gym/Pendulum-v1", "env.vector_size=3", *VECTOR, "env.action_repeat=2", "env.reward_scale=0.1"),
        *("finetune.env_steps=6000", "finetune.env_steps_per_update=4"),
    ),
    "cartpole": (
        *("env.task=gym/CartPole-v1", "env.vector_size=4", *VECTOR, "behaviour.discount=0.99"),
        *("finetune.env_steps=4000", "finetune.env_steps_per_update=4"),
    ),
}
"""Settings by task."""


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


def measure(task: str, seed: int, overrides: Sequence[str], folder: Path) -> Row:
    """Train with a seed, and return the mean return of its policy and of a random one over the same episodes."""
    config = load_config("tiny", None, [*COMMON, *TASKS[task], f"seed={seed}", *overrides])
    run = RunFolder.create(folder / f"{task}-{seed}", to_yaml(config), "finetune")
    began, worked = time.perf_counter(), time.process_time()
    last = load_checkpoint(finetune(config, run, LocalBackend, None, resume=False))
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
    trained, random = (
        Evaluator(config).evaluate(weights, config.evaluation.episodes).returns
        for weights in (policy_weights(last), None)
    )
    return {
        "name": f"{task}, seed {seed}",
        "env_steps": last.env_steps,
        "updates": last.update,
        "trained": float(np.mean(trained)),
        "random": float(np.mean(random)),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,  # those that matter on a machine with other work
        "returns": {"trained": trained, "random": random},
        "evaluations": [(of.env_steps, float(np.mean(of.returns))) for of in run.evaluations()],
    }


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; 1 where a policy is no better than a random one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks own_environments", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as for the commands")
    parser.add_argument("--task", action="append", choices=TASKS, help="just this task, may be repeated")
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="seeds 0 to N-1 (default 2)")
    report_options(parser)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        pairs = [(task, seed) for task in args.task or TASKS for seed in range(args.seeds)]
        rows = [measure(*pair, args.overrides, Path(folder)) for pair in pairs]
    show(Result("own_environments", {"overrides": args.overrides}, {"device": "cpu"}, rows), SHOWN, args)
    return int(any(row["trained"] <= row["random"] for row in rows))
