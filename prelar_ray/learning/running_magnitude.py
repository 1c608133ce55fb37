"""Running magnitude that normalises bonuses and imagined rewards."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prelar_ray.learning.ranks import ALONE, Ranks

__all__ = ["RunningMagnitude"]


class RunningMagnitude(nn.Module):
    """Divides by an exponential moving average of magnitudes, kept in float64."""

    magnitude: Tensor

    def __init__(self, momentum: float, scale: float = 1.0, eps: float = 1e-8, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.momentum, self.scale, self.eps, self.ranks = momentum, scale, eps, ranks
        self.register_buffer("magnitude", torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Update the magnitude with ``mean|x|`` of all ranks, then return ``x / magnitude * scale``, any shape."""
        mean = self.ranks.mean(x.detach().abs().mean()).double()
        self.magnitude.mul_(self.momentum).add_(mean, alpha=1 - self.momentum)
        return x / (self.magnitude + self.eps).to(x.dtype) * self.scale
