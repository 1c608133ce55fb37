"""Memory: the cost of a step in the replay, and the resident memory of every process of a run.

``bytes_per_step`` is the growth of the process per step, ``of_frame`` its ratio to the 12 288 bytes of a frame. The
roles are those of a short fine-tuning run on Ray, with the maximum of their resident memory over all lines of metrics;
shared libraries count in each process that maps them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.end_to_end import finetuned
from benchmarks.measuring import Result, Row, report_options, show
from benchmarks.replay import FRAME_BYTES, bytes_per_step, noise
from prelar_ray.config import RunConfig, load_config
from prelar_ray.replay.shard import ReplayShard
from prelar_ray.telemetry.metrics import METRICS

ROLES = [name.removeprefix("memory/") for name in METRICS if name.startswith("memory/")]
SHORT = [
    *("finetune.random_steps=400", "finetune.initial_updates=2", "finetune.env_steps=1000"),
    *("finetune.env_steps_per_update=200", "telemetry.every_updates=1"),
    *("evaluation.every_env_steps=500", "evaluation.episodes=2"),
]
COLUMNS = {"bytes_per_step": ".0f", "of_frame": ".2%", "gib": ".2f"}


def of_replay(config: RunConfig, steps: int) -> Row:
    """Return the row for episodes of ``steps`` steps; a first episode absorbs one-time allocations."""
    with tempfile.TemporaryDirectory() as folder:
        replay = ReplayShard(config, Path(folder))
        replay.insert([noise(0, steps)])
        each = bytes_per_step(replay, steps, first=1)
    return {"name": f"replay, episodes of {steps} steps", "bytes_per_step": each, "of_frame": each / FRAME_BYTES}


def of_roles(preset: str, overrides: Sequence[str]) -> list[Row]:
    """Return one row per role of a run."""
    with tempfile.TemporaryDirectory() as folder:
        lines = finetuned("auto", preset, [*SHORT, *overrides], Path(folder) / "run")
    rows = []
    for role in ROLES:
        values = [line[f"memory/{role}"] for line in lines if line.get(f"memory/{role}") is not None]
        if values:
            rows.append({"name": f"{preset}: {'driver' if role == 'process' else role}", "gib": max(values)})
    return rows


def main(argv: Sequence[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of the runs")
    parser.add_argument("--presets", nargs="+", default=["tiny"])
    parser.add_argument("--steps", nargs="+", type=int, default=[50, 500], help="of an episode in the replay")
    report_options(parser)
    args = parser.parse_intermixed_args(argv)
    rows = [of_replay(load_config("paper", None, []), steps) for steps in args.steps]
    for preset in args.presets:
        rows += of_roles(preset, args.overrides)
    settings = {key: value for key, value in vars(args).items() if key not in ("json", "compare")}
    show(Result("memory", settings, {}, rows), COLUMNS, args)
    return 0
