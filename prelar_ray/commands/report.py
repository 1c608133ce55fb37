"""``python -m prelar_ray report``: one page on single runs, or a report that compares the runs of studies."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from prelar_ray.commands.options import plain_parser, positive
from prelar_ray.errors import UsageError
from prelar_ray.reporting.compare import Options
from prelar_ray.reporting.comparison_report import ComparisonReport, is_comparison, write_comparison
from prelar_ray.reporting.formats import score_text, spaced
from prelar_ray.reporting.read import find_runs
from prelar_ray.reporting.run_report import write_report
from prelar_ray.reporting.scores import METRIC_NAMES, RETURN, SUCCESS
from prelar_ray.storage.files import prepare_file
from prelar_ray.wording import counted

__all__ = ["main"]

COMPARISON = Path("comparison")
"""Folder of a report on several runs or studies: none of theirs, where each has a report of its own."""

DESCRIPTION = """\
Single runs: write one HTML page with loss curves, returns, success with 95 % intervals, predicted frames, timings and
the resolved configuration. RUN is a run folder (it holds run.json), or a folder that holds run folders, such as
runs/demo. A run that still runs, was interrupted or failed can be reported too; what is missing is named on the page.

Studies and tables of scores: compare runs. STUDY is a study's folder (it holds study.yaml), SCORES.csv a table with the
columns method, task, seed, env_step and success_rate or episode_return. Several, and run folders beside them, are
compared with each other. The report is a page, report.html, and a folder, report/, with every figure as PNG and PDF,
scores.csv, summary.csv, table.md and table.tex. It shows curves per task and over tasks, mean, interquartile mean,
probability of improvement, performance profiles, sample efficiency, heat maps of two settings, wall time and GPU hours.
Intervals are 95 % stratified bootstraps over seeds.

Pages hold their pictures and need no network."""

EPILOG = """\
examples:
  prelar-ray report runs/demo                            writes runs/demo/report.html
  prelar-ray report runs/seed0 runs/seed1                several seeds, drawn together: writes comparison/report.html
  prelar-ray report studies/beta                         writes studies/beta/report.html and studies/beta/report/
  prelar-ray report studies/a studies/b --out compared   two studies compared, where their protocols agree
  prelar-ray report scores.csv --out compared            published scores, or those of another program
  prelar-ray report studies/beta --at 100000             scores at 100 000 steps, of all runs that came that far"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args = _parser().parse_args(argv)
    paths: list[Path] = args.paths
    console = Console(soft_wrap=True, highlight=False)
    if is_comparison(paths):
        thresholds = {SUCCESS: args.threshold, RETURN: args.return_threshold}
        options = Options(args.at, thresholds, args.mix_protocols, not args.no_published)
        _print_comparison(write_comparison(paths, _folder(args.out or _home(paths)), options), console)
        return 0
    out = _page(args.out or _home(paths))
    if args.out is None:
        find_runs(paths)  # where there is none, no folder is to be made
    prepare_file(out)
    runs = write_report(paths, out)
    for run in runs:
        for reason in run.missing.values():
            console.print(f"{run.path.name}: {reason}", markup=False)
    console.print(f"{out}: {counted(len(runs), 'run')}", markup=False)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = plain_parser("report", DESCRIPTION, EPILOG)
    parser.usage = "prelar-ray report [options] RUN|STUDY|SCORES.csv [...]"
    parser.add_argument("paths", nargs="+", type=Path, metavar="RUN|STUDY|SCORES.csv", help="what to report on")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="the folder to write into, or for single runs also the page, a name with .html (without: into the RUN or "
        "STUDY if it is only one, else into comparison/ here)",
    )
    options = parser.add_argument_group("comparisons")
    options.add_argument(
        "--at",
        type=positive,
        metavar="STEPS",
        help="compare scores at this many environment steps, of every run evaluated there, finished or not (without: "
        "finished runs at the last step that all of them have)",
    )
    options.add_argument(
        "--threshold",
        type=_finite,
        default=0.5,
        metavar="RATE",
        help="success rate whose first reaching is looked for (default 0.5)",
    )
    options.add_argument(
        "--return-threshold", type=_finite, metavar="RETURN", help="the same for tasks without success (without: none)"
    )
    options.add_argument(
        "--mix-protocols",
        action="store_true",
        help="put runs of one task together even if they were measured differently",
    )
    options.add_argument("--no-published", action="store_true", help="leave the dashed published curves out")
    return parser


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text}: must be a number")
    return value


def _home(paths: Sequence[Path]) -> Path:
    """Return the folder of a report that is told none: what it is on or, where that is several or a table, its own."""
    return paths[0] if len(paths) == 1 and paths[0].is_dir() else COMPARISON


def _page(out: Path) -> Path:
    """Return the page on single runs: ``out`` itself if it is named as a page, else report.html in that folder."""
    return out if out.suffix == ".html" and not out.is_dir() else out / "report.html"


def _folder(folder: Path) -> Path:
    """Return the folder of a comparison.

    Raises:
        UsageError: it cannot be one.
    """
    if folder.is_file() or folder.suffix == ".html":
        raise UsageError(f"{folder}: a comparison is a page and a folder of figures and tables; name a folder as --out")
    return folder


def _print_comparison(report: ComparisonReport, console: Console) -> None:
    for run in report.runs:
        if run.reason:
            console.print(f"{run.name}: {run.status}: {run.reason}", markup=False)
    unfinished = Counter(run.status for run in report.runs if run.status != "finished")
    if unfinished:
        counts = ", ".join(f"{count} {status}" for status, count in unfinished.items())
        console.print(f"not finished: {counts}, of {counted(len(report.runs), 'run')}; prelar-ray status shows them")
    for group in report.groups:
        label = METRIC_NAMES[group.metric]
        if not group.scores:
            console.print(f"no {label} is compared: {group.why_no_scores}", markup=False)
            continue
        table = Table(title=f"{label} at {spaced(group.at or 0)} environment steps", title_justify="left")
        for heading in ("series", "tasks", "runs", "mean", "IQM"):
            table.add_column(heading, overflow="fold")
        for name, by_task in group.scores.items():
            scores = [score_text(of[name], group.metric) if name in of else "–" for of in (group.mean, group.iqm)]
            table.add_row(name, str(len(by_task)), str(sum(map(len, by_task.values()))), *scores)
        console.print(table, markup=False)
    runs = sum(run.phase == "finetune" for run in report.runs)
    console.print(f"{report.page}: {counted(runs, 'run')}", markup=False)
