"""Every method for some updates of both phases: final losses, time per update, peak memory.

Each method runs in a separate process, on experience of ``prelar/point-reach``, with the learners of the commands. At
``--preset paper`` a few updates show time and memory at full size.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from prelar_ray.config import RunConfig, load_config, native_methods
from prelar_ray.envs import make_env
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.storage.files import atomic_file
from prelar_ray.storage.provenance import provenance, utc_now
from prelar_ray.types import SequenceBatch

EPISODES = 20
AVERAGED = 20
"""Number of last updates whose mean losses are shown; all of them in a shorter run."""


def episodes(config: RunConfig) -> list[SequenceBatch]:
    """Return experience of a random policy and the scripted expert in alternate episodes."""
    env = make_env(config.env.model_copy(update={"task": "prelar/point-reach"}), seed=0)
    rng, found = np.random.default_rng(0), []
    for number in range(EPISODES):
        observation, _ = env.reset(seed=number)
        rows = [(observation["image"], np.zeros(2, np.float32), 0.0)]
        truncated = False
        while not truncated:
            expert = number % 2 and rng.random() < 0.8
            action = env.unwrapped.expert_action() if expert else rng.uniform(-1, 1, 2).astype(np.float32)  # type: ignore[attr-defined]
            observation, reward, _, truncated, _ = env.step(action)
            rows.append((observation["image"], action, float(reward)))
        images, actions, rewards = zip(*rows, strict=True)
        flags = np.zeros(len(rows), np.bool_)
        rewards_of = np.array(rewards, dtype=np.float32)
        found.append(SequenceBatch(np.stack(images), np.stack(actions), rewards_of, flags, flags))
    return found


def sample(data: list[SequenceBatch], rows: int, length: int, rng: np.random.Generator) -> SequenceBatch:
    """Return random windows of random episodes, with ``is_first`` set at their start."""
    windows = []
    for _ in range(rows):
        episode = data[rng.integers(len(data))]
        start = rng.integers(len(episode.reward) - length + 1)
        window = slice(start, start + length)
        windows.append((episode.image[window], episode.action[window], episode.reward[window]))
    image, action, reward = (np.stack(part) for part in zip(*windows, strict=True))
    flags = np.zeros((rows, length), np.bool_)
    is_first = flags.copy()
    is_first[:, 0] = True
    return SequenceBatch(image, action, reward, is_first, flags)


def measure(config: RunConfig, phase: str, updates: int) -> dict[str, Any]:
    """Run one phase of one method.

    Raises:
        NonFiniteError: a metric was NaN or infinite.
    """
    data, rng = episodes(config), np.random.default_rng(1)
    settings = config.pretrain if phase == "pretrain" else config.finetune
    pretrain = PretrainLearner(config) if phase == "pretrain" else None
    finetune = None if pretrain else FinetuneLearner(config, 2)
    learner = pretrain or finetune
    assert learner is not None
    times, metrics = [], {}
    for i in range(updates):
        batch = sample(data, settings.batch_size, settings.segment_length, rng)
        start = time.perf_counter()
        if pretrain:
            pretrain.update(batch.image)
        elif finetune:
            finetune.update(batch)
        learner.check_finite()
        times.append(time.perf_counter() - start)
        if i + 1 == updates - AVERAGED:
            learner.metrics()  # losses are those of the updates after this one
    metrics = learner.metrics()
    return {
        "losses": {name: value for name, value in metrics.items() if name.startswith(("loss/", "behaviour/"))},
        "seconds": float(np.median(times[1:] or times)),
        "updates": updates,
        "precision": str(learner.precision.dtype).removeprefix("torch."),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "parameters": sum(p.numel() for p in learner.model.parameters() if p.requires_grad),
        "threads": torch.get_num_threads(),
        "date": utc_now(),
        **provenance(),
    }


def show(result: dict[str, Any], console: Console) -> None:
    """Print one row per method and phase."""
    for phase in ("pretrain", "finetune"):
        rows = {name: phases[phase] for name, phases in result.items() if phase in phases}
        table = Table("method", title=phase)
        for name in (
            "parameters",
            "s/update",
            "peak GiB",
            "updates",
            "image",
            "dynamics KL",
            "action KL",
            "consistency",
            "reward",
        ):
            table.add_column(name, justify="right")
        for name, row in rows.items():
            if "error" in row:
                table.add_row(name, row["error"])
                continue
            losses = [
                row["losses"].get(f"loss/{key}")
                for key in ("image", "dynamics_kl", "action_kl", "consistency", "reward")
            ]
            numbers = [f"{row['parameters']:,}", f"{row['seconds']:.2f}", f"{row['peak_gib']:.1f}", str(row["updates"])]
            table.add_row(name, *numbers, *("-" if value is None else f"{value:.3g}" for value in losses))
        console.print(table)


def main(argv: Sequence[str]) -> int:
    """Run every method in a separate process, then print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks methods", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of every run")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--updates", type=int, default=200, help="updates of either phase (default 200)")
    parser.add_argument("--methods", nargs="+", choices=native_methods(), default=native_methods(), metavar="NAME")
    parser.add_argument("--phases", nargs="+", choices=("pretrain", "finetune"), default=["pretrain", "finetune"])
    parser.add_argument("--json", type=Path, help="file of every number, read first and added to")
    parser.add_argument("--child", nargs=2, metavar=("METHOD", "PHASE"), help=argparse.SUPPRESS)
    args = parser.parse_intermixed_args(argv)
    if args.child:
        method, phase = args.child
        config = load_config(args.preset, None, [f"method={method}", *args.overrides])
        sys.stdout.write(json.dumps(measure(config, phase, args.updates)))
        return 0
    console = Console(width=140)
    result: dict[str, Any] = json.loads(args.json.read_bytes()) if args.json and args.json.exists() else {}
    for method in args.methods:
        for phase in args.phases:
            if (method, phase) == ("dreamerv2", "pretrain"):
                continue
            settings = ["--preset", args.preset, "--updates", str(args.updates), *args.overrides]
            command = [sys.executable, "-m", "benchmarks", "methods", *settings, "--child", method, phase]
            done = subprocess.run(command, capture_output=True, text=True)
            error = {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
            result.setdefault(method, {})[phase] = json.loads(done.stdout) if done.returncode == 0 else error
            if args.json:
                with atomic_file(args.json) as file:
                    file.write(json.dumps(result, indent=1).encode() + b"\n")
    show(result, console)
    return int(any("error" in row for phases in result.values() for row in phases.values()))
