"""Print result files as Markdown tables, with their columns, date, commit and hardware."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.measuring import result_file


def markdown(result: Mapping[str, Any], columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one result as a table; columns without a value in any row are omitted."""
    shown = {name: form for name, form in columns.items() if any(row.get(name) is not None for row in rows)}
    lines = ["| | " + " | ".join(name.replace("_", " ") for name in shown) + " |", "|" + " --- |" * (len(shown) + 1)]
    for row in rows:
        cells = ["-" if row.get(name) is None else format(row[name], form) for name, form in shown.items()]
        lines.append(f"| {row['name'].strip()} | " + " | ".join(cells) + " |")
    machine = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in result["machine"].items())
    hardware = result["hardware"]
    instructions = "/".join(hardware.get("instructions", []))
    cpu = f"{hardware['cpu']}{f' ({instructions})' if instructions else ''}, {result['threads']} threads"
    lines += ["", f"{result['date'][:10]}, commit {result['commit'][:7]}, {cpu}; {machine}"]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks table", description=__doc__)
    parser.add_argument("results", nargs="+", type=result_file, metavar="FILE")
    parser.add_argument("--columns", nargs="+", metavar="NAME", help="only these (default all)")
    parser.add_argument("--rows", default="", metavar="TEXT", help="only rows whose names hold this")
    args = parser.parse_args(argv)
    for result in args.results:
        columns: dict[str, str] = importlib.import_module(f"benchmarks.{result['benchmark']}").COLUMNS
        wanted = {name: form for name, form in columns.items() if not args.columns or name in args.columns}
        rows = [row for row in result["rows"] if args.rows in row["name"]]
        sys.stdout.write(markdown(result, wanted, rows) + "\n")
    return 0
