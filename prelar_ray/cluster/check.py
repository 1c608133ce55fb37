"""What can keep a machine out of a cluster, checked one by one before and after `ray up`."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from prelar_ray.cluster.connection import Machine, Refused, Unreachable, ssh_options
from prelar_ray.cluster.file import EXAMPLE, TOKEN, ClusterFile
from prelar_ray.cluster.judgements import (
    ANY_PORT,
    PORT_NAMES,
    STARTING,
    UNSEEN,
    judge_clock,
    judge_connections,
    judge_disk,
    judge_gpus,
    judge_joined,
    judge_path,
    judge_shared_memory,
    judge_token,
    judge_tools,
    judge_versions,
)
from prelar_ray.telemetry.checks import Check

__all__ = ["HERE", "Finding", "check_here", "check_machines"]

HERE: Final = "here"
"""Stands for the machine on which the check runs."""
SECONDS: Final = 60.0
"""For a command on a machine."""
DRAWING_SECONDS: Final = 180.0
CONNECT_SECONDS: Final = 5.0
VERSIONS: Final = (
    "~/prelar-ray/.venv/bin/python -c "
    '"import json; from prelar_ray.storage.provenance import installed_versions as v; print(json.dumps(v()))"'
)
GPUS: Final = (
    "command -v nvidia-smi >/dev/null || exit 127; "
    "nvidia-smi --query-gpu=index,name,driver_version,memory.total,memory.used --format=csv,noheader,nounits"
)

Finding = tuple[str, str, Check]
"""Machine, name of the check, result."""


@dataclass
class _Surveyed:
    """What is known of a machine that answers."""

    machine: Machine
    facts: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] | None = None
    broken: str = ""
    """Why versions are unknown although the package is installed."""
    gpus: tuple[int | None, str] = (127, "")
    checks: dict[str, Check] = field(default_factory=dict)
    listens: dict[int, str] = field(default_factory=dict)
    """Ports that others can connect to now, and what they are for."""


def check_here(file: ClusterFile) -> Iterator[tuple[str, Check]]:
    """Yield the checks of the file, the key, the token and the package that are copied from this machine."""
    examples = [address for address in file.machines if address.startswith(EXAMPLE)]
    if examples:
        yield "file", Check("FAIL", f"{', '.join(examples)} is an example", "edit the lines marked EDIT")
    else:
        yield "file", Check("OK", f"{file.name}: head {file.head}, workers {', '.join(file.workers) or 'none'}")
    if absent := [tool for tool in ("ssh", "ssh-keygen", "rsync") if not shutil.which(tool)]:
        yield "tools", Check("FAIL", f"no {', '.join(absent)}", "sudo apt-get install openssh-client rsync")
    else:
        yield "key", _key(file.key)
    yield "token", _token(file.token)
    yield "package", _package(file.package)


def _key(key: Path) -> Check:
    if not key.is_file():
        return Check("FAIL", f"no {key}", f"ssh-keygen -t ed25519 -N '' -f {key}, then ssh-copy-id to every machine")
    if key.stat().st_mode & 0o077:
        return Check("FAIL", f"{key}: others can read it, so that ssh refuses it", f"chmod 600 {key}")
    command = ["ssh-keygen", "-y", "-P", "", "-f", str(key)]
    if subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).returncode:
        remedy = "the head uses it without anybody to type one: make another key with ssh-keygen -N ''"
        return Check("FAIL", f"{key}: has a passphrase, or is no private key", remedy)
    return Check("OK", f"{key}, without a passphrase")


def _token(path: Path | None) -> Check:
    make = f"(umask 077; ray get-auth-token --generate > /dev/null), which writes {TOKEN}"
    if path is None:
        return Check("FAIL", f"file_mounts copies no {TOKEN}", "keep that line of cluster.yaml, for Ray asks for it")
    if not path.is_file():
        return Check("FAIL", f"no {path}", make)
    if path.stat().st_mode & 0o077:
        return Check("FAIL", f"{path}: others can read it", f"chmod 600 {path}")
    return Check("OK", f"{path}, readable by you alone")


def _package(folder: Path | None) -> Check:
    if folder is None:
        return Check("FAIL", "file_mounts copies no ~/prelar-ray/package", "keep that line of cluster.yaml")
    if (wheel := _wheel(folder)) is None:
        return Check("FAIL", f"no package in {folder.absolute()}", "make wheel, and run this where dist/ is")
    return Check("OK", wheel)


def _wheel(folder: Path | None) -> str | None:
    """Return the name of the package that `make wheel` built last."""
    named = folder / "package.txt" if folder else None
    if folder is None or named is None or not named.is_file():
        return None
    name = named.read_text(encoding="utf-8").strip()
    return name if (folder / name).is_file() else None


def check_machines(file: ClusterFile, draw: bool = True) -> Iterator[Finding]:
    """Yield every check of every machine, in the order of the file; they are asked at the same time.

    Args:
        file: of the cluster.
        draw: whether every GPU draws a scene, which takes seconds each.
    """
    machines = [Machine(address, file.user, file.key) for address in file.machines]
    there: dict[str, _Surveyed] = {}
    failed: dict[str, Unreachable] = {}
    try:
        with ThreadPoolExecutor(len(machines)) as pool:
            for machine, outcome in zip(machines, pool.map(lambda one: _survey(one, draw), machines), strict=True):
                if isinstance(outcome, Unreachable):
                    failed[machine.address] = outcome
                else:
                    there[machine.address] = outcome
        # Connections last: from then on the agents listen to ports that nobody else listens to.
        for check in (_judge_alone, _judge_storage, _judge_joined, _judge_logins, _judge_connections):
            _without_those_lost(check, file, there, failed)
        for address in file.machines:
            if address in failed:
                yield address, "ssh", Check("FAIL", str(failed[address]), failed[address].remedy)
                continue
            yield from ((address, name, check) for name, check in there[address].checks.items())
    finally:
        for machine in machines:
            machine.close()


def _without_those_lost(
    check: Callable[[ClusterFile, Mapping[str, _Surveyed]], None],
    file: ClusterFile,
    there: dict[str, _Surveyed],
    failed: dict[str, Unreachable],
) -> None:
    """Check all that are there; one that is lost meanwhile is left out, and the others are checked again."""
    while True:
        try:
            return check(file, there)
        except Unreachable as error:
            failed[error.address] = error
            del there[error.address]


def _survey(machine: Machine, draw: bool) -> _Surveyed | Unreachable:
    """Log in and ask what concerns the machine alone; what takes long is asked of all at the same time."""
    try:
        machine.open()
        found = _Surveyed(machine, machine.ask("facts", token=TOKEN, home="~/prelar-ray"))
        found.checks["ssh"] = Check("OK", f"user {machine.user} on {found.facts['host']}")
        found.checks["clock"] = judge_clock(*machine.clock_skew())
        _, paths, _ = machine.run("command -v ray; command -v prelar-ray")
        found.checks["tools"] = judge_tools(found.facts)
        found.checks["path"] = judge_path(found.facts["installed"], [x for x in paths.split() if x.startswith("/")])
        if found.facts["installed"]:
            code, output, errors = machine.run(VERSIONS, SECONDS)
            if code == 0:
                found.versions = json.loads(output.splitlines()[-1])
            else:
                found.broken = errors.strip().rpartition("\n")[2] or f"exit code {code}"
        code, output, errors = machine.run(GPUS, SECONDS)
        found.gpus = code, output or errors
        found.checks["versions"] = found.checks["gpu"] = Check("SKIP", "")  # their place in the order
        if draw:
            if found.versions is not None and found.gpus[0] == 0:
                found.checks["torch"] = _torch(machine)
            found.checks |= _drawing(machine, found)
    except Unreachable as error:
        return error
    return found


def _torch(machine: Machine) -> Check:
    """Ask whether the installed PyTorch uses the GPUs that the driver shows; learners would run on the CPU else."""
    code, output, errors = machine.run("~/prelar-ray/.venv/bin/prelar-ray doctor --only gpu", DRAWING_SECONDS)
    check = _from_doctor(output) or Check("FAIL", f"doctor said: {errors or output or code}", "run it there")
    if check.status != "WARN":
        return check
    return Check("FAIL", check.finding, "install a newer driver: nvidia-smi shows which CUDA it is for")


def _drawing(machine: Machine, found: _Surveyed) -> dict[str, Check]:
    """Draw on every GPU, as a process that Ray gives this GPU alone."""
    if found.versions is None:
        return {"egl": Check("SKIP", "the package is not installed")}
    code, output = found.gpus
    indices = re.findall(r"^(\d+), ", output, re.MULTILINE) if code == 0 else [""]
    checks = {}
    for index in indices:
        visible = f"CUDA_VISIBLE_DEVICES={index} " if index else ""
        command = (
            f"{visible}MUJOCO_GL=egl PYOPENGL_PLATFORM=egl ~/prelar-ray/.venv/bin/prelar-ray doctor --only rendering"
        )
        code, output, errors = machine.run(command, DRAWING_SECONDS)
        name = f"egl GPU {index}" if index else "egl"
        checks[name] = _from_doctor(output) or Check("FAIL", f"doctor said: {errors or output or code}", "run it there")
    return checks


def _from_doctor(output: str) -> Check | None:
    """Return the check in the last line of `prelar-ray doctor`."""
    found = re.search(r"^(OK|WARN|FAIL|SKIP) +\S+ +(.*?)(?:  -> (.*))?$", output.strip().rpartition("\n")[2])
    return Check(found[1], found[2], found[3] or "") if found else None  # type: ignore[arg-type]


def _judge_alone(file: ClusterFile, there: Mapping[str, _Surveyed]) -> None:
    """Judge each machine by its facts, and by what the others have."""
    mine = None
    if file.token and file.token.is_file():
        mine = hashlib.sha256(file.token.read_bytes().strip()).hexdigest()
    reference, whose = _reference(file, there)
    for address, found in there.items():
        others = any(one.gpus[0] == 0 for other, one in there.items() if other != address)
        found.checks["versions"] = judge_versions(found.versions, reference, whose, found.broken)
        found.checks["gpu"] = judge_gpus(*found.gpus, others, found.facts["nvidia_devices"])
        found.checks["shared-memory"] = judge_shared_memory(found.facts, file.object_store)
        found.checks["disk"] = judge_disk(found.facts)
        found.checks["token"] = judge_token(found.facts, mine)


def _reference(file: ClusterFile, there: Mapping[str, _Surveyed]) -> tuple[dict[str, str], str]:
    """Return the versions that all should have, and of what: the head's, and that of the package here."""
    head = there.get(file.head)
    versions = dict((head and head.versions) or {})
    if wheel := _wheel(file.package):
        versions["prelar-ray"] = wheel.split("-")[1]
    return versions, f"in {file.package} and on the head" if wheel else "on the head"


