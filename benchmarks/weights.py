"""Weights from the learner to a collector: seconds from the request for new weights to the first step with them.

Learner and collectors are actors of a local Ray, as in training. ``publish`` is the learner's part; ``publish to use``
includes a step of the policy, which is measured separately as well.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import Result, Row, Timing, report_options, show
from prelar_ray.acting.collector import Collector
from prelar_ray.config import RunConfig, load_config
from prelar_ray.training.learner_role import FinetuneLearnerRole

COLUMNS = {"seconds": ".4g", "seconds_min": ".4g", "seconds_max": ".4g", "megabytes": ".1f"}
ACTION = 2  # of the task below
TASK = ("env.task=prelar/point-reach", "collect.envs_per_collector=1")


def measure(config: RunConfig, collectors: int, repeats: int) -> list[Row]:
    """Return the rows for one learner and ``collectors`` collectors that load the same weights at once."""
    import ray  # takes seconds

    from prelar_ray.distributed.local_ray import start_local_ray

    def start(kind: Any, *args: Any) -> Any:
        return ray.remote(kind).options(num_cpus=0).remote(*args)

    start_local_ray(include_dashboard=False, logging_level=logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            learner = start(FinetuneLearnerRole, config, ACTION, Path(folder))
            crowd = [start(Collector, config, index, [0]) for index in range(collectors)]
            size = sum(array.nbytes for array in ray.get(learner.policy_weights.remote()).values())
            seconds: dict[str, list[float]] = {"publish": [], "a step without": [], "publish to use": []}
            for version in range(repeats + 1):
                began = time.perf_counter()
                weights = learner.policy_weights.remote()
                ray.wait([weights])
                published = time.perf_counter()
                ray.get([collector.collect.remote(1, False, version, weights) for collector in crowd])
                used = time.perf_counter()
                ray.get([collector.collect.remote(1, False, version, None) for collector in crowd])
                if version:  # the first includes the start-up
                    seconds["publish"].append(published - began)
                    seconds["publish to use"].append(used - began)
                    seconds["a step without"].append(time.perf_counter() - used)
    finally:
        ray.shutdown()
    crowd_of = f"{collectors} {'collector' if collectors == 1 else 'collectors'}"
    return [
        {"name": f"{crowd_of}: {name}", **Timing(found).as_row(), "megabytes": size / 1e6}
        for name, found in seconds.items()
    ]


def main(argv: Sequence[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks weights", description=__doc__)
    parser.add_argument("--preset", default="paper", help="widths of the policy")
    parser.add_argument("--collectors", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--repeats", type=int, default=10)
    report_options(parser)
    args = parser.parse_args(argv)
    config = load_config(args.preset, None, TASK)
    rows = [row for count in args.collectors for row in measure(config, count, args.repeats)]
    settings = {key: value for key, value in vars(args).items() if key not in ("json", "compare")}
    show(Result("weights", settings, {"device": "cpu"}, rows), COLUMNS, args)
    return 0
