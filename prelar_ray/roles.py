"""Which process of a run: the ids that backends, resources, logs and errors know roles by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["RoleId", "RoleKind"]

RoleKind = Literal["collector", "evaluator", "learner", "replay", "algorithm", "env-runner", "trial"]
"""What a process of a run does; the last three are those of an RLlib algorithm and of a trial of Ray Tune."""


@dataclass(frozen=True)
class RoleId:
    """A collector, a learner rank, a replay shard, ..."""

    kind: RoleKind
    index: int | None = None  # None where a run has one of the kind

    def __str__(self) -> str:
        return self.kind if self.index is None else f"{self.kind}-{self.index}"

    @classmethod
    def several(cls, kind: RoleKind, count: int) -> list[RoleId]:
        """Ids of ``count`` roles of a kind; one alone has no index."""
        return [cls(kind)] if count == 1 else [cls(kind, index) for index in range(count)]
