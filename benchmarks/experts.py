"""Success and return of scripted experts and of a random policy, task by task, without drawing.

What a random policy reaches belongs beside every result of a task. ``success`` is of whole episodes, with its 95 %
interval; ``recorded`` is of the frames that a recording keeps (``record.frames_per_episode``).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.measuring import Result, Row, report_options, show
from prelar_ray.config import RunConfig, load_config
from prelar_ray.envs import PixelEnv, make_env
from prelar_ray.seeding import derive_seed, generator
from prelar_ray.statistics import success_interval
from prelar_ray.types import IMAGE_SIZE
from prelar_ray.video.episodes import env_config

COLUMNS = {"episodes": "d", "success": ".2f", "low": ".2f", "high": ".2f", "recorded": ".2f", "return": ".0f"}
BLANK = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)


class Played(NamedTuple):
    """An episode that was played to its end."""

    succeeded: bool
    recorded: bool
    """Whether it succeeded within the frames that a recording keeps."""
    total: float
    """Sum of rewards."""


def play(env: PixelEnv, with_expert: bool, frames: int, seed: int, rng: np.random.Generator) -> Played:
    """Play an episode without noise."""
    env.reset(seed=seed)
    succeeded = recorded = ended = False
    total, step = 0.0, 0
    while not ended:
        action = env.expert_action() if with_expert else rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        _, reward, terminated, truncated, info = env.step(action)
        step, total, ended = step + 1, total + float(reward), terminated or truncated
        succeeded |= info["success"]
        recorded |= info["success"] and step < frames
    return Played(succeeded, recorded, total)


def measure(config: RunConfig, task: str, policy: str, episodes: int) -> Row:
    """Play episodes of a task, the same ones for every policy."""
    env = make_env(env_config(config, task), seed=0)
    env._draw = lambda: BLANK  # type: ignore[method-assign]  # drawing takes most of the time
    frames, seed = config.record.frames_per_episode, config.seed
    played = [
        play(env, policy == "expert", frames, derive_seed(seed, "experts", number), generator(seed, "experts", number))
        for number in range(episodes)
    ]
    env.close()
    interval = success_interval([one.succeeded for one in played])
    return {
        "name": f"{task}, {policy}",
        "episodes": episodes,
        "success": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "recorded": float(np.mean([one.recorded for one in played])),
        "return": float(np.mean([one.total for one in played])),
    }


def main(argv: Sequence[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks experts", description=__doc__)
    parser.add_argument("--preset", default="metaworld-experts", help="tasks, and the frames that are recorded")
    parser.add_argument("--policies", nargs="+", choices=("expert", "random"), default=["expert", "random"])
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as for the commands")
    report_options(parser)
    args = parser.parse_intermixed_args(argv)
    config = load_config(args.preset, None, args.overrides)
    rows = [measure(config, task, policy, args.episodes) for task in config.record.tasks for policy in args.policies]
    settings = {key: value for key, value in vars(args).items() if key not in ("json", "compare")}
    show(Result("experts", settings, {"device": "cpu"}, rows), COLUMNS, args)
    return 0
