"""What an algorithm and its env runners may use, and who watches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

__all__ = ["Place", "Share"]


class Share(Protocol):
    """Logical resources of one process."""

    @property
    def cpus(self) -> float:
        """CPUs."""

    @property
    def gpus(self) -> float:
        """GPUs, or the share of one."""


class Place(Protocol):
    """A Ray that this process is connected to."""

    @property
    def algorithm(self) -> Share:
        """Of the process that holds the algorithm: this one."""

    @property
    def env_runner(self) -> Share:
        """Of each process that steps environments."""

    def report(self, values: Mapping[str, float]) -> None:
        """Show metrics to those who watch the cluster."""

    def close(self) -> None:
        """End Ray, or the connection to it."""
