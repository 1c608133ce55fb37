"""Batch normalisation with the statistics of the rows of all ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prelar_ray.learning.ranks import Ranks
from prelar_ray.models.layers import full_precision

__all__ = ["SynchronisedBatchNorm2d", "synchronise_norms"]


def synchronise_norms(model: nn.Module, ranks: Ranks) -> None:
    """Make every batch norm of ``model`` use statistics of all ranks, in place; parameters and names are unchanged."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SynchronisedBatchNorm2d
            module.ranks = ranks  # type: ignore[assignment]


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over ranks on any device (torch's own needs a GPU); exchanges 2 numbers per channel."""

    ranks: Ranks

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, h, w) -> (N, C, h, w)``, N rows on every rank."""
        if not self.training:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            wide = full_precision(x)
            own = torch.stack(torch.var_mean(wide, dim=(0, 2, 3), correction=0))
            variances, means = _gathered(own, self.ranks).unbind(1)  # (ranks, C) each
            mean = means.mean(0)
            variance = (variances + (means - mean).square()).mean(0)
            self._track(mean.detach(), variance.detach(), wide.numel() // wide.shape[1] * self.ranks.size)
            scale = self.weight * torch.rsqrt(variance + self.eps)
            shape = (1, -1, 1, 1)
            out = wide * scale.view(shape) + (self.bias - mean * scale).view(shape)
        return out.to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var.dtype), self.momentum)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.sum(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.sum(gradient), None


def _gathered(x: Tensor, ranks: Ranks) -> Tensor:
    """Stack ``x`` of all ranks, ``(ranks, *x.shape)``; gradients include those of all ranks' losses."""
    rows = [torch.zeros_like(x)] * ranks.size
    rows[ranks.rank] = x
    total: Tensor = _Sum.apply(torch.stack(rows), ranks)  # type: ignore[no-untyped-call]
    return total
