"""``prelar-ray status``: what studies and runs are doing, from a folder that they are in or from a cluster's head."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from rich.console import Console
from rich.live import Live

from prelar_ray.commands.options import plain_parser
from prelar_ray.commands.status_view import view
from prelar_ray.errors import DataError, PrelarError, UsageError
from prelar_ray.watching.folders import look_at
from prelar_ray.watching.records import ClusterStatus, JobStatus, NodeStatus, StatusReport

if TYPE_CHECKING:  # importing ray takes seconds
    from prelar_ray.distributed.dashboard import Dashboard

__all__ = ["STORAGE", "main"]

STORAGE = "PRELAR_STORAGE"
"""Environment variable that names the folder which all machines share."""
RUNS = Path("runs")
"""Where commands put runs by default."""
PLAIN_WIDTH = 200
"""Columns of a table that is written to a file."""

DESCRIPTION = """\
Show what studies and runs are doing: who drives a study, how far each run is, its rate, scores and time left, and what
failed, was interrupted or is silent. Nothing is written and nobody is disturbed.

Each DIR is a study, a run, or a folder that holds some, up to three levels deep. Without any: what the environment
variable PRELAR_STORAGE names, else runs."""

EPILOG = """\
With --cluster the head of a Ray cluster is asked over the port of its dashboard, as a job that takes no CPU; DIRs are
folders of that machine, and PRELAR_STORAGE is its own. Ray's token is needed, as for the dashboard.

examples:
  prelar-ray status                                      all below $PRELAR_STORAGE, else below runs
  prelar-ray status runs/metaworld6 --every 10           one study, until Ctrl-C
  prelar-ray status /mnt/shared --json > status.json
  prelar-ray status --cluster HEAD                       from a machine that reaches http://HOST:8265 alone
  prelar-ray status /mnt/shared/metaworld6 --cluster http://localhost:8265"""


def main(argv: Sequence[str] | None = None) -> int:
    """Show the status and return the exit code."""
    parser = plain_parser("status", DESCRIPTION, EPILOG)
    parser.add_argument("folders", nargs="*", metavar="DIR", help="study, run, or folder that holds some")
    parser.add_argument("--cluster", metavar="HEAD", help="ask a cluster: HOST, HOST:8265 or http://HOST:8265")
    parser.add_argument("--json", action="store_true", help="print one JSON document in one line (docs/studies.md)")
    parser.add_argument("--every", type=_seconds, metavar="SECONDS", help="show it again and again, until Ctrl-C")
    args = parser.parse_args(argv)
    look = (
        _looking_at(args.cluster, args.folders) if args.cluster is not None else lambda: look_at(_folders(args.folders))
    )
    if args.every is None:
        _show(look(), args.json)
        return 0
    with suppress(KeyboardInterrupt):  # that is how to end it
        _watch(look, args.json, args.every)
    return 0


def _folders(given: Sequence[str]) -> list[Path]:
    """Return the folders to look at.

    Raises:
        UsageError: none is given, and there is no usual one.
    """
    if given:
        return list(map(Path, given))
    if storage := os.environ.get(STORAGE):
        return [Path(storage)]
    if not RUNS.is_dir():
        raise UsageError(
            f"there is no folder {RUNS} here and {STORAGE} is not set; name a study, a run or their folder"
        )
    return [RUNS]


def _watch(look: Callable[[], StatusReport], as_json: bool, seconds: float) -> None:
    """Show the status every so many seconds: in place on a terminal, one after another elsewhere."""
    console = _console()
    report = look()
    if as_json or not console.is_terminal:
        while True:
            _show(report, as_json)
            sys.stdout.flush()
            time.sleep(seconds)
            report = _again(look, report)
    with Live(view(report), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(seconds)
            report = _again(look, report)
            live.update(view(report), refresh=True)


def _again(look: Callable[[], StatusReport], last: StatusReport) -> StatusReport:
    """Look again; where that fails, such as while a head restarts, the last report with the reason."""
    try:
        return look()
    except PrelarError as error:
        return last.model_copy(update={"problems": [f"as of {last.at}: {error}"]})


def _show(report: StatusReport, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(report.model_dump_json() + "\n")
    else:
        _console().print(view(report))


def _console() -> Console:
    """Return the console of standard output; where that is no terminal, its width is always the same."""
    return Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def _looking_at(head: str, folders: Sequence[str]) -> Callable[[], StatusReport]:
    """Return what asks the cluster.

    Raises:
        UsageError, ResourceError: see :class:`~prelar_ray.distributed.dashboard.Dashboard`.
    """
    from prelar_ray.distributed.dashboard import Dashboard  # importing ray takes seconds

    dashboard = Dashboard(head)
    return lambda: _ask(dashboard, folders)


def _ask(dashboard: Dashboard, folders: Sequence[str]) -> StatusReport:
    """Return the status that a cluster's head reports, with its nodes and jobs.

    Raises:
        ResourceError: it cannot say.
        DataError: what it says is no status.
    """
    report = _report(dashboard.run(["prelar-ray", "status", "--json", *folders]), dashboard.address)
    nodes = [
        NodeStatus(
            name=node.name,
            cpus_used=node.used.get("CPU"),
            cpus=node.total["CPU"],
            gpus_used=node.used.get("GPU", None if node.total["GPU"] else 0.0),
            gpus=node.total["GPU"],
        )
        for node in dashboard.nodes()
    ]
    jobs = [JobStatus(id=job.id, entrypoint=job.entrypoint, since=job.since) for job in dashboard.jobs()]
    cluster = ClusterStatus(address=dashboard.address, nodes=nodes, jobs=jobs)
    return report.model_copy(update={"cluster": cluster})


def _report(log: str, address: str) -> StatusReport:
    """Return the status in the log of a job, which holds warnings too."""
    for line in reversed(log.splitlines()):
        if line.startswith("{"):
            try:
                return StatusReport.model_validate_json(line)
            except ValidationError:
                continue
    raise DataError(f"{address}: its prelar-ray says nothing of a status; install the version there that is here")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: must be a number of seconds above 0")
    return value
