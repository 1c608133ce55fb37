"""The discount head: whether an episode continues after a state."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from prelar_ray.models.layers import MLP, full_precision

__all__ = ["DiscountHead"]


class DiscountHead(MLP):
    """Bernoulli head: probability that the episode continues after a state, ``(..., F) -> (...)``."""

    def logit(self, feature: Tensor) -> Tensor:
        """Return the log-odds of continuing, ``(..., F) -> (...)``."""
        return full_precision(self.out(self.hidden(feature)).squeeze(-1))

    def forward(self, feature: Tensor) -> Tensor:
        """Return the probability, ``(..., F) -> (...)``."""
        return self.logit(feature).sigmoid()

    def loss(self, feature: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Compare the prediction with ``target`` ``(...)``: 1 where the episode continues, 0 where it terminated.

        Returns:
            The negative log-likelihood, nats, and the probability without gradient, both ``(...)``.
        """
        logit = self.logit(feature)
        return F.binary_cross_entropy_with_logits(logit, target, reduction="none"), logit.detach().sigmoid()
