"""All that a GPU is to show, in one command: most telling first, each stage in a process of its own with a limit.

::

    python -m benchmarks gpu --minutes 8 --json docs/results/gpu/NAME.json

Stages: captured updates against eager ones, updates by mode with their largest kernels, acting, a whole run on
Meta-World, two runs that share the card, parity on the device, collecting, recording, and updates by part. The file is
written again after each stage, so that it holds what there is if the command is cut off; a stage that has no time left
says so. ``--minutes 4`` leaves out the whole run.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prelar_ray.learning.device import resolve_device
from prelar_ray.storage.files import atomic_file
from prelar_ray.storage.provenance import provenance, utc_now

ROOT = Path(__file__).resolve().parents[1]
TASK = "metaworld/button-press-topdown-wall-v3"
TAIL = 2000
"""Letters of the output of a stage that failed which are kept."""


@dataclass(frozen=True)
class Stage:
    """A command that writes a JSON file."""

    name: str
    command: list[str]
    """Arguments of Python; ``--json FILE`` is added."""
    limit: float
    """Seconds."""
    copies: int = 1
    """Processes that run it at once; each has a file."""


def stages(device: str, preset: str, minutes: float, overrides: Sequence[str]) -> list[Stage]:
    """Return the stages in order of worth; ``overrides`` shrink networks and batches for a try on a CPU."""
    modes = ["float32", "bfloat16", "graph", "compiled", "fused"] if device == "cuda" else ["float32"]
    bench = ["-m", "benchmarks"]
    on = ["--device", device]
    presets = [preset] if overrides else [preset, "small"]

    def updates(*more: str) -> list[str]:
        return [*bench, "learner", *overrides, *on, "--presets", *presets, *more]

    cores = len(os.sched_getaffinity(0))
    several = str(min(16, cores))
    collecting = [f"collect.gpus={int(device == 'cuda')}", "--preset", presets[-1], "--tasks", TASK, "--envs", "16"]
    collecting += ["--workers", "0", several, "--steps", "50", "--repeats", "3"]
    recording = [f"record.tasks=[{TASK}]", f"record.episodes_per_task={2 * cores}", "record.frames_per_episode=100"]
    recording += ["record.policy=expert", "--workers", "1", several, "--repeats", "2"]
    found = [
        Stage("agreement", [*bench, "agreement", *overrides, *on, "--presets", presets[-1]], 75),
        Stage("updates", updates("--modes", *modes[-1:], *modes[:-1], "--kernels", "25"), 150),
        Stage("acting", [*bench, "acting", *on, "--presets", *presets, "--served"], 45),
    ]
    if minutes > 4:
        run = [f"env.task={TASK}", f"device={device}", "finetune.env_steps=6000", "finetune.random_steps=2000"]
        run += ["evaluation.episodes=2", "evaluation.every_env_steps=2000"]
        whole = [*bench, "end_to_end", *run, *overrides, "--preset", "small", "--clusters", "auto"]
        found.append(Stage("whole_run", whole, 150))
    return [
        *found,
        Stage("two_runs", updates("--modes", modes[-1], "--phases", "finetune", "--repeats", "20"), 45, copies=2),
        Stage("parity", ["tests/parity/check.py", "tests/data/parity", *on], 35),
        Stage("collecting", [*bench, "collector", *collecting], 45),
        Stage("recording", [*bench, "record", *recording], 45),
        Stage("parts", updates("--modes", modes[min(1, len(modes) - 1)], "--parts"), 60),
    ]


def run(stage: Stage, folder: Path, limit: float) -> dict[str, Any]:
    """Run a stage for at most ``limit`` seconds and return what it wrote, or why it wrote nothing."""
    began = time.monotonic()
    files = [folder / f"{stage.name}-{number}.json" for number in range(stage.copies)]
    logs = [file.with_suffix(".log") for file in files]
    processes = []
    for file, log in zip(files, logs, strict=True):
        with log.open("wb") as output:
            command = [sys.executable, *stage.command, "--json", str(file)]
            processes.append(subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True))
    cut: list[subprocess.Popen[bytes]] = []
    try:
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, began + limit - time.monotonic()))
        cut = [process for process in processes if process.poll() is None]
    finally:  # also where this command is interrupted
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with all that it started in its session
            process.wait()
    result: dict[str, Any] = {"command": " ".join(stage.command), "seconds": round(time.monotonic() - began, 1)}
    found = [json.loads(file.read_bytes()) for file in files if file.exists()]
    if found:
        result["results"] = found
    if cut:
        result["cut_off"] = f"after {limit:.0f} s"
    codes = [process.returncode for process in processes]
    if len(found) < len(files) or any(codes):
        result["exit_codes"] = codes
        result["output"] = [log.read_text(errors="replace")[-TAIL:] for log in logs]
    return result


def main(argv: Sequence[str]) -> int:
    """Run the stages."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings; for a try on a CPU")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all stages (default 8)")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--stages", nargs="+", metavar="NAME", help="these alone")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="written again after each stage")
    args = parser.parse_intermixed_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stages end with this command
    device = resolve_device(args.device)
    ends = time.monotonic() + 60 * args.minutes
    result: dict[str, Any] = {
        "benchmark": "gpu",
        "date": utc_now(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        **provenance(),
        "stages": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for stage in stages(device.type, args.preset, args.minutes, args.overrides):
            if args.stages and stage.name not in args.stages:
                continue
            left = ends - time.monotonic()
            found = run(stage, Path(folder), min(stage.limit, left)) if left > 1 else {"cut_off": "no time left"}
            result["stages"][stage.name] = found
            with atomic_file(args.json) as file:
                file.write(json.dumps(result, indent=1).encode() + b"\n")
            said = found.get("cut_off") or found.get("exit_codes") or "done"
            sys.stdout.write(f"{stage.name:<12}{found.get('seconds', 0):>7} s  {said}\n")
            sys.stdout.flush()
    return 0
