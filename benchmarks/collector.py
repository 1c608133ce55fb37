"""Collecting: seconds per step of a bare environment, of drawing alone, and of a collector with its policy.

``overhead`` is the collector's addition to a step of the bare environment, drawing included: inference, bookkeeping,
episodes. ``speedup`` is that of worker processes over the collector without any.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import torch

from benchmarks.measuring import Result, Row, Timing, report_options, show, timed
from prelar_ray.acting.collector import Collector
from prelar_ray.config import RunConfig, load_config
from prelar_ray.envs import make_env
from prelar_ray.learning.learner import FinetuneLearner
from prelar_ray.wording import counted

CPU = torch.device("cpu")
COLUMNS = {
    "seconds": ".4g",
    "seconds_min": ".4g",
    "seconds_max": ".4g",
    "steps_per_s": ".1f",
    "overhead": ".1%",
    "speedup": ".2f",
}


def row(name: str, steps: int, timing: Timing, bare: Row | None = None, alone: Row | None = None) -> Row:
    """The time of calls that take ``steps`` environment steps each, per step.

    Args:
        bare: row of the environment without a collector.
        alone: row of the collector without workers.
    """
    timing = Timing([seconds / steps for seconds in timing.seconds])
    found = {"name": name, **timing.as_row(), "steps_per_s": 1 / timing.median}
    if bare:
        found["overhead"] = timing.median / bare["seconds"] - 1
    if alone:
        found["speedup"] = alone["seconds"] / timing.median
    return found


def stepper(env: gym.Env[Any, Any], steps: int) -> Callable[[], None]:
    """Return a function that takes ``steps`` random steps, resetting where an episode ends."""
    env.reset(seed=0)

    def run() -> None:
        for _ in range(steps):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()

    return run


def measure(config: RunConfig, steps: int, repeats: int, workers: Sequence[int]) -> list[Row]:
    """Return the rows of one task, with ``collect.envs_per_collector`` environments."""
    task, k = config.env.task, config.collect.envs_per_collector
    env = make_env(config.env, 0)
    rows = [row(f"{task}: environment with drawing", steps, timed(stepper(env, steps), CPU, repeats, warmup=1))]
    draw = env.render
    drawing = timed(lambda: [draw() for _ in range(steps)], CPU, repeats, warmup=1)
    rows.append(row(f"{task}: drawing alone", steps, drawing))
    env.close()
    each = max(1, steps // k)
    for acts in ("random", "policy"):
        timings = time_collectors(config, each, acts == "random", [w for w in workers if w <= k] or [0], repeats)
        alone = None
        for w, timing in timings.items():
            name = f"{task}: collector, {acts}, {k} env" + (f", {counted(w, 'worker')}" if w else "")
            rows.append(row(name, each * k, timing, rows[0], alone))
            alone = rows[-1] if w == 0 else alone
    return rows


def time_collectors(
    config: RunConfig, steps: int, random: bool, workers: Sequence[int], repeats: int
) -> dict[int, Timing]:
    """Time collectors with each number of workers, in turn in every repeat: a change of load meets all of them."""
    k, collectors = config.collect.envs_per_collector, {}
    timings = {w: Timing([]) for w in workers}
    try:
        for w in workers:  # new, as episodes that began at random stay random to their end
            collectors[w] = Collector(load_config(None, None, [f"collect.workers={w}"], base=config), 0, [0] * k)
        weights = FinetuneLearner(config, collectors[workers[0]].actions()).policy_weights()
        for repeat in range(1 + repeats):
            for w, collector in collectors.items():
                timing = timed(partial(collector.collect, steps, random, 1, weights), CPU, repeats=1, warmup=0)
                if repeat:  # the first warms up
                    timings[w].seconds.extend(timing.seconds)
    finally:
        for collector in collectors.values():
            collector.close()
    return timings


def main(argv: Sequence[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks collector", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as for the commands")
    parser.add_argument("--preset", default="paper", help="widths of the policy")
    parser.add_argument("--tasks", nargs="+", default=["prelar/point-reach"])
    parser.add_argument("--envs", nargs="+", type=int, default=[1, 4], help="environments per collector")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2], help="processes that step them; 0 is none")
    parser.add_argument("--steps", type=int, default=200, help="steps per repeat")
    parser.add_argument("--repeats", type=int, default=5)
    report_options(parser)
    args = parser.parse_intermixed_args(argv)
    rows: list[Row] = []
    for task in args.tasks:
        for k in args.envs:
            overrides = ["device=cpu", *args.overrides, f"env.task={task}", f"collect.envs_per_collector={k}"]
            rows += measure(load_config(args.preset, None, overrides), args.steps, args.repeats, args.workers)
    settings = {key: value for key, value in vars(args).items() if key not in ("json", "compare")}
    show(Result("collector", settings, {"threads": torch.get_num_threads()}, rows), COLUMNS, args)
    return 0