def _judge_storage(file: ClusterFile, there: Mapping[str, _Surveyed]) -> None:
    """Have every machine write a file to the shared folder, and look whether all others see it."""
    if not file.storage:
        for found in there.values():
            remedy = "give install.sh a --storage in setup_commands"
            found.checks["storage"] = Check("FAIL", "the file names none", remedy)
        return
    names = {address: f"{file.storage}/.check-{uuid4().hex}" for address in there}
    wrong = {address: found.machine.ask("write", path=names[address]) for address, found in there.items()}
    try:
        for address, found in there.items():
            if wrong[address]:
                remedy = f"mount it there, and let user {file.user} write"
                found.checks["storage"] = Check("FAIL", f"{file.storage}: {wrong[address].lower()}", remedy)
                continue
            unseen = [
                other
                for other, name in names.items()
                if not wrong[other] and not found.machine.ask("exists", path=name)
            ]
            if unseen:
                finding = f"{file.storage} is another folder than on {', '.join(unseen)}"
                found.checks["storage"] = Check("FAIL", finding, "mount the same storage under this path everywhere")
            else:
                finding = f"{file.storage}, written here and seen by {len(there)} of {len(there)}"
                found.checks["storage"] = Check("OK", finding)
    finally:
        for found in there.values():
            with suppress(Unreachable):  # the others remove what it wrote
                found.machine.ask("remove", paths=list(names.values()))


