"""Video-based intrinsic bonus (APV): reward for short clips unlike recent ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prelar_ray.config.schema import BonusConfig
from prelar_ray.learning.running_magnitude import RunningMagnitude

__all__ = ["IntrinsicBonus"]


class IntrinsicBonus(nn.Module):
    """Mean distance of projected windows of embeddings to their nearest neighbours in a queue of recent ones."""

    projection: Tensor
    queue: Tensor
    filled: Tensor

    def __init__(self, embed: int, config: BonusConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("projection", torch.randn(embed, config.projection) / config.projection)
        self.register_buffer("queue", torch.zeros(config.queue, config.projection))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.normaliser = RunningMagnitude(config.momentum)

    @torch.no_grad()
    def forward(self, embed: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bonus of the window that starts at each of the first steps, and put the windows into the queue.

        Args:
            embed: ``(B, T, E)``.

        Returns:
            Normalised and raw bonus, each ``(B, T - window + 1)``. Each window finds itself among its neighbours,
            as published.
        """
        windows = embed.to(self.projection.dtype).unfold(1, self.config.window, 1).mean(dim=-1)  # (B, T-window+1, E)
        with torch.autocast(embed.device.type, enabled=False):  # distances of near neighbours need all digits
            rows = (windows @ self.projection).flatten(0, 1)
        self.queue.copy_(torch.cat([rows, self.queue])[: len(self.queue)])
        self.filled.add_(len(rows)).clamp_(max=len(self.queue))
        # The matrix-product form of the distance loses the digits that matter between near neighbours.
        distance = torch.cdist(rows, self.queue, compute_mode="donot_use_mm_for_euclid_dist")
        empty = torch.arange(len(self.queue), device=rows.device) >= self.filled
        nearest = distance.masked_fill(empty, torch.inf).topk(self.config.neighbours, dim=-1, largest=False).values
        valid = nearest.isfinite()
        raw = nearest.masked_fill(~valid, 0).sum(-1) / valid.sum(-1)
        raw = raw.unflatten(0, windows.shape[:2])
        return self.config.weight * self.normaliser(raw), raw
