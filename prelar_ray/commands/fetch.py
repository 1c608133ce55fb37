"""`prelar-ray fetch`: copy a run folder back from the address of ``checkpoint.mirror``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prelar_ray.commands.cli import print_next
from prelar_ray.commands.options import plain_parser
from prelar_ray.storage.mirror import fetch
from prelar_ray.storage.records import RLLIB_META
from prelar_ray.storage.run_folder import RunFolder

__all__ = ["main"]

DESCRIPTION = """\
Copy a run folder here from the address at which checkpoint.mirror keeps its copy: checkpoints, episodes, metrics.
The result is an ordinary run folder, also for --resume and --init. OUT/fetched.json says where it is from.

Checkpoints of RLlib algorithms hold pickles, which are programs: a fetched run of one is resumed only with
`finetune --resume --trust-pickles`. All other files are data, and are checked as they are read."""

EPILOG = """\
examples:
  prelar-ray fetch s3://bucket/runs/reach runs/reach
  prelar-ray fetch file:///mnt/runs/reach runs/reach"""


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch."""
    parser = plain_parser("fetch", DESCRIPTION, EPILOG)
    parser.add_argument("uri", metavar="URI", help="address of the copy: that of checkpoint.mirror, and the run's name")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make; must not exist")
    args = parser.parse_args(argv)
    fetch(args.uri, args.out)
    run = RunFolder.open(args.out)
    said, report = f"fetched: {args.out}", ["report", args.out]
    resume = [run.info["phase"], "--resume", "--out", args.out]
    following = [resume, report]
    if any(run.checkpoints.glob(f"*/{RLLIB_META}")):
        said += ", with pickles that --resume would execute: do so only if you trust whoever could write there"
        following = [report, [*resume, "--trust-pickles"]]
    print_next(said, *following)
    return 0
