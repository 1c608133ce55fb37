"""The learners of a run as one: a call goes to every rank, and its outcome is that of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prelar_ray.errors import PrelarError, RoleDied
from prelar_ray.training.backend import Backend, Role

__all__ = ["LearnerGroup"]

POLL_SECONDS = 1.0
AFTERMATH_SECONDS = 10.0
"""How long to look for the rank that died once another one failed, as those that wait for it do."""


class LearnerGroup:
    """Ranks behind one set of calls; the first of them writes checkpoints and publishes weights."""

    def __init__(self, backend: Backend, ranks: int, role: Callable[..., Any], *args: Any) -> None:
        """Start ``role(*args, rank)`` for every rank, and bring them together.

        Raises:
            RoleDied: one of them died meanwhile.
        """
        self.backend = backend
        names = ["learner"] if ranks == 1 else [f"learner-{rank}" for rank in range(ranks)]
        self.roles: list[Role] = [backend.start(name, role, *args, rank) for rank, name in enumerate(names)]
        if ranks > 1:
            address = backend.get(self.roles[0].call("meeting_point"))
            self.get(self.call("join", address))

    def call(self, method: str, *args: Any) -> list[Any]:
        """Ask every rank for ``method(*args)``; returns a future for each."""
        return [role.call(method, *args) for role in self.roles]

    def call_first(self, method: str, *args: Any) -> Any:
        """Ask the first rank alone; returns its future."""
        return self.roles[0].call(method, *args)

    def call_with_rows(self, method: str, shares: Sequence[Sequence[Any]]) -> list[Any]:
        """Ask every rank for ``method(*parts of its share)``."""
        return [role.call(method, *parts) for role, parts in zip(self.roles, shares, strict=True)]

    def get(self, futures: Sequence[Any]) -> list[Any]:
        """Return the values of one call's futures.

        Raises:
            RoleDied: a rank's process ended; what the others raised because of it is left aside.
        """
        pending = list(futures)
        while pending:
            for future in self.backend.wait(pending, POLL_SECONDS):
                pending.remove(future)
                try:
                    self.backend.get(future)
                except PrelarError:
                    raise
                except Exception as error:
                    raise self._death(pending) or error from error
        return [self.backend.get(future) for future in futures]

    def _death(self, pending: Sequence[Any]) -> RoleDied | None:
        for future in self.backend.wait(pending, AFTERMATH_SECONDS) if pending else ():
            try:
                self.backend.get(future)
            except RoleDied as death:
                return death
            except Exception:  # it failed because of the same death
                continue
        return None

    def initialise(self, path: Path) -> None:
        """Take over a pre-training checkpoint on every rank."""
        self.get(self.call("initialise", path))

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint on every rank."""
        self.get(self.call("restore", path))

    def metrics(self) -> dict[str, float]:
        """Means over ranks since the last call.

        Raises:
            NonFiniteError: one of them was NaN or infinite.
        """
        found: list[Mapping[str, float]] = self.get(self.call("metrics"))
        return {name: sum(values[name] for values in found) / len(found) for name in found[0]}

    def save(self, counters: dict[str, Any]) -> int:
        """Begin to write a checkpoint and return its update; every rank adds what it alone knows.

        Raises:
            NonFiniteError, RanksDiverged: the parameters are not worth saving; nothing is written.
            CheckpointError: the one before could not be written.
        """
        update: int = self.get(self.call("save", counters))[0]
        return update

    def saved(self) -> None:
        """Wait until the checkpoint begun last is on disk.

        Raises:
            CheckpointError: it cannot be written; those before are intact.
        """
        self.get([self.call_first("saved")])
