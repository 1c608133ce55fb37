"""Code shared by all benchmarks: timing with spread, ceilings of the machine, result files, tables, comparison.

It needs only torch, numpy and pydantic, so that it runs wherever PyTorch does.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from prelar_ray.storage.files import atomic_file
from prelar_ray.storage.provenance import provenance, utc_now

__all__ = [
    "Result",
    "Row",
    "Timing",
    "compare",
    "copy_ceiling",
    "matmul_ceiling",
    "peak_memory",
    "print_table",
    "report_options",
    "reset_peak_memory",
    "result_file",
    "save",
    "show",
    "synchronise",
    "timed",
]

Row = dict[str, Any]
"""One line of a result: ``name``, and numbers by name; times are those of :meth:`Timing.as_row`."""

GIB = 2**30


class Timing(NamedTuple):
    """Seconds of repeated calls."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """Seconds."""
        return float(np.median(self.seconds))

    def as_row(self) -> Row:
        """Return median, minimum, maximum and number of calls, as in result files."""
        return {
            "seconds": self.median,
            "seconds_min": min(self.seconds),
            "seconds_max": max(self.seconds),
            "repeats": len(self.seconds),
        }


def synchronise(device: torch.device) -> None:
    """Wait until ``device`` is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(call: Callable[[], object], device: torch.device, repeats: int, warmup: int = 2) -> Timing:
    """Time ``call`` on ``device``, each time from idle to idle."""
    for _ in range(warmup):
        call()
    seconds = []
    for _ in range(repeats):
        synchronise(device)
        began = time.perf_counter()
        call()
        synchronise(device)
        seconds.append(time.perf_counter() - began)
    return Timing(seconds)


def reset_peak_memory(device: torch.device) -> None:
    """Reset the measurement of :func:`peak_memory`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with Path("/proc/self/clear_refs").open("w") as file:
        file.write("5")  # Linux: the process's peak becomes its present resident size


def peak_memory(device: torch.device) -> float:
    """Return the peak since the reset, GiB: memory allocated on a GPU, or the resident size of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    status = Path("/proc/self/status").read_text()
    (peak,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024 / GIB


def matmul_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """Return the highest measured FLOP/s of a large square matrix product."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty(n, n, device=device, dtype=dtype)
    return 2 * n**3 / min(timed(lambda: torch.mm(a, b, out=out), device, repeats=10).seconds)


def copy_ceiling(device: torch.device) -> float:
    """Return the bytes/s, read plus written, of a large copy inside the device's memory."""
    source = torch.zeros(256 * 2**20 if device.type == "cuda" else 64 * 2**20, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(timed(lambda: target.copy_(source), device, repeats=10).seconds)


class Result(NamedTuple):
    """Result of a benchmark."""

    benchmark: str
    settings: Row  # options of the benchmark
    machine: Row  # device and ceilings
    rows: list[Row]

    def to_json(self) -> Row:
        """Return the stored form, with date, versions, commit and hardware."""
        date = utc_now()
        return {**self._asdict(), "date": date, "threads": torch.get_num_threads(), **provenance()}


def report_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every benchmark: the file to write the result to, and the result to compare it with."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file")
    parser.add_argument(
        "--compare", type=result_file, metavar="FILE", help="print ratios to the times of an earlier result"
    )


def show(result: Result, columns: Mapping[str, str], args: argparse.Namespace) -> None:
    """Print the rows of a result, then write and compare it according to :func:`report_options`.

    Args:
        columns: format of each number by its name; columns without a value in any row are omitted.
    """
    _line(f"{result.benchmark}: {', '.join(f'{key} {value}' for key, value in result.machine.items())}")
    print_table(result.rows, columns)
    save(result, args.json)
    if args.compare:
        compare(args.compare, result.to_json())


def save(result: Result, path: Path | None) -> None:
    """Write a result, or what there is of it, if a file is asked for."""
    if path:
        with atomic_file(path) as file:
            file.write(json.dumps(result.to_json(), indent=1).encode() + b"\n")


def result_file(name: str) -> Row:
    """Read an earlier result; usable as the type of an argument.

    Raises:
        argparse.ArgumentTypeError: the file cannot be read, or is not a result.
    """
    try:
        stored: Row = json.loads(Path(name).read_bytes())
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{name}: {error}") from None
    if not isinstance(stored, dict) or not {"rows", "machine"} <= stored.keys():
        raise argparse.ArgumentTypeError(f"{name}: not a result that a benchmark wrote with --json")
    return stored


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Print the times of rows that two results share, and their ratio old / new: above 1 is faster."""
    known = {row["name"]: row for row in old["rows"]}
    rows = [
        {
            "name": row["name"],
            "old": known[row["name"]]["seconds"],
            "new": row["seconds"],
            "old/new": known[row["name"]]["seconds"] / row["seconds"],
        }
        for row in new["rows"]
        if row["name"] in known
    ]
    for name, result in (("old", old), ("new", new)):
        _line(f"{name}: {result['date']}, commit {result['commit']}, {result['hardware']['cpu']}, {result['machine']}")
    print_table(rows, {"old": ".4g", "new": ".4g", "old/new": ".2f"})


def print_table(rows: Sequence[Row], columns: Mapping[str, str]) -> None:
    """Print rows as aligned text, their names first."""
    shown = {name: form for name, form in columns.items() if any(row.get(name) is not None for row in rows)}
    lines = [["", *(name.replace("_", " ") for name in shown)]]
    for row in rows:
        cells = ["-" if row.get(name) is None else format(row[name], form) for name, form in shown.items()]
        lines.append([row["name"], *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        first, *others = (
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        _line("  ".join([first, *others]))


def _line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
