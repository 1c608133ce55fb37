"""What the facts of a machine mean for a cluster: a ``Check`` each; no connection is needed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from prelar_ray.telemetry.checks import Check

__all__ = [
    "judge_clock",
    "judge_connections",
    "judge_disk",
    "judge_gpus",
    "judge_joined",
    "judge_path",
    "judge_shared_memory",
    "judge_token",
    "judge_tools",
    "judge_versions",
]

GIB: Final = 2**30
CLOCK_WARNS, CLOCK_FAILS = 1.0, 60.0
"""Seconds by which two clocks may differ: files seem older or newer than they are; and logs cannot be compared."""
NEARLY_FULL: Final = 0.02
"""Share of shared memory below which a running Ray moves objects to the disk."""
DISK_NEEDED: Final = 12 * GIB
"""For the environment with torch and its CUDA libraries, and Ray's session."""
GPU_BUSY: Final = 0.05
"""Share of a GPU's memory that may be in use before anything runs."""
INSTALLS: Final = "`ray up` copies and installs it"
MUST_AGREE: Final = ("prelar-ray", "ray", "torch", "python", "numpy")
"""Packages whose versions must be the same on all machines, for they exchange pickles."""

UNSEEN: Final = "nothing of it yet"
"""What the launcher says of a machine that it has not come to: it begins some ten seconds after the head."""
STARTING: Final = (UNSEEN, "waiting-for-ssh", "syncing-files", "setting-up")
"""What the launcher says of a machine while it is at work there. ``uninitialized`` after a failure stays for ever:
Ray 2.60 counts failures by address, which machines of one's own keep, and does not try again."""

ANY_PORT: Final = "any other, which ranks of a learner use"
"""Name of a port that stands for all that have no number of their own."""
PORT_NAMES: Final = {
    "port": "Ray's head",
    "dashboard-port": "dashboard and jobs",
    "node-manager-port": "node manager",
    "object-manager-port": "objects",
    "runtime-env-agent-port": "runtime environments",
    "dashboard-agent-listen-port": "dashboard agent",
    "dashboard-agent-grpc-port": "dashboard agent",
    "metrics-export-port": "metrics",
    "ray-client-server-port": "Ray clients",
    "min-worker-port": "first of the processes",
    "max-worker-port": "last of the processes",
}


def judge_clock(skew: float, uncertainty: float) -> Check:
    """Compare a machine's clock with the one here; both numbers in seconds."""
    certain = max(0.0, abs(skew) - uncertainty)
    finding = f"{abs(skew):.2f} s {'ahead' if skew > 0 else 'behind'}, known to {uncertainty:.2f} s"
    if certain < CLOCK_WARNS:
        return Check("OK", finding)
    return Check("FAIL" if certain >= CLOCK_FAILS else "WARN", finding, "sudo timedatectl set-ntp true, there and here")


def judge_path(installed: bool, found: Sequence[str]) -> Check:
    """Look for ray and prelar-ray on the PATH of a login shell; ``found`` is where they are."""
    if not installed:
        return Check("WARN", "the package is not installed yet", INSTALLS)
    names = {path.rpartition("/")[2] for path in found}
    if lacking := {"ray", "prelar-ray"} - names:
        remedy = "bash ~/prelar-ray/package/install.sh there; nothing before its line in ~/.bashrc may end the shell"
        return Check("FAIL", f"{' and '.join(sorted(lacking))} not on the PATH of bash --login -i", remedy)
    if others := [path for path in found if "/prelar-ray/.venv/bin/" not in path]:
        remedy = "move the line of ~/prelar-ray/environment in ~/.bashrc behind what puts that first, such as conda's"
        return Check("WARN", f"{', '.join(others)} comes first on the PATH; jobs would run it", remedy)
    return Check("OK", ", ".join(found))


def judge_tools(facts: Mapping[str, Any]) -> Check:
    """Look for what an installation needs: rsync, and a Python that can make environments."""
    if not facts["rsync"]:
        return Check("FAIL", "no rsync, with which `ray up` copies", "sudo apt-get install rsync there")
    if not facts["pythons"] and not facts["installed"]:
        remedy = "sudo apt-get install python3.11 python3.11-venv there, or python3.12 python3.12-venv"
        return Check("FAIL", f"no Python 3.11 to 3.13 with venv; python3 is {facts['python']}", remedy)
    return Check("OK", f"rsync, {', '.join(facts['pythons']) or 'the installed Python'}")


