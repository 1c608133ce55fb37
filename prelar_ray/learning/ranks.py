"""Data-parallel learners: each rank computes some rows of every batch, and all hold the same parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from prelar_ray.errors import RanksDiverged

__all__ = ["ALONE", "Ranks"]


class Ranks:
    """One learner's view of its group; :data:`ALONE` is a group of one, whose methods do nothing.

    All methods are collective: every rank makes the same calls in the same order, with tensors of the same shape.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)

    @classmethod
    def join(cls, address: str, rank: int, size: int, device: torch.device, timeout: float = 600.0) -> Ranks:
        """Join the group of ``size`` processes at ``address``.

        Args:
            address: ``host:port`` of a ``torch.distributed.TCPStore`` that some process serves.

        Raises:
            torch.distributed.DistError: a process is missing after ``timeout`` seconds, the limit of later calls too.
        """
        backend = "nccl" if device.type == "cuda" else "gloo"
        limit = timedelta(seconds=timeout)
        host, _, port = address.rpartition(":")
        store = dist.TCPStore(host, int(port), is_master=False, timeout=limit)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, world_size=size, rank=rank, timeout=limit)
        return cls(dist.group.WORLD)

    def leave(self) -> None:
        """Leave the group."""
        if self.group is not None:
            dist.destroy_process_group(self.group)

    def sum(self, x: Tensor) -> Tensor:
        """Sum over ranks, without gradient; any shape."""
        if self.group is None:
            return x
        total = x.detach().clone()
        dist.all_reduce(total, group=self.group)
        return total

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean over ranks with the gradient of ``x``; averaged gradients are then those of the mean."""
        if self.group is None:
            return x
        return x + (self.sum(x) / self.size - x.detach())

    def mean_where(self, x: Tensor, counts: Tensor) -> Tensor:
        """Return the mean of ``x`` where ``counts`` is 1, both of any shape; its mean over ranks is that of all."""
        return (x * counts).sum() / self.mean(counts.sum()).clamp_min(1)

    def gather(self, x: Tensor) -> Tensor:
        """Concatenate the rows of all ranks in order of rank, ``(N, ...) -> (size*N, ...)``.

        Own rows keep their gradient, multiplied by ``size``; averaged gradients are then those of a loss of all rows.
        """
        if self.group is None:
            return x
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, x.detach().contiguous(), group=self.group)
        if x.requires_grad:
            parts[self.rank] = x + (self.size - 1) * (x - x.detach())
        return torch.cat(parts)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace the gradient of every parameter that has one by its mean over ranks."""
        if self.group is None:
            return
        gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        total = torch.cat([gradient.flatten() for gradient in gradients]).div_(self.size)
        dist.all_reduce(total, group=self.group)
        parts = total.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])

    def check_equal(self, tensors: Mapping[str, Tensor]) -> None:
        """Check that all ranks hold the same bits.

        Raises:
            RanksDiverged: they do not; names the first tensor.
        """
        if self.group is None:
            return
        sums = torch.stack([_bits(tensor) for tensor in tensors.values()])
        # Maxima of a checksum and of its complement over ranks: complements of each other only if all are equal.
        extremes = torch.stack([sums, ~sums])
        dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=self.group)
        different = (extremes[0] != ~extremes[1]).tolist()
        if any(different):
            name = list(tensors)[different.index(True)]
            raise RanksDiverged(f"learner ranks hold different {name}; the last checkpoint is intact: use --resume")


def _bits(x: Tensor) -> Tensor:
    """Return the checksum of a tensor's bytes, int64 scalar."""
    content: Any = x.detach().contiguous().view(-1).view(torch.uint8)
    place = torch.arange(len(content), device=x.device) % 8191 + 1  # so that a swap is seen as well
    return (content.long() * place).sum()


ALONE = Ranks()
"""The group of a single learner."""
