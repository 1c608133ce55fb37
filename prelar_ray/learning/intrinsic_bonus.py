"""Video-based intrinsic bonus (APV): reward for short windows that differ from recent ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prelar_ray.config import BonusConfig
from prelar_ray.learning.ranks import ALONE, Ranks
from prelar_ray.learning.running_magnitude import RunningMagnitude

__all__ = ["IntrinsicBonus", "nearest_distances", "windows_in_episodes"]

CANDIDATES = 2
"""Candidates per neighbour whose exact distance is computed."""


class IntrinsicBonus(nn.Module):
    """Mean distance of projected embedding windows to their nearest neighbours in a queue of recent windows."""

    projection: Tensor
    queue: Tensor
    filled: Tensor

    def __init__(self, embed: int, config: BonusConfig, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.config, self.ranks = config, ranks
        self.register_buffer("projection", torch.randn(embed, config.projection) / config.projection)
        self.register_buffer("queue", torch.zeros(config.queue, config.projection))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.normaliser = RunningMagnitude(config.momentum, ranks=ranks)

    @torch.no_grad()
    def forward(self, embed: Tensor, steps: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the bonus of the window that starts at each of the first steps.

        The windows of all ranks enter the queue, in order of rank.

        Args:
            embed: ``(B, T, E)``.
            steps: of the windows, ``(B, T', window)``; None for the T - window + 1 that are whole, as published.

        Returns:
            Normalised and raw bonus, each ``(B, T')``. The neighbours of a window include itself, as published.
        """
        embed = embed.to(self.projection.dtype)
        if steps is None:
            windows = embed.unfold(1, self.config.window, 1).mean(dim=-1)  # (B, T', E)
        else:
            windows = embed[torch.arange(len(embed), device=embed.device).view(-1, 1, 1), steps].mean(dim=2)
        with torch.autocast(embed.device.type, enabled=False):  # distances of near neighbours need all digits
            rows = (windows @ self.projection).flatten(0, 1)
            recent = self.ranks.gather(rows)
            self.queue.copy_(torch.cat([recent, self.queue])[: len(self.queue)])
            self.filled.add_(len(recent)).clamp_(max=len(self.queue))
            empty = torch.arange(len(self.queue), device=rows.device) >= self.filled
            nearest = nearest_distances(rows, self.queue, empty, self.config.neighbours)
        valid = nearest.isfinite()
        raw = nearest.masked_fill(~valid, 0).sum(-1) / valid.sum(-1)
        raw = raw.unflatten(0, windows.shape[:2])
        return self.config.weight * self.normaliser(raw), raw


def windows_in_episodes(is_first: Tensor, window: int) -> Tensor:
    """Return the steps of the window from each step on: it stands still at the last step of its episode.

    Args:
        is_first: ``(B, T)``.
        window: steps W.

    Returns:
        Indices in ``0 ... T-1``, ``(B, T, W)``.
    """
    steps = torch.arange(is_first.shape[1], device=is_first.device)
    is_last = F.pad(is_first[:, 1:], (0, 1), value=1.0) > 0
    last = torch.where(is_last, steps, len(steps)).flip(1).cummin(dim=1).values.flip(1)  # (B, T), of the same episode
    return torch.minimum(steps.unsqueeze(-1) + torch.arange(window, device=steps.device), last.unsqueeze(-1))


def nearest_distances(rows: Tensor, others: Tensor, ignored: Tensor, count: int) -> Tensor:
    """Return the Euclidean distances of each row to the ``count`` nearest others.

    Matrix products find candidates fast, but lose the digits that matter between near neighbours; exact differences of
    the candidates alone have them.

    Args:
        rows: ``(N, P)``.
        others: ``(Q, P)``.
        ignored: ``(Q,)``, true for others that do not count: their distances are infinite.
        count: neighbours k, at most Q.

    Returns:
        ``(N, k)``, ascending.
    """
    centre = rows.mean(0)  # distances stay, norms shrink, and with them the rounding of products
    near, far = rows - centre, others - centre
    squares = far.square().sum(1).masked_fill(ignored, torch.inf)
    ranked = torch.addmm(squares, near, far.T, alpha=-2)  # squared distances less each row's own norm
    candidates = ranked.topk(min(CANDIDATES * count, len(others)), largest=False, sorted=False).indices
    exact = torch.linalg.vector_norm(rows.unsqueeze(1) - others[candidates], dim=-1)
    return exact.masked_fill(ignored[candidates], torch.inf).topk(count, largest=False).values
