"""Checkpoints: how long one stalls learning, and how much writing it slows down concurrent updates.

``stall`` is the call that starts a checkpoint by copying the state; a thread then writes it. ``update beside`` are the
updates until it is on disk.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.measuring import Result, Row, Timing, report_options, show
from benchmarks.parts import ACTION, synthetic_batch
from prelar_ray.config import RunConfig, load_config
from prelar_ray.training.learner_role import FinetuneLearnerRole

COLUMNS = {"seconds": ".4g", "seconds_min": ".4g", "seconds_max": ".4g", "of_an_update": ".1%", "megabytes": ".1f"}


def measure(name: str, config: RunConfig, repeats: int) -> list[Row]:
    """Return the rows of one preset."""
    batch = synthetic_batch(config, "finetune")
    seconds: dict[str, list[float]] = {"update": [], "stall": [], "until on disk": [], "update beside": []}
    with tempfile.TemporaryDirectory() as folder:
        role = FinetuneLearnerRole(config, ACTION, Path(folder))
        role.update([batch])
        for _ in range(repeats):
            began = time.perf_counter()
            role.update([batch])
            updated = time.perf_counter()
            role.save({})
            stalled = time.perf_counter()
            role.update([batch])
            beside = time.perf_counter()
            role.saved()
            seconds["update"].append(updated - began)
            seconds["stall"].append(stalled - updated)
            seconds["update beside"].append(beside - stalled)
            role.save({})
            role.saved()
            seconds["until on disk"].append(time.perf_counter() - beside)
        size = sum(file.stat().st_size for file in role.checkpoints.paths()[-1].iterdir())
        role.close()
    timings = {key: Timing(values) for key, values in seconds.items()}
    update = timings["update"].median
    return [
        {"name": f"{name}: {key}", **timing.as_row(), "of_an_update": timing.median / update, "megabytes": size / 1e6}
        for key, timing in timings.items()
    ]


def main(argv: Sequence[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks checkpoint", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings; named before options")
    parser.add_argument("--presets", nargs="+", default=["tiny", "small"])
    parser.add_argument("--repeats", type=int, default=5)
    report_options(parser)
    args = parser.parse_intermixed_args(argv)
    rows: list[Row] = []
    for preset in args.presets:
        rows += measure(preset, load_config(preset, None, args.overrides), args.repeats)
    settings = {key: value for key, value in vars(args).items() if key not in ("json", "compare")}
    show(Result("checkpoint", settings, {"threads": torch.get_num_threads()}, rows), COLUMNS, args)
    return 0