def _judge_connections(file: ClusterFile, there: Mapping[str, _Surveyed]) -> None:
    """Have every machine listen to Ray's ports, where Ray does not yet, and all others connect to them."""
    taken: dict[str, list[int]] = {}
    for address, found in there.items():
        named = {port: PORT_NAMES.get(option, option) for option, port in _ports_of(file, address).items()}
        answer = found.machine.ask("listen", ports=[*named, 0])
        *_, any_port = answer["free"]
        found.listens = {**named, any_port: ANY_PORT, 22: "ssh"}
        taken[address] = [] if found.facts["raylet"] else answer["taken"]
        if found.facts["raylet"]:  # what neither Ray nor the agent listens to tells nothing
            for option in ("min-worker-port", "max-worker-port"):
                port = _ports_of(file, address).get(option, 0)
                if port in answer["taken"]:
                    found.listens.pop(port, None)
    wanted = {
        address: [[other, port] for other in there if other != address for port in there[other].listens]
        for address in there
    }
    with ThreadPoolExecutor(max(1, len(there))) as pool:
        asked = {
            address: pool.submit(found.machine.ask, "connect", 600.0, to=wanted[address], timeout=CONNECT_SECONDS)
            for address, found in there.items()
        }
        failed = [
            (address, str(host), int(port), str(reason))
            for address, future in asked.items()
            for host, port, reason in future.result()
        ]
    for address, found in there.items():
        missed = [one for one in failed if one[1] == address]
        tried = sum(host == address for pairs in wanted.values() for host, _ in pairs)
        found.checks["ports"] = judge_connections(missed, taken[address], found.listens, tried)
    head = there.get(file.head)
    if head and (dashboard := file.head_ports.get("dashboard-port")):
        head.checks["dashboard"] = _reaches_dashboard(file.head, dashboard)


