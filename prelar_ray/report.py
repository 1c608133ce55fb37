"""``python -m prelar_ray.report RUN [RUN...]``: one self-contained page on one or several runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from prelar_ray.cli import guarded
from prelar_ray.files import prepare_file
from prelar_ray.reporting import write_report
from prelar_ray.wording import counted

__all__ = ["main"]

DESCRIPTION = """\
Write one HTML page on one or several runs: loss curves, returns, success with 95 % intervals, predicted
frames, timings and the resolved configuration. The page holds its pictures and needs no network.

RUN is a run folder (it holds run.json), or a folder that holds run folders, such as runs/demo.
A run that goes on, was interrupted or failed can be reported too; what is missing is named on the page."""

EPILOG = """\
examples:
  prelar-ray report runs/demo                            writes runs/demo/report.html
  prelar-ray report runs/seed0 runs/seed1 --out seeds.html   several seeds, drawn together"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="prelar-ray report",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, or folder of run folders")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where to write (without: report.html in the first RUN)"
    )
    args = parser.parse_args(argv)
    out: Path = args.out or args.runs[0] / "report.html"
    if args.out:  # where a run is to be, a folder is not to be made
        prepare_file(out)
    runs = write_report(args.runs, out)
    console = Console(soft_wrap=True, highlight=False)
    for run in runs:
        for reason in run.missing.values():
            console.print(f"{run.path.name}: {reason}", markup=False)
    console.print(f"{out}: {counted(len(runs), 'run')}", markup=False)
    return 0


if __name__ == "__main__":
    guarded(main)