def judge_versions(
    theirs: Mapping[str, str] | None, reference: Mapping[str, str], whose: str, broken: str = ""
) -> Check:
    """Compare versions of packages with those of ``whose``; None where they are unknown: ``broken`` may say why."""
    if broken:
        remedy = "rm ~/prelar-ray/installed there, then bash ~/prelar-ray/package/install.sh"
        return Check("FAIL", f"the installed package does not run: {broken}", remedy)
    if theirs is None:
        return Check("SKIP", "the package is not installed")
    told = ", ".join(f"{name} {theirs[name]}" for name in MUST_AGREE if name in theirs)
    differing = [
        f"{name} {theirs.get(name, 'missing')}, {reference[name]} {whose}"
        for name in MUST_AGREE
        if name in reference and theirs.get(name) != reference[name]
    ]
    if theirs.get("python") != reference.get("python", theirs.get("python")):
        remedy = "install the same Python there, rm -rf ~/prelar-ray/.venv ~/prelar-ray/installed, then install.sh"
        return Check("FAIL", "; ".join(differing), remedy)
    if differing:
        remedy = "make wheel here, then `ray up` again, which installs it everywhere and ends what runs"
        return Check("FAIL", "; ".join(differing), remedy)
    return Check("OK", told)


def judge_gpus(code: int | None, output: str, elsewhere: bool, devices: int = 0) -> Check:
    """Judge what nvidia-smi says: a line of index, name, driver, MiB in all and MiB in use per GPU.

    Args:
        code: its exit code; 127 where there is no nvidia-smi, None where it hung.
        output: of nvidia-smi.
        elsewhere: whether another machine of the cluster has GPUs.
        devices: NVIDIA's graphics devices on the machine's bus.
    """
    if code == 127 and devices:
        finding = f"no nvidia-smi, yet {devices} NVIDIA device(s) on the bus: no driver, or one that is half installed"
        return Check("FAIL", finding, "install the driver, or restart the machine after its update")
    if code == 127:
        finding = "no NVIDIA driver: the machine collects and learns on the CPU"
        return Check("WARN", finding, "install the driver, if it has a GPU") if elsewhere else Check("OK", finding)
    lines = [line.split(", ") for line in output.splitlines() if re.match(r"\d+, ", line) and line.count(", ") == 4]
    if code != 0 or not lines:
        said = " ".join(output.split()) or ("it hangs" if code is None else "nothing")
        return Check(
            "FAIL", f"nvidia-smi says: {said}", "restart the machine after a driver update; else install it again"
        )
    if sick := [line for line in lines if not (_is_number(line[3]) and _is_number(line[4]))]:
        listing = "; ".join(", ".join(line) for line in sick)
        return Check("FAIL", f"nvidia-smi says: {listing}", "restart the machine; a GPU that stays so is broken")
    busy = [line for line in lines if float(line[4]) > GPU_BUSY * float(line[3])]
    models = sorted({line[1] for line in lines})
    finding = f"{len(lines)} x {' and '.join(models)}, driver {lines[0][2]}, "
    finding += f"{min(float(line[3]) - float(line[4]) for line in lines) / 1024:.1f} GiB free at least"
    if busy:
        listing = ", ".join(
            f"GPU {line[0]}: {float(line[4]) / 1024:.1f} of {float(line[3]) / 1024:.1f} GiB" for line in busy
        )
        return Check("WARN", f"{finding}; in use on {listing}", "nvidia-smi there shows by whom")
    return Check("OK", finding)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal()


def judge_shared_memory(facts: Mapping[str, Any], object_store: int) -> Check:
    """Compare ``/dev/shm`` with the object store, in bytes; 0 where Ray chooses its size."""
    total, free = facts["shm_total"], facts["shm_free"]
    finding = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free in /dev/shm"
    if not object_store:
        return Check("OK" if free > GIB else "WARN", finding, "" if free > GIB else "free it, or mount a larger one")
    finding += f", the object store takes {object_store / GIB:.1f}"
    if total < object_store:
        size = f"{object_store * 1.1 / GIB:.0f}"
        remedy = f"sudo mount -o remount,size={size}G /dev/shm there (docker: --shm-size={size}g), "
        return Check("FAIL", finding, remedy + "or a smaller --object-store-memory in the file")
    if free < (NEARLY_FULL * total if facts["raylet"] else object_store):
        return Check("FAIL", finding, "ls -l /dev/shm there, and delete what a process that crashed has left")
    return Check("OK", finding)


