"""What ``cluster/cluster.yaml`` says of a cluster, validated as `ray up` does, and read for the checks."""

from __future__ import annotations

import copy
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from prelar_ray.errors import ConfigError
from prelar_ray.storage.reading import read_yaml

__all__ = ["EXAMPLE", "ClusterFile", "read_cluster_file"]

EXAMPLE: Final = "192.0.2."
"""Start of the addresses that the file has before it is edited; they are reserved for documentation (RFC 5737)."""

TOKEN: Final = "~/.ray/auth_token"


@dataclass(frozen=True)
class ClusterFile:
    """The parts of a cluster's file that concern its machines."""

    path: Path
    name: str
    head: str
    """Address of the head, as the workers reach it."""
    workers: tuple[str, ...]
    user: str
    key: Path
    storage: str
    """Folder that all machines share; empty if the file names none."""
    package: Path | None
    """Folder here with the wheel that is installed on every machine."""
    token: Path | None
    """File here with the token that is copied to every machine."""
    ports: Mapping[str, int]
    """Ports of Ray by option, such as ``node-manager-port``: those that each machine listens to."""
    head_ports: Mapping[str, int]
    """The same of the head, which has more."""
    object_store: int
    """Bytes of the object store on every machine; 0 where Ray chooses."""
    mounts: Mapping[str, Path]
    """Files and folders here that are copied to every machine, by their path there."""
    worker_commands: tuple[str, ...]
    """What makes a machine a worker, installation included; with ``RAY_HEAD_IP`` set."""

    @property
    def machines(self) -> tuple[str, ...]:
        """All addresses, the head's first."""
        return (self.head, *self.workers)


def read_cluster_file(path: Path) -> ClusterFile:
    """Read a cluster's file.

    Raises:
        ConfigError: it cannot be read, or `ray up` would refuse it, or it is not of machines of one's own.
    """
    content = read_yaml(path, "correct the file, or start from cluster/cluster.yaml of the project")
    content = json.loads(json.dumps(content))  # Ray adds lists to its lists, and these are tuples
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no settings; start from cluster/cluster.yaml")
    provider = content.get("provider") if isinstance(content.get("provider"), dict) else {}
    if not provider or provider.get("type") != "local":
        raise ConfigError(f"{path}: provider.type must be local, for machines of your own; others are not checked")
    _validate(path, content)
    addresses = [provider.get("head_ip"), *(provider.get("worker_ips") or [])]
    for address in addresses:
        if not isinstance(address, str) or not address:
            raise ConfigError(f"{path}: provider: head_ip and worker_ips must be addresses, one is {address!r}")
    if twice := {address for address in addresses if addresses.count(address) > 1}:
        raise ConfigError(f"{path}: provider: {', '.join(sorted(twice))} is listed twice; name every machine once")
    auth, mounts = content.get("auth") or {}, content.get("file_mounts") or {}
    if not auth.get("ssh_private_key"):
        raise ConfigError(f"{path}: auth.ssh_private_key is missing; the head starts the workers with this key")
    package = _local(mounts, "~/prelar-ray/package")
    head, worker = (_start_options(content, role, package) for role in ("head", "worker"))
    return ClusterFile(
        path=path,
        name=str(content["cluster_name"]),
        head=addresses[0],
        workers=tuple(addresses[1:]),
        user=str(auth["ssh_user"]),
        key=Path(auth["ssh_private_key"]).expanduser(),
        storage=_storage(content.get("setup_commands") or []),
        package=package,
        token=_local(mounts, TOKEN),
        ports=_ports(worker),
        head_ports=_ports(head),
        object_store=int(_option(head, "object-store-memory") or 0),
        mounts={remote: Path(here).expanduser() for remote, here in mounts.items()},
        worker_commands=tuple(
            command
            for section in ("setup_commands", "worker_setup_commands", "worker_start_ray_commands")
            for command in content.get(section) or []
        ),
    )


def _validate(path: Path, content: dict[str, Any]) -> None:
    """Ask Ray, whose launcher checks no more than this before it starts."""
    from ray.autoscaler._private.util import prepare_config, validate_config  # private, and the only one there is

    try:
        validate_config(prepare_config(copy.deepcopy(content)))
    except Exception as error:  # of jsonschema, click or Ray, whichever part complains
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ConfigError(f"{path}: `ray up` refuses it: {lines[0] if lines else type(error).__name__}") from error


def _start_options(content: Mapping[str, Any], role: str, package: Path | None) -> str:
    """Return the options with which Ray is started on head or workers: those of start.sh, then the file's own."""
    command = next((line for line in content.get(f"{role}_start_ray_commands") or [] if "start" in line), "")
    script = package / "start.sh" if package and "start.sh" in command else None
    usual = script.read_text(encoding="utf-8") if script and script.is_file() else ""
    if role != "head":  # the lines that are the head's alone
        usual = "\n".join(line for line in usual.splitlines() if "--head" not in line)
    return f"{usual}\n{command}"


def _option(command: str, name: str) -> str | None:
    found = re.findall(rf"--{name}[= ](\S+)", command)
    return found[-1] if found else None


def _ports(command: str) -> dict[str, int]:
    return {name: int(port) for name, port in re.findall(r"--([a-z-]*port)[= ](\d+)", command)}


def _storage(commands: list[str]) -> str:
    """Return what the setup command gives install.sh as ``--storage``."""
    for command in commands:
        words = shlex.split(command)
        if "--storage" in words[:-1]:
            return words[words.index("--storage") + 1]
    return ""


def _local(mounts: Mapping[str, str], remote: str) -> Path | None:
    return Path(mounts[remote]).expanduser() if remote in mounts else None
