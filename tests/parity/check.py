"""Compare this project with every array of a parity folder: ``python tests/parity/check.py DIR [--json OUT]``.

With ``--device cuda`` this project computes on a GPU, without TF32; the tolerances are the same, but for float64 after
an optimiser's step.

Exit codes: 0 all agree, 1 something differs or could not be compared, 2 the folder is damaged or not supported.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's root, when run as a script

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prelar_ray.errors import PrelarError
from prelar_ray.learning.device import resolve_device
from prelar_ray.storage.files import atomic_file
from tests.parity.cases import CASES, FILES, LEGEND, Case, case_of, outcomes
from tests.parity.folder import ParityFolder
from tests.parity.options import run_config
from tests.parity.verdict import Outcome

SHOWN_FAILURES = 20


@dataclass(frozen=True)
class Result:
    """Comparison of one case."""

    case: Case
    outcomes: list[Outcome]

    @property
    def worst(self) -> Outcome:
        """The array that exceeds its tolerance most, or comes nearest to it."""
        return max(self.outcomes, key=_excess)

    @property
    def passed(self) -> bool:
        return all(outcome.passed for outcome in self.outcomes)


def _excess(outcome: Outcome) -> tuple[bool, float]:
    excess = outcome.error / outcome.tolerance if outcome.tolerance else outcome.error
    return not outcome.passed, math.inf if math.isnan(excess) else excess


@dataclass(frozen=True)
class Report:
    """Comparison of a whole folder."""

    results: list[Result]
    skipped: dict[str, str]
    """Reason for each array that was not compared."""

    @property
    def compared(self) -> int:
        return sum(len(result.outcomes) for result in self.results)

    @property
    def failures(self) -> list[tuple[str, Outcome]]:
        """File and outcome of each array that differs."""
        return [(r.case.file, outcome) for r in self.results for outcome in r.outcomes if not outcome.passed]

    @property
    def passed(self) -> bool:
        return not self.failures and not self.skipped

    def to_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "compared": self.compared,
            "skipped": self.skipped,
            "failed": len(self.failures),
            "torch": torch.__version__,
            "legend": LEGEND,
            "cases": [
                {
                    "case": result.case.title,
                    "file": result.case.file,
                    "arrays": len(result.outcomes),
                    "worst_array": result.worst.name,
                    "worst_error": _finite(result.worst.error),
                    "tolerance": result.worst.tolerance,
                    "rule": result.case.rule.text,
                    "passed": result.passed,
                    "results": {
                        outcome.name: {
                            "error": _finite(outcome.error),
                            "tolerance": outcome.tolerance,
                            "passed": outcome.passed,
                            **({"note": outcome.note} if outcome.note else {}),
                        }
                        for outcome in result.outcomes
                    },
                }
                for result in self.results
            ],
        }


def _finite(error: float) -> float | None:
    """None for what JSON cannot hold: NaN, or a difference where zero was expected."""
    return error if math.isfinite(error) else None


def check(folder: ParityFolder) -> Report:
    """Compare everything.

    Raises:
        ParityError: the folder lacks an array, holds one of another shape, or asks for an unsupported option.
    """
    for phase in ("pretrain", "finetune"):
        run_config(folder, phase)  # first, for its errors say more than those of the computation
    by_case: dict[Case, list[Outcome]] = {}
    skipped: dict[str, str] = {}
    for file in FILES:
        compared, missed = outcomes(folder, file)
        for outcome in compared:
            case = case_of(file, outcome.name)
            assert case is not None
            by_case.setdefault(case, []).append(outcome)
        skipped |= {f"{file}: {name}": reason for name, reason in missed.items()}
    return Report([Result(case, by_case[case]) for case in CASES if case in by_case], skipped)


def show(report: Report, console: Console) -> None:
    """Print the table, and what is wrong."""
    table = Table(caption=LEGEND, caption_justify="left")
    for title in ("file", "case"):
        table.add_column(title)
    for title in ("arrays", "worst error", "tolerance"):
        table.add_column(title, justify="right")
    for title in ("rule", "verdict"):
        table.add_column(title)
    for previous, result in zip([None, *report.results], report.results, strict=False):
        case, worst = result.case, result.worst
        new_file = previous is None or case.file != previous.case.file
        if new_file:
            table.add_section()
        table.add_row(
            case.file if new_file else "",
            case.title,
            str(len(result.outcomes)),
            f"{worst.error:.1e}",
            f"{worst.tolerance:.1e}",
            case.rule.text,
            "[green]agrees" if result.passed else "[red]DIFFERS",
        )
    console.print(table)
    for file, outcome in report.failures[:SHOWN_FAILURES]:
        note = f"; {outcome.note}" if outcome.note else ""
        console.print(f"[red]{escape(f'{file}: {outcome.name}: {outcome.error:.2e} > {outcome.tolerance:.1e}{note}')}")
    if len(report.failures) > SHOWN_FAILURES:
        console.print(f"... and {len(report.failures) - SHOWN_FAILURES} more, all in --json")
    for name, reason in report.skipped.items():
        console.print(f"[red]{escape(f'skipped {name}: {reason}')}")
    console.print(
        f"{report.compared} arrays compared, {len(report.skipped)} skipped, {len(report.failures)} differ "
        f"(torch {torch.__version__})",
        highlight=False,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="parity folder, for example tests/data/parity")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the result of every array to this file")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where this project computes")
    given = parser.parse_args(arguments)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a row of a log stays on one line
    try:
        torch.backends.cudnn.allow_tf32 = False
        with console.status("comparing"), resolve_device(given.device):
            report = check(ParityFolder.load(given.folder))
        show(report, console)
        if given.json:
            with atomic_file(given.json) as file:
                file.write(json.dumps(report.to_json(), indent=1, allow_nan=False).encode())
    except PrelarError as error:
        Console(stderr=True, soft_wrap=True).print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
        return 2
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