def judge_disk(facts: Mapping[str, Any]) -> Check:
    """Compare free disk space with what an installation needs."""
    finding = f"{facts['disk_free'] / GIB:.0f} GiB free in the home"
    if facts["disk_free"] < GIB:
        return Check("FAIL", finding, "free some: Ray stops to start processes on a full disk")
    if facts["disk_free"] < DISK_NEEDED and not facts["installed"]:
        return Check("WARN", finding, f"the package with torch for CUDA takes up to {DISK_NEEDED / GIB:.0f}")
    return Check("OK", finding)


def judge_token(facts: Mapping[str, Any], mine: str | None) -> Check:
    """Compare a machine's token with the one here; both are digests, None where there is no file."""
    if facts["token"] is None:
        if not facts["raylet"]:
            return Check("WARN", "none yet", "`ray up` copies it")
        return Check(
            "FAIL",
            "none, and Ray runs: it lets everybody in, or nobody",
            "`ray up` again, which copies it and ends what runs",
        )
    if mine is not None and facts["token"] != mine:
        remedy = "`ray up` again, which copies the one here and ends what runs; every machine must have the same"
        return Check("FAIL", "differs from the one here", remedy)
    if facts["token_mode"] & 0o077:
        return Check("FAIL", f"others can read it (mode {facts['token_mode']:o})", "chmod 600 ~/.ray/auth_token there")
    return Check("OK", "the same as here, readable by its owner alone" if mine else "there is one, and none here")


def judge_connections(
    failed: Sequence[tuple[str, str, int, str]], taken: Sequence[int], names: Mapping[int, str], tried: int
) -> Check:
    """Judge whether the others reach a machine.

    Args:
        failed: from where, to where, port and reason of each connection that was not possible.
        taken: ports that something else than Ray listens to.
        names: what each port is for.
        tried: how many connections.
    """
    if taken:
        listing = ", ".join(f"{port} ({names.get(port, 'a process')})" for port in taken)
        remedy = "sudo ss -ltnp there shows the process; end it, or change the port in the file"
        return Check(
            "FAIL", f"another process listens to {listing}", f"after `ray down`: cluster stop FILE; else {remedy}"
        )
    if failed:
        by_port: dict[tuple[int, str], list[str]] = {}
        for source, _, port, reason in failed:
            by_port.setdefault((port, reason), []).append(source)
        listing = "; ".join(
            f"{port} ({names.get(port, 'any other')}) from {', '.join(sources)}: {reason}"
            for (port, reason), sources in by_port.items()
        )
        if all(names.get(port) == ANY_PORT for port, _ in by_port):
            remedy = "let ports above 1024 pass too, if learners are to have ranks on several machines (learner.ranks)"
            return Check("WARN", f"not reached at {listing}", remedy)
        return Check("FAIL", f"not reached at {listing}", "let these ports pass in the firewall of that machine")
    return Check("OK", f"{tried} connections from the other machines" if tried else "no other machine")


def judge_joined(name: str, facts: Mapping[str, Any], joined: bool | None, pending: str) -> Check:
    """Judge whether a machine is a node of the running cluster.

    Args:
        name: of the machine in the file.
        facts: of the machine.
        joined: whether the head knows it as a node; None where no Ray runs on the head.
        pending: what Ray's launcher on the head says of the machine, such as ``setting-up``; empty if nothing.
    """
    if joined is None:
        if facts["raylet"]:
            return Check("WARN", "a Ray runs here, but none on the head", "ray stop there, then `ray up`")
        return Check("OK", "no Ray runs yet")
    if joined:
        return Check("OK", "a node of the running cluster")
    if pending in STARTING:
        remedy = (
            "check again in a minute; if the file named it only after `ray up`, prelar-ray cluster start FILE " + name
        )
        return Check("WARN", f"not a node yet, the launcher is at work: {pending}", remedy)
    start = f"prelar-ray cluster start FILE {name}"
    if facts["raylet"]:
        finding = "not a node, although a Ray runs here: of another cluster, or one that lost the head"
        return Check("FAIL", finding, f"ray stop there, then {start}")
    said = f"; the launcher, which tries a machine once, says {pending}" if pending else ""
    return Check("FAIL", f"not a node, and no Ray runs here{said}", f"mend what else FAILs for it, then {start}")
