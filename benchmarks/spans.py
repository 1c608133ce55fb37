"""Variants over seeds and tasks, from a file of ``gather``: every evaluation, and means over spans of steps.

``python -m benchmarks spans docs/results/metaworld/three-tasks.json --spans 4000-8000 10000-16000`` prints tables.
A run's variant is the name of its folder without the seed: ``dreamerv2-0`` is of ``dreamerv2``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from prelar_ray.reporting.aggregates import Scores, improvement_interval, mean_of_tasks, stratified_interval
from prelar_ray.reporting.scores import RETURN, SUCCESS, RunScores, write_scores

Runs = Mapping[str, Mapping[str, Sequence[RunScores]]]
"""By variant and task."""


def read(path: Path) -> Runs:
    """Return the fine-tunings of a file of ``gather``."""
    found: dict[str, dict[str, list[RunScores]]] = {}
    for entry in json.loads(path.read_text()):
        if entry["phase"] != "finetune":
            continue
        table = pd.DataFrame(
            {
                SUCCESS: [e["successes"] / len(e["returns"]) for e in entry["evaluations"]],
                RETURN: [np.mean(e["returns"]) for e in entry["evaluations"]],
            },
            index=[e["env_steps"] for e in entry["evaluations"]],
        )
        variant, settings = entry["name"].rpartition("-")[0], entry["configuration"]
        task, seed = settings["env"]["task"], settings["seed"]
        run = RunScores(entry["name"], str(path), "finetune", variant, task, seed, scores=table)
        found.setdefault(variant, {}).setdefault(task, []).append(run)
    return found


def all_of(runs: Runs) -> list[RunScores]:
    """Return them in one list."""
    return [run for by_task in runs.values() for several in by_task.values() for run in several]


def every_evaluation(runs: Runs) -> str:
    """Return a table of mean returns, with success rates."""
    steps = sorted({step for run in all_of(runs) for step in run.scores.index})
    lines = ["| task | variant | seed | " + " | ".join(map(str, steps)) + " |", "|" + " --- |" * (len(steps) + 3)]
    for task in dict.fromkeys(task for by_task in runs.values() for task in by_task):
        for variant, by_task in runs.items():
            for run in sorted(by_task.get(task, ()), key=lambda run: run.seed):
                at = run.scores.to_dict("index")
                cells = [f"{at[step][RETURN]:.0f} ({at[step][SUCCESS]:.1f})" if step in at else "" for step in steps]
                lines.append(f"| {task} | {variant} | {run.seed} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def over(by_task: Mapping[str, Sequence[RunScores]], span: tuple[int, int]) -> list[Scores]:
    """Return the success of each run per task, averaged over the evaluations in ``span``."""
    return [np.array([run.scores.loc[slice(*span), SUCCESS].mean() for run in several]) for several in by_task.values()]


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
    runs = read(args.gathered)
    sys.stdout.write(every_evaluation(runs) + "\n" + over_spans(runs, args.spans, args.baseline))
    if args.scores:
        write_scores(args.scores, all_of(runs))
    return 0
