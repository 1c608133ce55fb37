"""Distributions of a latent action, which an inverse dynamics encoder infers from two frames.

All have the same interface, so that losses and diagnostics are independent of the type: ``point`` (the mode),
``sample``, ``kl`` to the prior, ``distances`` to other rows of the batch, and ``spread``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from prelar_ray.models.distributions import categorical_entropy, categorical_kl, gaussian_kl, sample_one_hot
from prelar_ray.models.noise import Noise

__all__ = ["CategoricalAction", "DeterministicAction", "GaussianAction", "LatentAction"]


class GaussianAction(NamedTuple):
    """Diagonal Gaussian, the paper's; both fields are ``(..., L)``."""

    mean: Tensor
    std: Tensor

    @property
    def point(self) -> Tensor:
        """``(..., L)``."""
        return self.mean

    @property
    def spread(self) -> Tensor:
        """Standard deviation, ``(..., L)``."""
        return self.std

    def sample(self, noise: Noise) -> Tensor:
        """Reparameterised sample, ``(..., L)``; the mean where ``noise`` is deterministic."""
        normal = noise.normal(*self.mean.shape)
        return self.mean if normal is None else self.mean + self.std * normal

    def kl(self, prior_std: float = 1.0) -> Tensor:
        """KL to N(0, prior_std^2) per dimension, nats: ``(..., L)``, Eq. (9)."""
        zero = self.mean.new_zeros(())
        return gaussian_kl(self.mean.unsqueeze(-1), self.std.unsqueeze(-1), zero, zero + prior_std)

    def distances(self, permutation: Tensor) -> Tensor:
        """KL[own || row ``permutation[b]``], nats: ``(B, T-1, L) -> (B, T-1)``."""
        return gaussian_kl(self.mean, self.std, self.mean[permutation], self.std[permutation])


class DeterministicAction(NamedTuple):
    """A value without distribution, ``(..., L)``; it has no KL, and its distances are Euclidean."""

    point: Tensor

    @property
    def spread(self) -> Tensor:
        """Zero."""
        return self.point.new_zeros(())

    def sample(self, noise: Noise) -> Tensor:
        """The value."""
        return self.point

    def kl(self, prior_std: float = 1.0) -> Tensor:
        """Zero per dimension."""
        return self.point.new_zeros(self.point.shape)

    def distances(self, permutation: Tensor) -> Tensor:
        """Half the squared distance, which is the KL of unit Gaussians: ``(B, T-1, L) -> (B, T-1)``."""
        return 0.5 * (self.point - self.point[permutation]).square().sum(-1)


class CategoricalAction(NamedTuple):
    """Groups of categoricals with straight-through samples, ``(..., G, C)``: a latent action of G*C one-hots."""

    logits: Tensor

    @property
    def point(self) -> Tensor:
        """One-hots of the most likely classes, ``(..., G*C)``."""
        return sample_one_hot(self.logits, None).flatten(-2)

    @property
    def spread(self) -> Tensor:
        """Perplexity per group, from 1 (certain) to C (uniform): ``(..., G)``."""
        return categorical_entropy(self.logits.unsqueeze(-2)).exp()

    def sample(self, noise: Noise) -> Tensor:
        """One-hots with the gradient of the probabilities, ``(..., G*C)``."""
        return sample_one_hot(self.logits, noise.gumbel(*self.logits.shape)).flatten(-2)

    def kl(self, prior_std: float = 1.0) -> Tensor:
        """KL to the uniform distribution per group, nats: ``(..., G)``; ``prior_std`` is ignored."""
        return math.log(self.logits.shape[-1]) - categorical_entropy(self.logits.unsqueeze(-2))

    def distances(self, permutation: Tensor) -> Tensor:
        """KL[own || row ``permutation[b]``] over all groups, nats: ``(B, T-1, G, C) -> (B, T-1)``."""
        return categorical_kl(self.logits, self.logits[permutation])


LatentAction = GaussianAction | DeterministicAction | CategoricalAction