def _ports_of(file: ClusterFile, address: str) -> Mapping[str, int]:
    return file.head_ports if address == file.head else file.ports


def _reaches_dashboard(head: str, port: int) -> Check:
    try:
        socket.create_connection((head, port), CONNECT_SECONDS).close()
    except OSError as error:
        remedy = f"ssh -L {port}:localhost:{port} to the head, and use localhost; or let the port pass"
        return Check("WARN", f"port {port} is not reached from here ({error}): no dashboard, no jobs", remedy)
    return Check("OK", f"port {port} is reached from here")


def _judge_joined(file: ClusterFile, there: Mapping[str, _Surveyed]) -> None:
    """Compare the file with the nodes that the head knows, and with what its launcher does."""
    head = there.get(file.head)
    if head is None:
        return
    alive: list[str] | None = None
    pending: dict[str, str] = {}
    if head.facts["raylet"]:
        try:
            known = head.machine.ask("nodes", port=file.head_ports.get("dashboard-port", 8265), token=TOKEN)
        except Refused as error:
            remedy = f"a Ray that {file.path} did not start? `ray stop` there, then `ray up`; its dashboard must run"
            head.checks["joined"] = Check("FAIL", f"Ray does not tell its nodes: {error}", remedy)
            return
        alive, pending = known["alive"], known["pending"]
    for address, found in there.items():
        numeric = str(head.machine.ask("address", host=address) or address)
        own = {address, numeric, *found.facts["addresses"]}  # a name may stand for 127.0.1.1 on the machine itself
        joined = None if alive is None else bool(own & set(alive))
        status = pending.get(address, pending.get(numeric, UNSEEN if head.facts["launcher"] else ""))
        if status in STARTING and not joined:
            for name in ("path", "versions", "token"):
                if found.checks[name].status != "OK":
                    found.checks[name] = Check("SKIP", "the launcher is installing")
        found.checks["joined"] = judge_joined(address, found.facts, joined, status)


def _judge_logins(file: ClusterFile, there: Mapping[str, _Surveyed]) -> None:
    """Have the head log in to the workers with the key that `ray up` gave it, as its launcher does."""
    head = there.get(file.head)
    if head is None or not file.workers:
        return
    code, _, _ = head.machine.run("test -r ~/ray_bootstrap_key.pem")
    if code != 0:
        head.checks["logins"] = Check("SKIP", "no key on the head yet; `ray up` copies it")
        return
    wrong = []
    for worker in file.workers:
        command = f"ssh -n {shlex.join(ssh_options())} -i ~/ray_bootstrap_key.pem {file.user}@{worker} true"
        code, output, errors = head.machine.run(command, SECONDS)
        if code != 0:
            wrong.append(f"{worker}: {(errors or output).strip().rpartition(chr(10))[2] or 'no answer'}")
    if wrong:
        remedy = "it starts workers over SSH: see their lines, and let it reach port 22 there with this key"
        head.checks["logins"] = Check("FAIL", f"the head cannot log in to {'; '.join(wrong)}", remedy)
    else:
        head.checks["logins"] = Check("OK", f"the head logs in to {len(file.workers)} of {len(file.workers)} workers")
