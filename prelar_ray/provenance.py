"""Where a number comes from: versions, commit and hardware, kept with every run and every benchmark."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["PACKAGES", "provenance"]

PACKAGES = ("prelar-ray", "torch", "ray", "mujoco", "metaworld", "gymnasium", "dm_control", "numpy")
"""Distributions whose versions are recorded."""


def provenance() -> dict[str, Any]:
    """Return ``versions``, ``commit`` and ``hardware`` of this process, JSON-able."""
    return {"versions": _versions(), "commit": _commit(), "hardware": _hardware()}


def _versions() -> dict[str, str]:
    """Versions without importing anything; packages that are not installed are left out."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _commit() -> str | None:
    """Commit of the source tree, ``-dirty`` if it was changed since; None outside a tree that tracks this package."""
    source = Path(__file__)
    if not _output("git", "-C", str(source.parent), "ls-files", "--error-unmatch", source.name):
        return None  # installed into a folder of another project's repository, or no repository
    return _output("git", "-C", str(source.parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _hardware() -> dict[str, Any]:
    gpus = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": gpus.splitlines() if gpus else [],
    }


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _output(*command: str) -> str | None:
    """Return what a command prints, or None if it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
