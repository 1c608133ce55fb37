"""Random numbers of an update, from one source that can be saved, restored or switched off."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Deterministic", "Noise"]


class Noise:
    """Random draws from a separate generator on the learner's device; only dropout uses torch's."""

    def __init__(self, seed: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def _empty(self, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def gumbel(self, *shape: int) -> Tensor | None:
        """Standard Gumbel noise for categorical samples."""
        return self._empty(shape).exponential_(generator=self.generator).log_().neg_()

    def normal(self, *shape: int) -> Tensor | None:
        """Standard normal noise for Gaussian samples."""
        return self._empty(shape).normal_(generator=self.generator)

    def uniform(self, *shape: int) -> Tensor | None:
        """Uniform numbers in [0, 1) for inverse-CDF samples."""
        return self._empty(shape).uniform_(generator=self.generator)

    def derangement(self, n: int) -> Tensor:
        """Permutation of ``n >= 2`` rows without a fixed point: a random cycle."""
        order = torch.randperm(n, generator=self.generator, device=self.device)
        permutation = torch.empty_like(order)
        return permutation.scatter_(0, order, order.roll(-1))

    def state_dict(self) -> dict[str, Tensor]:
        """States of the generator and of torch's, which dropout uses; uint8."""
        shared = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else torch.get_rng_state()
        return {"generator": self.generator.get_state(), "shared": shared}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue the sequence where :meth:`state_dict` was taken."""
        self.generator.set_state(state["generator"].cpu())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["shared"].cpu(), self.device)
        else:
            torch.set_rng_state(state["shared"].cpu())


class Deterministic(Noise):
    """No randomness: samples are modes, and the batch permutation is given or a rotation by one row."""

    def __init__(self, permutation: Tensor | None = None) -> None:
        super().__init__(0)
        self.permutation = permutation

    def gumbel(self, *shape: int) -> Tensor | None:
        """None: samplers take the mode."""
        return None

    normal = uniform = gumbel

    def derangement(self, n: int) -> Tensor:
        """The injected permutation."""
        return torch.arange(n).roll(-1) if self.permutation is None else self.permutation
