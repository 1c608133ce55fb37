"""Cost model of eight GPUs with several seeds: split every batch over several GPUs, or give each seed one.

It is a model, not a measurement. An update on n GPUs takes the maximum of its arithmetic, divided by n, and its
operator launches, which every GPU makes in full; a ring all-reduce of the gradients follows, with 2 (n-1)/n of their
bytes on the bus. All inputs are options; the defaults are an RTX 3090 without NVLink and updates of preset ``paper``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.measuring import print_table

COLUMNS = {
    "compute_s": ".3f",
    "launch_s": ".3f",
    "all_reduce_s": ".3f",
    "update_s": ".3f",
    "speedup": ".2f",
    "runs_at_a_time": "d",
    "updates_per_s_of_all": ".1f",
    "hours_per_run": ".1f",
    "hours_for_all_seeds": ".1f",
}


class Machine(NamedTuple):
    """GPUs of one kind in one box."""

    gpus: int
    rate: float  # FLOP/s that a GPU sustains
    bus: float  # bytes/s of the ring
    launch: float  # seconds to launch one operator


class Work(NamedTuple):
    """The update of a run, and the number of updates."""

    flop: float
    operators: int
    gradient: float  # bytes that all GPUs of a run reduce
    updates: int


def seconds_per_update(machine: Machine, work: Work, n: int) -> tuple[float, float, float]:
    """Return arithmetic, launches and all-reduce of an update on ``n`` GPUs, seconds; the first two overlap."""
    ring = 2 * (n - 1) / n * work.gradient / machine.bus
    return work.flop / n / machine.rate, work.operators * machine.launch, ring


def table(machine: Machine, work: Work, seeds: int) -> list[dict[str, float | int | str]]:
    """Return one row per number of GPUs per run that divides the machine."""
    rows: list[dict[str, float | int | str]] = []
    alone = 0.0
    for n in (n for n in range(1, machine.gpus + 1) if machine.gpus % n == 0):
        compute, launch, ring = seconds_per_update(machine, work, n)
        update = max(compute, launch) + ring
        alone = alone or update
        side_by_side = min(machine.gpus // n, seeds)
        rounds = -(-seeds // side_by_side)
        hours = update * work.updates / 3600
        rows.append(
            {
                "name": f"{n} {'GPU' if n == 1 else 'GPUs'} per run",
                "compute_s": compute,
                "launch_s": launch,
                "all_reduce_s": ring,
                "update_s": update,
                "speedup": alone / update,
                "runs_at_a_time": side_by_side,
                "updates_per_s_of_all": side_by_side / update,
                "hours_per_run": hours,
                "hours_for_all_seeds": rounds * hours,
            }
        )
    return rows


def main(argv: Sequence[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks cost_model", description=__doc__)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--peak-tflop-per-s", type=float, default=71.0, help="of one GPU, half precision (default 71)")
    parser.add_argument("--share", type=float, default=0.3, help="of the peak that an update sustains (default 0.3)")
    parser.add_argument("--bus-gb-per-s", type=float, default=10.0, help="of the ring, through the host (default 10)")
    parser.add_argument("--launch-us", type=float, default=5.0, help="microseconds per operator (default 5)")
    parser.add_argument("--update-tflop", type=float, default=8.91, help="default 8.91, fine-tuning")
    parser.add_argument("--operators", type=int, default=7000, help="of an update run eagerly (default 7000)")
    parser.add_argument("--parameters", type=float, default=29.1, help="millions, float32 gradients (default 29.1)")
    parser.add_argument("--updates", type=int, default=49_000, help="of a run (default 49000: 250 000 steps)")
    parser.add_argument("--seeds", type=int, default=8)
    args = parser.parse_args(argv)
    rate = args.peak_tflop_per_s * 1e12 * args.share
    machine = Machine(args.gpus, rate, args.bus_gb_per_s * 1e9, args.launch_us * 1e-6)
    work = Work(args.update_tflop * 1e12, args.operators, args.parameters * 1e6 * 4, args.updates)
    print_table(table(machine, work, args.seeds), COLUMNS)
    return 0
