"""Print the table of faults: ``FAULT_TABLE=FILE pytest -m faults tests/faults``, then this with FILE."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    lines = ["| fault | times | seconds to recovery | lost | final state |", "| --- | --- | --- | --- | --- |"]
    for row in map(json.loads, Path(sys.argv[1]).read_text().splitlines()):
        seconds = "-" if row["seconds_to_recovery"] is None else f"{row['seconds_to_recovery']:.1f}"
        lines.append(f"| {row['fault']} | {row['times']} | {seconds} | {row['lost']} | {row['final']} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
