"""Starting and stopping Ray on a machine from here.

Ray's launcher on the head tries a worker once, and never again if that failed. `ray down` ends the head alone; workers
leave by themselves, but for a process or two.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from typing import Final

from prelar_ray.cluster.connection import Machine, Unreachable, ssh_options
from prelar_ray.cluster.file import ClusterFile

__all__ = ["start_worker", "stop_ray"]

COMMAND_SECONDS: Final = 3600.0
"""For one command of the file; the first installation takes minutes."""
COPY_SECONDS: Final = 600.0
STOP_SECONDS: Final = 120.0
RSYNC: Final = "sudo apt-get install rsync, there and here"


def start_worker(file: ClusterFile, address: str, tell: Callable[[str], None]) -> None:
    """Copy the package and the token to a machine, install, and start Ray there: the file's commands, in their order.

    Args:
        file: of the cluster, whose head is up.
        address: of the worker, as the file has it.
        tell: is given each step before it begins.

    Raises:
        Unreachable: a step failed; says which, and what the machine said.
    """
    machine = Machine(address, file.user, file.key)
    try:
        tell("log in")
        machine.open()
        for remote, here in file.mounts.items():
            tell(f"copy {here} to {remote}")
            machine.run(f"mkdir -p {_quoted(remote.rpartition('/')[0])}")
            _copy(file, address, f"{here}/" if here.is_dir() else str(here), f"{remote}/" if here.is_dir() else remote)
        for command in file.worker_commands:
            tell(command if len(command) < 80 else f"{command[:77]}...")
            head = f"export RAY_HEAD_IP={shlex.quote(file.head)}"
            _run(machine, f"{head}; ({command})", COMMAND_SECONDS, command)
    finally:
        machine.close()


def stop_ray(file: ClusterFile, address: str) -> None:
    """End all processes of Ray of the cluster's user on a machine.

    Raises:
        Unreachable: that is not possible; says why.
    """
    machine = Machine(address, file.user, file.key)
    try:
        machine.open()
        _run(machine, "~/prelar-ray/.venv/bin/ray stop", STOP_SECONDS, "ray stop")
    finally:
        machine.close()


def _run(machine: Machine, command: str, seconds: float, name: str) -> None:
    """Run a command on a machine; Unreachable with its last line, and its ``name``, if it fails."""
    code, output, errors = machine.run(command, seconds)
    if code != 0:
        said = (errors.strip() or output.strip()).splitlines()
        finding = f"{name}: {said[-1] if said else f'exit code {code}'}"
        raise Unreachable(machine.address, finding, f"run it on {machine.address}")


def _quoted(path: str) -> str:
    """Quote a path whose tilde the shell shall read."""
    return "~/" + shlex.quote(path[2:]) if path.startswith("~/") else shlex.quote(path)


def _copy(file: ClusterFile, address: str, source: str, target: str) -> None:
    shell = shlex.join(["ssh", *ssh_options(), "-i", str(file.key)])
    command = ["rsync", "-a", "--delete", "--rsh", shell, source, f"{file.user}@{address}:{target}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COPY_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unreachable(address, f"rsync: {error}", RSYNC) from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        missing = "rsync: command not found" in done.stderr or "rsync: not found" in done.stderr
        remedy = RSYNC if missing else "ssh there must print nothing, and the disk have space; mend what it says"
        raise Unreachable(address, f"rsync: {said[0] if said else done.returncode}", remedy)
