"""Scalars as distributions over bins: two-hot targets in symlog space (Hafner et al. 2023, DreamerV3).

The loss of a target does not grow with its magnitude, so that rewards and returns of any scale are learnt alike. There
are K = 255 bins at b_k = -20 ... 20, evenly spaced, in the space of symlog(y) = sgn(y) ln(1 + |y|), which reaches up to
|y| = e^20. Memory and time are those of K numbers per prediction.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from prelar_ray.config import MLPConfig, ScalarDistribution
from prelar_ray.models.layers import MLP, ZeroLinear, full_precision

__all__ = ["BINS", "LIMIT", "TwoHotMLP", "expectation", "neighbours", "scalar_head", "symexp", "symlog", "two_hot_loss"]

LIMIT = 20.0
"""Largest bin, in symlog space."""
_HALF = 127
"""Bins on either side of zero."""
BINS = 2 * _HALF + 1
"""Number K of bins; odd, so that zero is one of them."""


def symlog(x: Tensor) -> Tensor:
    """sgn(x) ln(1 + abs(x)), any shape."""
    return torch.sign(x) * torch.log1p(x.abs())


def symexp(x: Tensor) -> Tensor:
    """Inverse of :func:`symlog`, sgn(x) (exp(abs(x)) - 1), any shape; its derivative is 1 at zero."""
    return torch.where(x < 0, -torch.expm1(-x), torch.expm1(x))


def neighbours(target: Tensor) -> tuple[Tensor, Tensor]:
    """Find the two bins between which targets lie.

    Returns:
        Indices ``(..., 2)`` of the bins, the one nearer to zero first, and their weights ``(..., 2)``, which are not
        negative, sum to 1 and average the bins to symlog(target). Targets beyond the last bin count as that bin.
    """
    position = symlog(target).clamp(-LIMIT, LIMIT) * (_HALF / LIMIT)  # in bins from zero
    inner = position.trunc().clamp(1 - _HALF, _HALF - 1)
    share = (position - inner).abs()
    index = torch.stack([inner, inner + torch.sign(position)], dim=-1).long() + _HALF
    # NaN has no index, but may not reach beyond the last one: its weights are NaN, which reports it.
    return index.clamp(0, BINS - 1), torch.stack([1 - share, share], dim=-1)


def two_hot_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the two-hot target, -sum_k w_k ln softmax(logits)_k: ``(..., K), (...) -> (...)``, nats.

    A target that is not finite gives NaN.
    """
    index, weight = neighbours(target)
    loss = -(weight * F.log_softmax(logits, dim=-1).gather(-1, index)).sum(dim=-1)
    return loss + (target - target)


def expectation(logits: Tensor) -> Tensor:
    """Predicted scalar, symexp(sum_k softmax(logits)_k b_k): ``(..., K) -> (...)``.

    The mean is taken in symlog space, where every bin has a bounded share in the gradient that reaches the actor
    through predicted rewards and values: among e^20 and its likes, a probability of 1e-6 would decide. Bins are summed
    together with their mirror images, (p_k - p_-k) b_k over k > 0: exactly zero for logits that are symmetric.
    """
    probability = logits.softmax(dim=-1)
    excess = probability[..., _HALF + 1 :] - probability[..., :_HALF].flip(-1)
    bins = torch.linspace(LIMIT / _HALF, LIMIT, _HALF, dtype=logits.dtype, device=logits.device)
    return symexp((excess * bins).sum(dim=-1))


class TwoHotMLP(MLP):
    """Scalar head that predicts logits of bins; the last layer starts at zero, and with it every prediction."""

    def __init__(self, inputs: int, config: MLPConfig) -> None:
        super().__init__(inputs, config)
        self.out = ZeroLinear(config.units, BINS)

    def logits(self, feature: Tensor) -> Tensor:
        """Return the logits, ``(..., F) -> (..., K)``."""
        return full_precision(self.out(self.hidden(feature)))

    def forward(self, feature: Tensor) -> Tensor:
        """Return the :func:`expectation`, ``(..., F) -> (...)``."""
        return expectation(self.logits(feature))

    def loss(self, feature: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the :func:`two_hot_loss` ``(...)`` of ``target``, and the predictions ``(...)`` without gradient."""
        logits = self.logits(feature)
        return two_hot_loss(logits, target), expectation(logits.detach())


def scalar_head(inputs: int, config: MLPConfig, distribution: ScalarDistribution) -> MLP:
    """Build a head from features ``(..., inputs)`` to scalars ``(...)``."""
    return TwoHotMLP(inputs, config) if distribution == "two_hot" else MLP(inputs, config)
