"""Runs into one result file: what they were, what they measured at every so many updates, evaluations, diagnostics.

``python -m benchmarks gather runs/a runs/b --every 200 --json docs/results/arena/pooling.json`` writes one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prelar_ray.errors import DataError
from prelar_ray.reporting.read import find_runs, read_run
from prelar_ray.storage.files import atomic_file
from prelar_ray.storage.records import Diagnostics, finite

METRICS = (
    *("loss/image", "loss/dynamics_kl", "loss/reward", "model/latent_action_kl", "model/action_r2"),
    *("behaviour/reward", "behaviour/entropy", "validation/image", "latent/kl", "latent/spearman"),
    *("open_loop/own", "open_loop/shuffled", "open_loop/repeated", "open_loop/shuffled_over_own"),
)


def gathered(path: Path, metrics: Sequence[str], every: int) -> dict[str, Any]:
    """Return what the run folder ``path`` holds, as JSON.

    Raises:
        DataError: its record, settings or metrics cannot be read.
    """
    run = read_run(path)
    if damaged := [reason for part, reason in run.missing.items() if part in ("record", "config", "metrics")]:
        raise DataError(damaged[0])
    info = run.info
    lines = [line for line in run.metrics if line["update"] and line["update"] % every == 0]
    kept = ("update", "env_steps", *metrics)
    return {
        "name": run.path.name,
        "phase": run.phase,
        "commit": info.get("commit"),
        "date": info.get("finished") or info.get("created"),
        "versions": info.get("versions"),
        "hardware": info.get("hardware"),
        "seconds": info.get("timings"),
        "configuration": {key: value for key, value in run.config.items() if key != "video"},  # paths of one machine
        "lines": [{key: _rounded(line.get(key)) for key in kept if line.get(key) is not None} for line in lines],
        "evaluations": [
            {"env_steps": e.env_steps, "returns": [_rounded(x) for x in e.returns], "successes": sum(e.successes)}
            for e in run.evaluations
        ],
        "diagnosis": _diagnosis(run.diagnosis),
    }


def _diagnosis(found: Diagnostics | None) -> dict[str, Any] | None:
    return None if found is None else found.model_dump(mode="json", exclude={"videos", "actions", "checkpoint"})


def _rounded(value: float | None) -> float | None:
    number = None if value is None else finite(value)
    return None if number is None else float(f"{number:.4g}")


def main(argv: Sequence[str]) -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gather", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, or folders of them")
    parser.add_argument("--metrics", nargs="+", default=METRICS, metavar="NAME", help="only these")
    parser.add_argument("--every", type=int, default=100, metavar="N", help="updates from line to line (default 100)")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    args = parser.parse_args(argv)
    result = [gathered(path, args.metrics, args.every) for path in find_runs(args.runs)]
    with atomic_file(args.json) as partial:
        partial.write((json.dumps(result, indent=1) + "\n").encode())
    sys.stdout.write(f"{args.json}: {len(result)} runs\n")
    return 0
