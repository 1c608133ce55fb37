"""Compare the times of two result files of the same benchmark."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.measuring import compare, result_file


def main(argv: Sequence[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare", description=__doc__)
    parser.add_argument("old", type=result_file)
    parser.add_argument("new", type=result_file)
    args = parser.parse_args(argv)
    compare(args.old, args.new)
    return 0
