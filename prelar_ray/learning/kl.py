"""Balanced KL of the latent dynamics, Eq. (6), and the KL of latent actions, Eq. (9)."""

from __future__ import annotations

import torch
from torch import Tensor

from prelar_ray.learning.ranks import ALONE, Ranks
from prelar_ray.models.distributions import categorical_kl
from prelar_ray.models.latent_action import LatentAction

__all__ = ["action_kl", "balanced_kl", "bounded_kl"]


def balanced_kl(
    posterior: Tensor,
    prior: Tensor,
    balance: float = 0.8,
    free_nats: float = 0.0,
    forward: bool = False,
    free_average: bool = True,
    ranks: Ranks = ALONE,
) -> tuple[Tensor, Tensor]:
    """KL[posterior || prior] with separate weights for the gradients of both, Eq. (6).

    Args:
        posterior, prior: logits ``(B, T, S, K)``.
        balance: share of the term that trains the prior; the rest trains the posterior.
        free_nats: floor below which a term has no gradient, nats.
        forward: KL[prior || posterior] instead, with ``balance`` the share of the posterior's term.
        free_average: apply the floor to the mean over (b, t) instead of to each element.
        ranks: group over whose rows the mean is taken if the floor applies to the mean.

    Returns:
        The loss, scalar, and the KL per step ``(B, T)``.
    """
    lhs, rhs = (prior, posterior) if forward else (posterior, prior)
    share = balance if forward else 1 - balance
    value = categorical_kl(lhs, rhs)
    floor = value.new_full((), free_nats)
    if balance == 0.5:
        return torch.maximum(value, floor).mean(), value
    trains_lhs = categorical_kl(lhs, rhs.detach())
    trains_rhs = categorical_kl(lhs.detach(), rhs)
    if free_average:
        loss_lhs = torch.maximum(ranks.mean(trains_lhs.mean()), floor)
        loss_rhs = torch.maximum(ranks.mean(trains_rhs.mean()), floor)
    else:
        loss_lhs = torch.maximum(trains_lhs, floor).mean()
        loss_rhs = torch.maximum(trains_rhs, floor).mean()
    return share * loss_lhs + (1 - share) * loss_rhs, value


def action_kl(latent: LatentAction, prior_std: float = 1.0) -> Tensor:
    """KL of latent actions to their prior, N(0, prior_std^2) or uniform, over all dimensions: ``(B, T-1)``, nats."""
    return latent.kl(prior_std).sum(dim=-1)


def bounded_kl(kl: Tensor, free_nats: float = 0.0, capacity: float = 0.0, ranks: Ranks = ALONE) -> Tensor:
    """Loss of the mean K of a KL that shall not vanish: ``max(K, free_nats)``, or ``|K - capacity|``; K without either.

    Args:
        kl: any shape, nats.
        free_nats: floor below which the mean has no gradient.
        capacity: value that the mean is drawn to from both sides (Burgess et al., 2018).
        ranks: group over whose rows the mean is taken.

    Returns:
        Scalar.
    """
    mean = kl.mean()
    if capacity:
        return (ranks.mean(mean) - capacity).abs()
    return ranks.mean(mean).clamp(min=free_nats) if free_nats else mean
