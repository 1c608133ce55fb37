"""Means of metrics, kept on the device until they are read."""

from __future__ import annotations

import torch
from torch import Tensor

from prelar_ray.errors import NonFiniteError

__all__ = ["RunningMean"]


class RunningMean:
    """Accumulates scalars per update without a host sync; records which became non-finite first."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._count = 0
        self._sum = torch.zeros(0)
        self._first_bad = torch.zeros(0)

    def add(self, update: int, values: dict[str, Tensor]) -> None:
        """Add the scalars of one update; the names must not change between reads."""
        stacked = torch.stack([value.detach().float() for value in values.values()])
        if not self._count:
            self._names = list(values)
            self._sum = torch.zeros_like(stacked)
            self._first_bad = torch.full_like(stacked, torch.inf)
        self._sum += stacked
        self._first_bad.masked_fill_(~stacked.isfinite() & self._first_bad.isinf(), update)
        self._count += 1

    def check(self) -> None:
        """Check that all scalars since the last read were finite.

        Raises:
            NonFiniteError: a scalar was NaN or infinite; names the first one and its update.
        """
        first = self._first_bad.tolist() if self._count else []
        if min(first, default=float("inf")) < float("inf"):
            # Names are in order of computation, so the first of one update is the cause.
            worst = min(range(len(first)), key=first.__getitem__)
            raise NonFiniteError(
                f"update {int(first[worst])}: {self._names[worst]} is not finite. The last checkpoint is intact; "
                "lower the learning rate or look at the data of this run"
            )

    def read(self) -> dict[str, float]:
        """Return the means since the last read and reset; empty if nothing was added.

        Raises:
            NonFiniteError: see :meth:`check`.
        """
        self.check()
        means = (self._sum / max(self._count, 1)).tolist()
        names = self._names if self._count else []
        self._count = 0
        return dict(zip(names, means[: len(names)], strict=True))
