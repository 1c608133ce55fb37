"""Collecting: seconds per step of a bare environment, of drawing alone, and of a collector with its policy.

``overhead`` is the collector's addition to a step of the bare environment, drawing included: inference, bookkeeping,
episodes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import torch

from benchmarks.measuring import Result, Row, report_options, show, timed
from prelar_ray.acting.collector import Collector
from prelar_ray.config import RunConfig, load_config
from prelar_ray.envs import make_env
from prelar_ray.learning.learner import FinetuneLearner

CPU = torch.device("cpu")
COLUMNS = {"seconds": ".4g", "seconds_min": ".4g", "seconds_max": ".4g", "steps_per_s": ".1f", "overhead": ".1%"}


def row(name: str, steps: int, call: Callable[[], object], repeats: int, bare: Row | None = None) -> Row:
    """Time ``call``, which takes ``steps`` environment steps, per step."""
    timing = timed(call, CPU, repeats, warmup=1)
    timing = timing._replace(seconds=[seconds / steps for seconds in timing.seconds])
    found = {"name": name, **timing.as_row(), "steps_per_s": 1 / timing.median}
    return found if bare is None else found | {"overhead": timing.median / bare["seconds"] - 1}


def stepper(env: gym.Env[Any, Any], steps: int) -> Callable[[], None]:
    """Return a function that takes ``steps`` random steps, resetting where an episode ends."""
    env.reset(seed=0)

    def run() -> None:
        for _ in range(steps):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()

    return run


def measure(config: RunConfig, steps: int, repeats: int) -> list[Row]:
    """Return the rows of one task, with ``collect.envs_per_collector`` environments."""
    task, k = config.env.task, config.collect.envs_per_collector
    env = make_env(config.env, 0)
    rows = [row(f"{task}: environment with drawing", steps, stepper(env, steps), repeats)]
    draw = env.render
    rows.append(row(f"{task}: drawing alone", steps, lambda: [draw() for _ in range(steps)], repeats))
    env.close()
    each = max(1, steps // k)
    for acts in ("random", "policy"):
        collector = Collector(config, 0, [0] * k)  # new, as episodes that began at random stay random to their end
        weights = FinetuneLearner(config, collector.action_size()).policy_weights()
        collect = partial(collector.collect, each, acts == "random", 1, weights)
        rows.append(row(f"{task}: collector, {acts}, {k} env", each * k, collect, repeats, rows[0]))
        collector.close()
    return rows


def main(argv: Sequence[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks collector", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as for the commands")
    parser.add_argument("--preset", default="paper", help="widths of the policy")
    parser.add_argument("--tasks", nargs="+", default=["prelar/point-reach"])
    parser.add_argument("--envs", nargs="+", type=int, default=[1, 4], help="environments per collector")
    parser.add_argument("--steps", type=int, default=200, help="steps per repeat")
    parser.add_argument("--repeats", type=int, default=5)
    report_options(parser)
    args = parser.parse_intermixed_args(argv)
    rows: list[Row] = []
    for task in args.tasks:
        for k in args.envs:
            overrides = ["device=cpu", *args.overrides, f"env.task={task}", f"collect.envs_per_collector={k}"]
            rows += measure(load_config(args.preset, None, overrides), args.steps, args.repeats)
    settings = {key: value for key, value in vars(args).items() if key not in ("json", "compare")}
    show(Result("collector", settings, {"threads": torch.get_num_threads()}, rows), COLUMNS, args)
    return 0
