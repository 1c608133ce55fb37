"""Running range of returns, by which the actor's loss divides them (Hafner et al. 2023, DreamerV3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prelar_ray.learning.ranks import ALONE, Ranks

__all__ = ["ReturnRange"]

LOW, HIGH = 0.05, 0.95


class ReturnRange(nn.Module):
    """Exponential moving average S of the range from the 5th to the 95th percentile of returns, kept in float64.

    ``S <- m S + (1 - m) (Per(V, 95) - Per(V, 5))`` from S = 0, and the scale is ``max(1, S)``: large returns are scaled
    down to the size of the entropy bonus, whereas small ones, which may be noise, are not scaled up.
    """

    range: Tensor

    def __init__(self, momentum: float, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.momentum, self.ranks = momentum, ranks
        self.register_buffer("range", torch.zeros((), dtype=torch.float64))

    def forward(self, returns: Tensor) -> Tensor:
        """Update the range with the returns of all ranks, any shape, and return the scale, a scalar."""
        # Sorted once for both; torch.quantile would ask the host whether its quantiles are between 0 and 1.
        ordered = self.ranks.gather(returns.detach().flatten()).sort().values.double()
        self.range.lerp_(_quantile(ordered, HIGH) - _quantile(ordered, LOW), 1 - self.momentum)
        return self.range.clamp_min(1).to(returns.dtype)


def _quantile(ordered: Tensor, share: float) -> Tensor:
    """Interpolate linearly between the two nearest of sorted numbers ``(N,)``: a scalar."""
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], position - below)
