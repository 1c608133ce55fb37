"""One update shared by 1, 2, 4, ... ranks: seconds, speed-up, and the cost of communication.

There is one process per rank with the same number of threads each, on GPUs (NCCL, one each) if there are any, else with
gloo. The size of the batch is constant: strong scaling, as in training.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring import Result, Row, report_options, show, synchronise, timed
from benchmarks.parts import make
from prelar_ray.config import RunConfig, load_config
from prelar_ray.learning.device import resolve_device
from prelar_ray.learning.ranks import ALONE, Ranks

COLUMNS = {
    "seconds": ".4g",
    "seconds_min": ".4g",
    "seconds_max": ".4g",
    "speedup": ".2f",
    "exchange_seconds": ".3g",
    "exchanged_mb": ".3g",
    "exchanges": "d",
}


class Timed(Ranks):
    """Ranks that record their waiting times and the bytes that they exchange."""

    def __init__(self, ranks: Ranks, device: torch.device) -> None:
        super().__init__(ranks.group)
        self.device = device
        self.seconds, self.bytes, self.count = 0.0, 0, 0

    def sum(self, x: Tensor) -> Tensor:
        """See :class:`Ranks`."""
        total: Tensor = self._note(super().sum, x, x.nbytes)
        return total

    def gather(self, x: Tensor) -> Tensor:
        """See :class:`Ranks`."""
        rows: Tensor = self._note(super().gather, x, x.nbytes)
        return rows

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """See :class:`Ranks`."""
        taught = list(parameters)
        size = sum(p.grad.nbytes for p in taught if p.grad is not None)
        self._note(super().average_gradients, taught, size)

    def _note(self, call: Callable[[Any], Any], argument: Any, size: int) -> Any:
        synchronise(self.device)
        began = time.perf_counter()
        result = call(argument)
        synchronise(self.device)
        self.seconds += time.perf_counter() - began
        self.bytes += size
        self.count += 1
        return result


def work(config: RunConfig, phase: str, address: str, rank: int, repeats: int) -> Row:
    """Time this rank's share of the updates."""
    device = resolve_device(config.device)
    if device.type == "cuda":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    size = config.learner.ranks
    ranks = Timed(Ranks.join(address, rank, size, device) if size > 1 else ALONE, device)
    _, update = make(config, phase, ranks)
    for _ in range(2):
        update()
    ranks.seconds, ranks.bytes, ranks.count = 0.0, 0, 0
    timing = timed(update, device, repeats, warmup=0)
    ranks.leave()
    return timing.as_row() | {
        "exchange_seconds": ranks.seconds / repeats if size > 1 else 0.0,
        "exchanged_mb": ranks.bytes / repeats / 1e6 if size > 1 else 0.0,
        "exchanges": ranks.count // repeats if size > 1 else 0,
    }


def measure(preset: str, phase: str, size: int, args: argparse.Namespace) -> Row:
    """Start the ranks and return the time of the slowest one.

    Raises:
        RuntimeError: one of them failed; ends with its output.
    """
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        probe.close()
        files = [Path(folder) / str(rank) for rank in range(size)]
        command = [sys.executable, "-m", "benchmarks", "scaling", "--presets", preset, "--phases", phase]
        command += ["--device", args.device, "--threads", str(args.threads), "--repeats", str(args.repeats)]
        command += ["--ranks", str(size), "--norm-statistics", args.norm_statistics, "--worker", address]
        workers = [
            subprocess.Popen([*command, str(rank), str(file)], stderr=subprocess.PIPE, text=True)
            for rank, file in enumerate(files)
        ]
        for worker in workers:
            _, said = worker.communicate()
            if worker.returncode:
                for other in workers:
                    other.kill()
                raise RuntimeError(f"a rank ended with {worker.returncode}: {said[-2000:]}")
        rows: list[Row] = [json.loads(file.read_bytes()) for file in files]
    slowest = max(rows, key=lambda row: float(row["seconds"]))
    exchange = min(float(row["exchange_seconds"]) for row in rows)  # the others' includes waiting for the slowest
    name = f"{preset} {phase}, {size} {'rank' if size == 1 else 'ranks'}"
    return {"name": name, **slowest, "exchange_seconds": exchange}


def main(argv: Sequence[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scaling", description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["tiny"])
    parser.add_argument("--phases", nargs="+", choices=("pretrain", "finetune"), default=["pretrain", "finetune"])
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--norm-statistics", choices=("local", "synchronised"), default="local")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads per rank (default 1)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--worker", nargs=3, metavar=("ADDRESS", "RANK", "FILE"), help=argparse.SUPPRESS)
    report_options(parser)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.worker:
        address, rank, file = args.worker
        config = _config(args.presets[0], args.ranks[0], args)
        Path(file).write_text(json.dumps(work(config, args.phases[0], address, int(rank), args.repeats)))
        return 0
    rows: list[Row] = []
    for preset in args.presets:
        for phase in args.phases:
            found = [measure(preset, phase, size, args) for size in args.ranks]
            rows += [row | {"speedup": found[0]["seconds"] / row["seconds"]} for row in found]
    settings = {key: value for key, value in vars(args).items() if key not in ("json", "compare", "worker")}
    show(Result("scaling", settings, {"device": str(resolve_device(args.device))}, rows), COLUMNS, args)
    return 0


def _config(preset: str, size: int, args: argparse.Namespace) -> RunConfig:
    changes: dict[str, Any] = {
        "device": args.device,
        "learner.ranks": size,
        "learner.norm_statistics": args.norm_statistics,
    }
    return load_config(None if preset == "paper" else preset, measured=changes)
