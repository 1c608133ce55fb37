"""A whole fine-tuning run: environment steps/s, updates/s, waiting times, memory, and the learner alone for comparison.

Runs ``prelar-ray finetune`` in a separate process and reads its ``metrics.jsonl``. ``alone`` is an update of the same
configuration without any other load, ``overhead`` the additional time of an update in the run, waiting included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.measuring import Result, Row, report_options, show, timed
from benchmarks.parts import make
from prelar_ray.config import load_config
from prelar_ray.learning.captured import EAGER_FIRST

COLUMNS = {
    "seconds": ".4g",
    "env_steps_per_s": ".1f",
    "updates_per_s": ".2f",
    "update_seconds": ".4g",
    "learner_waits": ".1%",
    "collectors_paused": ".1%",
    "alone": ".4g",
    "overhead": ".1%",
    "learner_gib": ".2f",
    "replay_gib": ".2f",
    "collectors_gib": ".2f",
}


def alone(preset: str, overrides: Sequence[str], repeats: int = 10) -> float:
    """Return the seconds of an update without any other load."""
    config = load_config(preset, None, overrides)
    learner, update = make(config, "finetune")
    return timed(update, learner.device, repeats, warmup=EAGER_FIRST + 1).median


def finetuned(cluster: str, preset: str, overrides: Sequence[str], out: Path) -> list[dict[str, float]]:
    """Run ``prelar-ray finetune`` into ``out`` and return the lines of its metrics.

    Raises:
        RuntimeError: the run failed; ends with its output.
    """
    command = [
        sys.executable,
        "-m",
        "prelar_ray",
        "finetune",
        "--preset",
        preset,
        "--cluster",
        cluster,
        "--out",
        str(out),
    ]
    done = subprocess.run([*command, *overrides], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"finetune ended with {done.returncode}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def measure(cluster: str, preset: str, overrides: Sequence[str], folder: Path, update_alone: float) -> Row:
    """Run once.

    Raises:
        RuntimeError: the run failed, or was too short.
    """
    lines = finetuned(cluster, preset, overrides, folder / cluster.replace("/", "-"))
    lines = [line for line in lines if "time/update" in line][1:]  # the first includes the start-up
    if len(lines) < 2:
        raise RuntimeError("too short to measure; raise finetune.env_steps, or lower telemetry.every_updates")
    began, ended = lines[0], lines[-1]
    seconds = ended["time"] - began["time"]

    def mean(name: str) -> float | None:
        values = [line[name] for line in lines if line.get(name) is not None]
        return float(np.mean(values)) if values else None

    update, wait = mean("time/update"), mean("time/wait_for_data")
    memory = {f"{role}_gib": mean(f"memory/{role}") for role in ("learner", "replay", "collectors")}
    return {
        "name": f"{preset}, cluster={cluster}",
        "seconds": seconds,
        "env_steps_per_s": (ended["env_steps"] - began["env_steps"]) / seconds,
        "updates_per_s": (ended["update"] - began["update"]) / seconds,
        "update_seconds": update,
        "learner_waits": None if update is None or wait is None else wait / (update + wait),
        "collectors_paused": mean("time/collectors_paused"),
        "alone": update_alone,
        "overhead": None if update is None or wait is None else (update + wait) / update_alone - 1,
        **memory,
    }


def main(argv: Sequence[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks end_to_end", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of the run")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--clusters", nargs="+", default=["none", "auto"])
    report_options(parser)
    args = parser.parse_intermixed_args(argv)
    by_itself = alone(args.preset, args.overrides)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(cluster, args.preset, args.overrides, Path(folder), by_itself) for cluster in args.clusters]
    settings = {key: value for key, value in vars(args).items() if key not in ("json", "compare")}
    show(Result("end_to_end", settings, {}, rows), COLUMNS, args)
    return 0
