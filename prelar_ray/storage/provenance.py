"""Provenance of results: versions, commit and hardware, recorded with every run and every benchmark."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["PACKAGES", "installed_versions", "provenance", "source_commit", "utc_now"]

PACKAGES = ("prelar-ray", "torch", "ray", "mujoco", "metaworld", "gymnasium", "dm_control", "numpy")
"""Distributions whose versions are recorded."""

INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Instruction sets that determine the speed and number formats of matrix products on a CPU."""


def provenance() -> dict[str, Any]:
    """Return ``versions``, ``commit`` and ``hardware`` of this process, JSON-able."""
    return {"versions": installed_versions(), "commit": source_commit(), "hardware": _hardware()}


def utc_now() -> str:
    """Return the time as records state it: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def installed_versions() -> dict[str, str]:
    """Return versions without importing the packages; those that are not installed are omitted."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def source_commit() -> str | None:
    """Return the commit of the source tree, ``-dirty`` if changed, or what an installed package's version says of it.

    None where neither tells.
    """
    source = Path(__file__)
    if not _output("git", "-C", str(source.parent), "ls-files", "--error-unmatch", source.name):
        return _commit_of_version(installed_versions().get("prelar-ray", ""))  # maybe inside another's repository
    return _output("git", "-C", str(source.parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _commit_of_version(text: str) -> str | None:
    """Return the commit in a version as ``make wheel`` makes them.

    That is ``0.1.0+g0123456789ab``, with ``.dirty.d01234567`` where the tree was changed: a digest of the changes.
    """
    label = text.partition("+g")[2]
    return label.replace(".", "-") or None


def _hardware() -> dict[str, Any]:
    gpus = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return {
        "cpu": _cpu_name(),
        "instructions": _instructions(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": gpus.splitlines() if gpus else [],
    }


def _cpu_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _instructions() -> list[str]:
    """Return the :data:`INSTRUCTIONS` that this CPU supports."""
    flags = _cpu_info("flags").split()
    return [name for name in INSTRUCTIONS if name in flags]


def _cpu_info(key: str) -> str:
    """Return the value of a key for the first core; empty if unknown."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""


def _output(*command: str) -> str | None:
    """Return the output of a command, or None if it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
