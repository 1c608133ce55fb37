"""Recording videos: frames per second by number of processes, and how much faster than the first number given.

Numbers take turns, and every round compares its own, so that what else the machine does falls on all of them.
``frames_per_s`` is of the whole recording, with the start of its processes; ``steady_frames_per_s`` counts from the
first frames that arrive.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.measuring import Result, Row, Timing, report_options, show
from prelar_ray.config import RunConfig, load_config
from prelar_ray.video.recorder import record

COLUMNS = {
    "seconds": ".4g",
    "seconds_min": ".4g",
    "seconds_max": ".4g",
    "frames_per_s": ".0f",
    "steady_frames_per_s": ".0f",
    "speedup": ".2f",
    "steady_speedup": ".2f",
}


def once(config: RunConfig) -> tuple[float, float, int]:
    """Record into a folder that is removed again; returns seconds, frames/s after the first arrived, and frames."""
    arrivals: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        summary = record(config, Path(folder) / "store", lambda new: arrivals.append((time.perf_counter(), new)))
        ended = time.perf_counter()
    first, known = arrivals[0]
    return ended - began, (summary.frames - known) / (ended - first), summary.frames


def measure(config: RunConfig, workers: Sequence[int], repeats: int) -> list[Row]:
    """Return a row for every number of processes."""
    seconds: dict[int, list[float]] = {count: [] for count in workers}
    steady: dict[int, list[float]] = {count: [] for count in workers}
    frames = 0
    for _ in range(repeats):
        for count in workers:
            chosen = config.model_copy(update={"record": config.record.model_copy(update={"workers": count})})
            taken, rate, frames = once(chosen)
            seconds[count].append(taken)
            steady[count].append(rate)
    first = workers[0]
    return [
        {
            "name": f"{count} process{'es' * (count > 1)}",
            **Timing(seconds[count]).as_row(),
            "frames_per_s": frames / float(np.median(seconds[count])),
            "steady_frames_per_s": float(np.median(steady[count])),
            "speedup": float(np.median(np.divide(seconds[first], seconds[count]))),
            "steady_speedup": float(np.median(np.divide(steady[count], steady[first]))),
        }
        for count in workers
    ]


def main(argv: Sequence[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks record", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as for the commands")
    parser.add_argument("--preset", default="paper", help="tasks and lengths of the recording")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4], help="numbers of processes")
    parser.add_argument("--repeats", type=int, default=3)
    report_options(parser)
    args = parser.parse_intermixed_args(argv)
    config = load_config(args.preset, None, args.overrides)
    settings = {key: value for key, value in vars(args).items() if key not in ("json", "compare")}
    machine = {"cores": len(os.sched_getaffinity(0)), "quality": config.env.render_quality}
    rows = measure(config, args.workers, args.repeats)
    show(Result("record", settings, machine, rows), COLUMNS, args)
    return 0
