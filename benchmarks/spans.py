"""Variants over seeds and tasks, from a file of ``gather``: every evaluation, and means over spans of steps.

``python -m benchmarks spans docs/results/metaworld/three-tasks.json --spans 4000-8000 10000-16000`` prints tables.
A run's variant is the name of its folder without the seed: ``dreamerv2-0`` is of ``dreamerv2``.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prelar_ray.reporting.aggregates import Scores, improvement_interval, mean_of_tasks, stratified_interval
from prelar_ray.storage.files import atomic_file

Runs = Mapping[str, Mapping[str, Sequence["Run"]]]
"""By variant and task."""


class Run(NamedTuple):
    """Evaluations of one run."""

    seed: int
    steps: tuple[int, ...]
    success: Scores  # rates, (n,)
    returns: Scores  # means over episodes, (n,)


def read(path: Path) -> Runs:
    """Return the fine-tunings of a file of ``gather``."""
    found: dict[str, dict[str, list[Run]]] = {}
    for entry in json.loads(path.read_text()):
        if entry["phase"] != "finetune":
            continue
        evaluations = entry["evaluations"]
        run = Run(
            entry["configuration"]["seed"],
            tuple(e["env_steps"] for e in evaluations),
            np.array([e["successes"] / len(e["returns"]) for e in evaluations]),
            np.array([np.mean(e["returns"]) for e in evaluations]),
        )
        variant, task = entry["name"].rpartition("-")[0], entry["configuration"]["env"]["task"]
        found.setdefault(variant, {}).setdefault(task, []).append(run)
    return found


def every_evaluation(runs: Runs) -> str:
    """Return a table of mean returns, with success rates."""
    everything = [run for by_task in runs.values() for several in by_task.values() for run in several]
    steps = sorted({step for run in everything for step in run.steps})
    lines = ["| task | variant | seed | " + " | ".join(map(str, steps)) + " |", "|" + " --- |" * (len(steps) + 3)]
    for task in dict.fromkeys(task for by_task in runs.values() for task in by_task):
        for variant, by_task in runs.items():
            for run in sorted(by_task.get(task, ()), key=lambda run: run.seed):
                at = dict(zip(run.steps, zip(run.returns, run.success, strict=True), strict=True))
                cells = [f"{at[step][0]:.0f} ({at[step][1]:.1f})" if step in at else "" for step in steps]
                lines.append(f"| {task} | {variant} | {run.seed} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def over(by_task: Mapping[str, Sequence[Run]], span: tuple[int, int]) -> list[Scores]:
    """Return the success of each run per task, averaged over the evaluations in ``span``."""
    return [
        np.array([run.success[[span[0] <= step <= span[1] for step in run.steps]].mean() for run in several])
        for several in by_task.values()
    ]


def over_spans(runs: Runs, spans: Sequence[tuple[int, int]], baseline: str) -> str:
    """Return a table: mean success per variant and span, and the probability of a better run than the baseline's."""
    heads = [f"{low} to {high}" if low != high else str(low) for low, high in spans]
    lines = ["| | runs | " + " | ".join(heads) + f" | better than {baseline} |", "|" + " --- |" * (len(spans) + 3)]
    whole = min(low for low, _ in spans), max(high for _, high in spans)
    tasks = list(runs[baseline])
    for variant, every in runs.items():
        by_task = {task: every[task] for task in tasks if task in every}
        cells = [stratified_interval(over(by_task, span), mean_of_tasks).format(2) for span in spans]
        same = {task: runs[baseline][task] for task in by_task}
        better = improvement_interval(over(by_task, whole), over(same, whole)).format(2)
        count = sum(map(len, by_task.values()))
        shown = f"{variant}, {len(by_task)} of {len(tasks)} tasks" if len(by_task) < len(tasks) else variant
        lines.append(f"| {shown} | {count} | " + " | ".join(cells) + f" | {'' if variant == baseline else better} |")
    return "\n".join(lines) + "\n"


def scores(runs: Runs) -> str:
    """Return the table of scores that ``prelar-ray report`` reads."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("method", "task", "seed", "env_step", "success_rate", "episode_return"))
    for variant, by_task in runs.items():
        for task, several in by_task.items():
            for run in several:
                for step, success, mean in zip(run.steps, run.success, run.returns, strict=True):
                    table.writerow((variant, task, run.seed, step, f"{success:g}", f"{mean:.1f}"))
    return text.getvalue()


def _span(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    return int(low), int(high or low)


def main(argv: Sequence[str]) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks spans", description=__doc__)
    parser.add_argument("gathered", type=Path, metavar="FILE")
    parser.add_argument("--spans", nargs="+", type=_span, required=True, metavar="FROM-TO", help="environment steps")
    parser.add_argument("--baseline", default="dreamerv2", metavar="VARIANT", help="compared with (default dreamerv2)")
    parser.add_argument("--scores", type=Path, metavar="CSV", help="also write what `prelar-ray report` reads")
    args = parser.parse_args(argv)
    runs: Any = read(args.gathered)
    sys.stdout.write(every_evaluation(runs) + "\n" + over_spans(runs, args.spans, args.baseline))
    if args.scores:
        with atomic_file(args.scores) as partial:
            partial.write(scores(runs).encode())
    return 0
