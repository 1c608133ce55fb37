"""`prelar-ray cluster`: what keeps machines out of a cluster, a line each; and starting those left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from prelar_ray.cluster.check import HERE, check_here, check_machines
from prelar_ray.cluster.connection import Unreachable
from prelar_ray.cluster.file import ClusterFile, read_cluster_file
from prelar_ray.cluster.start import start_worker, stop_ray
from prelar_ray.commands.options import plain_parser
from prelar_ray.errors import ResourceError
from prelar_ray.telemetry.checks import Check, check_line
from prelar_ray.wording import counted

__all__ = ["main"]

DESCRIPTION = """\
Check the machines of a cluster's file, before `ray up` and after it; or start and stop its workers.

check: first what is copied from here: the file, the SSH key, the token, the package. Then every machine, over SSH:
login, clock, `ray` on the PATH, versions, GPUs and their free memory, drawing on each GPU, shared memory, disk, token,
the shared folder, ports from every machine to every other, and whether it is a node of the running cluster. One line
per machine and check: OK, WARN (works, with a drawback) or FAIL, what was found, and what to do about it; SKIP names
checks that something else prevents. Nothing is changed anywhere. Exits with 1 if a check fails.

stop: ends Ray on workers, or on those named: what `ray down` leaves there, for it ends the head alone.

start: copies the package and the token to workers, installs, and starts Ray there, with the commands of the file. Ray's
launcher on the head tries each worker once, and never again if that failed; this needs no `ray up`, which would end
what runs on the head. Without ADDRESS it starts all workers that are not nodes of the running cluster."""

EPILOG = """\
examples:
  prelar-ray cluster check cluster/cluster.yaml
  prelar-ray cluster check cluster/cluster.yaml --quick --failures      seconds; only what is not OK
  prelar-ray cluster start cluster/cluster.yaml 10.0.0.12
  ray down -y cluster/cluster.yaml; prelar-ray cluster stop cluster/cluster.yaml"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = plain_parser("cluster", DESCRIPTION, EPILOG)
    parser.add_argument("action", choices=["check", "start", "stop"], help="what to do")
    parser.add_argument("file", type=Path, metavar="FILE", help="the cluster's file, such as cluster/cluster.yaml")
    parser.add_argument("workers", nargs="*", metavar="ADDRESS", help="start, stop: these workers of the file")
    parser.add_argument("--failures", action="store_true", help="check: leave out what is OK")
    parser.add_argument("--quick", action="store_true", help="check: do not draw, which takes seconds for every GPU")
    args = parser.parse_args(argv)
    file = read_cluster_file(args.file)
    if args.action == "check":
        if args.workers:
            parser.error("check takes no ADDRESS: it checks all machines of the file")
        return _check(file, args.failures, args.quick)
    if unknown := [address for address in args.workers if address not in file.workers]:
        parser.error(f"{', '.join(unknown)}: no worker of {args.file}; there are {', '.join(file.workers) or 'none'}")
    if args.action == "start":
        return _start(file, args.workers)
    return _each(args.workers or file.workers, partial(stop_ray, file), "no Ray is left")


def _check(file: ClusterFile, failures: bool, quick: bool) -> int:
    console = Console(soft_wrap=True, highlight=False)
    width = max(map(len, (HERE, *file.machines)))
    counts: dict[str, int] = {}

    def tell(machine: str, name: str, check: Check) -> None:
        counts[check.status] = counts.get(check.status, 0) + 1
        if not (failures and check.status == "OK"):
            console.print(check_line(f"{machine:<{width}} {name}", check, width + 15))

    for name, check in check_here(file):
        tell(HERE, name, check)
    if counts.get("FAIL"):
        console.print("the machines are not asked before that is mended")
        return 1
    for machine, name, check in check_machines(file, draw=not quick):
        tell(machine, name, check)
    told = ", ".join(f"{counts[status]} {status}" for status in ("OK", "WARN", "SKIP", "FAIL") if status in counts)
    console.print(f"{counted(len(file.machines), 'machine')}: {told}")
    return 1 if counts.get("FAIL") else 0


def _start(file: ClusterFile, chosen: Sequence[str]) -> int:
    console = Console(soft_wrap=True, highlight=False)
    workers = chosen
    if not workers:
        joined = {machine: check for machine, name, check in check_machines(file, draw=False) if name == "joined"}
        if (head := joined.get(file.head)) is None or head.status != "OK":
            raise ResourceError(
                f"{file.head}: no Ray runs on the head, or it does not answer; ray up {file.path} comes first"
            )
        for address in file.workers:
            if address in joined and joined[address].status == "WARN":  # two installations at once would end both
                console.print(f"{address}: left alone: {joined[address].finding}", markup=False)
        workers = [address for address in file.workers if address not in joined or joined[address].status == "FAIL"]
        if not workers:
            console.print("no other worker is left to start")
            return 0

    def start(address: str) -> None:
        start_worker(file, address, lambda step: console.print(f"{address}: {step}", markup=False))

    return _each(workers, start, "Ray is started")


def _each(workers: Sequence[str], do: Callable[[str], None], done: str) -> int:
    """Do something with each worker, a line each; returns 1 where it failed for one."""
    console = Console(soft_wrap=True, highlight=False)
    failed = False
    for address in workers:
        try:
            do(address)
        except Unreachable as error:
            failed = True
            console.print(check_line(address, Check("FAIL", str(error), error.remedy)))
        else:
            console.print(check_line(address, Check("OK", done)))
    return int(failed)
