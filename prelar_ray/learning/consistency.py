"""Action-state consistency loss: latent actions far apart should drive states far apart, and the reverse."""

from __future__ import annotations

import torch
from torch import Tensor

from prelar_ray.models.distributions import categorical_kl
from prelar_ray.models.latent_action import LatentAction
from prelar_ray.models.rssm import RSSM, State
from prelar_ray.models.stacked_rssm import StackedRSSM

__all__ = ["action_distances", "consistency_loss", "state_distances"]

MIDDLE_HALF = 0.377
"""Standard deviation of a standard normal variable between its quartiles."""


def state_distances(
    rssm: RSSM | StackedRSSM, posterior: State, prior: Tensor, latent_action: Tensor, permutation: Tensor
) -> Tensor:
    """Return how far a swapped latent action changes the next state: KL[prior_own || prior_swapped], no gradient.

    Args:
        posterior: states ``(B, T, ...)``; step t starts from the posterior sample of t-1.
        prior: prior logits under the own latent actions, ``(B, T, S, K)``.
        latent_action: ``(B, T, L)``; index t led to step t.
        permutation: row whose latent action replaces that of each row, ``(B,)``.

    Returns:
        ``(B*(T-1),)`` in the order (b, t), nats.
    """
    with torch.no_grad():
        start = posterior.at((slice(None), slice(None, -1))).flatten()
        swapped = latent_action[permutation, 1:].flatten(0, 1)
        return categorical_kl(prior[:, 1:].flatten(0, 1), rssm.prior_step(start, swapped).logits)


def action_distances(latent: LatentAction, permutation: Tensor) -> Tensor:
    """Return the distance of own and swapped latent actions: KL[q_own || q_swapped], with gradient.

    Args:
        latent: distributions over ``(B, T-1, L)``.
        permutation: ``(B,)``.

    Returns:
        ``(B*(T-1),)`` in the order (b, t), nats.
    """
    return latent.distances(permutation).flatten()


def consistency_loss(state: Tensor, action: Tensor, gradient: str = "straight_through") -> Tensor:
    """Return the mean squared difference of the two signs over all ordered pairs, in [0, 4].

    Args:
        state, action: distances ``(N,)``.
        gradient: ``published`` compares signs, whose derivative is zero. ``soft`` compares smooth signs: tanh of the
            differences over the spread of the values, which is independent of the scale of either distance.
            ``straight_through`` has the value of the first and the gradient of the second; it is applied to the whole
            loss, because sign by sign only pairs in the wrong order have a gradient, which merely pulls distances
            together (docs/results/02-algorithm.md).

    Returns:
        Scalar.
    """
    if gradient == "soft":
        return (_soft_sign(state.detach()) - _soft_sign(action)).square().mean()
    with torch.no_grad():
        hard = (_differences(state).sign() - _differences(action).sign()).square().mean()
    if gradient == "published":
        return hard
    soft = consistency_loss(state, action, "soft")
    return hard + (soft - soft.detach())


def _differences(x: Tensor) -> Tensor:
    return x.unsqueeze(1) - x.unsqueeze(0)


def _soft_sign(x: Tensor) -> Tensor:
    """Return smooth signs of all pairwise differences, ``(N,) -> (N, N)``; the temperature is the spread of ``x``."""
    return torch.tanh(_differences(x) / _spread(x))


def _spread(x: Tensor) -> Tensor:
    """Estimate the standard deviation of ``x`` from the middle half of its values, scalar; 1 where all values tie.

    With a spread that is sensitive to outliers, the loss can fall without any order: a few distant outliers make all
    other distances alike. Pre-training does exploit this; docs/results/02-algorithm.md has the numbers.
    """
    quarter = len(x) // 4
    middle = _deviation(x.sort().values[quarter : len(x) - quarter]) / MIDDLE_HALF
    # Where values tie, spread and differences are zero: any positive temperature gives zero.
    # A middle spread within rounding errors of the whole one is not used either: its gradient would overflow.
    whole = _deviation(x)
    spread = torch.where(middle > torch.finfo(x.dtype).eps * whole, middle, whole)
    return torch.where(spread > 0, spread, torch.ones_like(spread))


def _deviation(x: Tensor) -> Tensor:
    """Return the standard deviation, scalar; its gradient is zero where it is zero."""
    variance = (x - x.mean()).square().mean()
    return torch.where(variance > 0, variance, torch.ones_like(variance)).sqrt() * (variance > 0)
