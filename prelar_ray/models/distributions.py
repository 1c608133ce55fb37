"""Distributions of the model: groups of categoricals, diagonal Gaussians, and those of actions.

They are functions on tensors rather than objects of ``torch.distributions``: each takes few kernels and can be traced.
Every sampler takes its noise as a tensor, and returns the mode if it is None: the caller controls randomness.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "OneHotCategoricals",
    "TruncatedNormal",
    "categorical_entropy",
    "categorical_kl",
    "gaussian_kl",
    "mix_uniform",
    "sample_one_hot",
]


def sample_one_hot(logits: Tensor, gumbel: Tensor | None) -> Tensor:
    """Sample one-hot vectors with straight-through gradients.

    Args:
        logits: ``(..., S, K)``, not normalised.
        gumbel: standard Gumbel noise of the same shape; None takes the most likely class.

    Returns:
        ``(..., S, K)``, one-hot in the forward pass, with the gradient of the probabilities.
    """
    index = (logits if gumbel is None else logits + gumbel).argmax(dim=-1, keepdim=True)
    probabilities = logits.softmax(dim=-1)
    one_hot = torch.zeros_like(probabilities).scatter_(-1, index, 1.0)
    return one_hot + (probabilities - probabilities.detach())


def mix_uniform(logits: Tensor, mix: float) -> Tensor:
    """Mix categoricals with the uniform distribution: logits of (1 - mix) softmax(logits) + mix / K.

    No class is then less likely than mix / K, which bounds KL divergences and keeps gradients finite.

    Args:
        logits: ``(..., K)``.
        mix: share of the uniform distribution in [0, 1); 0 returns ``logits`` as they are.
    """
    if not mix:
        return logits
    return ((1 - mix) * logits.softmax(dim=-1) + mix / logits.shape[-1]).log()


def categorical_kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """KL(p || q) summed over groups, nats: ``(..., S, K) -> (...)``."""
    p, q = F.log_softmax(p_logits, dim=-1), F.log_softmax(q_logits, dim=-1)
    return (p.exp() * (p - q)).sum(dim=(-2, -1))


def categorical_entropy(logits: Tensor) -> Tensor:
    """Entropy summed over groups, nats: ``(..., S, K) -> (...)``."""
    p = F.log_softmax(logits, dim=-1)
    return -(p.exp() * p).sum(dim=(-2, -1))


def gaussian_kl(p_mean: Tensor, p_std: Tensor, q_mean: Tensor, q_std: Tensor) -> Tensor:
    """KL(p || q) of diagonal Gaussians summed over dimensions, nats: ``(..., L) -> (...)``."""
    ratio = (p_std / q_std).square()
    distance = ((p_mean - q_mean) / q_std).square()
    return 0.5 * (ratio + distance - 1 - ratio.log()).sum(dim=-1)


class TruncatedNormal(NamedTuple):
    """Normal truncated to [-1, 1], independent over dimensions, the policy; both fields are ``(..., A)``."""

    loc: Tensor
    scale: Tensor

    @classmethod
    def stack(cls, policies: Sequence[Any]) -> Self:
        """Stack H policies of ``(N, A)`` to one of ``(H, N, A)``."""
        return cls(*(torch.stack(part) for part in zip(*policies, strict=True)))

    @property
    def mode(self) -> Tensor:
        """Most likely action, ``(..., A)``."""
        return self.loc.clamp(-1.0, 1.0)

    @property
    def mean(self) -> Tensor:
        """Expected action, ``(..., A)``."""
        a, b = self._bounds()
        _, z = self._mass()
        return self.loc + self.scale * (_phi(a) - _phi(b)) / z

    @property
    def variance(self) -> Tensor:
        """Variance of each dimension, ``(..., A)``."""
        a, b = self._bounds()
        _, z = self._mass()
        edge = (b * _phi(b) - a * _phi(a)) / z
        return self.scale.square() * (1 - edge - ((_phi(a) - _phi(b)) / z).square())

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density of ``action`` in [-1, 1], summed over dimensions, nats: ``(..., A) -> (...)``."""
        _, z = self._mass()
        distance = ((action - self.loc) / self.scale).square()
        return -(0.5 * (distance + math.log(2 * math.pi)) + self.scale.log() + z.log()).sum(dim=-1)

    def sample(self, uniform: Tensor | None) -> Tensor:
        """Reparameterised sample by the inverse CDF, ``(..., A)``.

        Args:
            uniform: numbers in (0, 1) of the same shape; None takes the mode.

        The result is clipped just inside the interval with a straight-through gradient, as published.
        """
        value = self.mode if uniform is None else self.icdf(uniform)
        bound = 1.0 - 1e-6
        return value + (value.clamp(-bound, bound) - value).detach()

    def icdf(self, probability: Tensor) -> Tensor:
        """Quantile of ``probability`` in (0, 1), ``(..., A)``."""
        eps = torch.finfo(self.loc.dtype).eps
        probability = probability.clamp(eps, 1 - eps)
        low, z = self._mass()
        quantile = (low + probability * z).clamp(eps, 1 - eps)
        return self.loc + self.scale * math.sqrt(2.0) * torch.erfinv(2 * quantile - 1)

    def entropy(self) -> Tensor:
        """Differential entropy summed over dimensions, nats: ``(..., A) -> (...)``."""
        a, b = self._bounds()
        _, z = self._mass()
        edge = (b * _phi(b) - a * _phi(a)) / z
        return (0.5 * math.log(2 * math.pi * math.e) + z.log() + self.scale.log() - 0.5 * edge).sum(dim=-1)

    def _bounds(self) -> tuple[Tensor, Tensor]:
        return (-1.0 - self.loc) / self.scale, (1.0 - self.loc) / self.scale

    def _mass(self) -> tuple[Tensor, Tensor]:
        """CDF of the untruncated normal at -1, and its mass inside [-1, 1]."""
        a, b = self._bounds()
        low = _cdf(a)
        return low, (_cdf(b) - low).clamp_min(torch.finfo(self.loc.dtype).eps)


class OneHotCategoricals(NamedTuple):
    """A categorical for each factor, independent of the others; actions are one-hot vectors one after another."""

    logits: Tensor
    """Not normalised, ``(..., A)``."""
    sizes: tuple[int, ...]
    """Choices of each factor; they sum to A."""

    @classmethod
    def stack(cls, policies: Sequence[Any]) -> Self:
        """Stack H policies of ``(N, A)`` to one of ``(H, N, A)``."""
        return cls(torch.stack([policy.logits for policy in policies]), policies[0].sizes)

    def sample(self, uniform: Tensor | None) -> Tensor:
        """One-hot sample with the gradient of the probabilities (straight-through), ``(..., A)``.

        Args:
            uniform: numbers in [0, 1) of the same shape; None takes the mode.
        """
        gumbel = None if uniform is None else -torch.log(-torch.log(uniform))
        noise = [None] * len(self.sizes) if gumbel is None else gumbel.split(self.sizes, dim=-1)
        return torch.cat([sample_one_hot(*factor) for factor in zip(self._factors(), noise, strict=True)], dim=-1)

    def entropy(self) -> Tensor:
        """Entropy summed over factors, nats: ``(..., A) -> (...)``."""
        return torch.stack([categorical_entropy(part.unsqueeze(-2)) for part in self._factors()]).sum(dim=0)

    def _factors(self) -> tuple[Tensor, ...]:
        return self.logits.split(self.sizes, dim=-1)


def _cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2.0)))


def _phi(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)
