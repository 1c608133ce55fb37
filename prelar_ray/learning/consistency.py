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
    """How far a swapped latent action drives the state apart: KL[prior_own || prior_swapped], no gradient.

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
    """How far apart own and swapped latent actions are: KL[q_own || q_swapped], with gradient.

    Args:
        latent: distributions over ``(B, T-1, L)``.
        permutation: ``(B,)``.

    Returns:
        ``(B*(T-1),)`` in the order (b, t), nats.
    """
    return latent.distances(permutation).flatten()


def consistency_loss(state: Tensor, action: Tensor, gradient: str = "straight_through") -> Tensor:
    """Mean over all ordered pairs of the squared difference of the two signs, in [0, 4].

    Args:
        state, action: distances ``(N,)``.
        gradient: ``published`` compares signs, whose derivative is zero; ``soft`` compares smooth signs, tanh of the
            differences over the spread of the values, so it does not depend on the scale of either distance;
            ``straight_through`` has the value of the former and the gradient of the latter. Hard signs with the
            derivative of smooth ones, sign by sign, would teach by pairs in the wrong order alone, which only pulls
            distances together (docs/results/02-algorithm.md).

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
    """Smooth sign of all pairwise differences, ``(N,) -> (N, N)``; its temperature is the spread of ``x``."""
    return torch.tanh(_differences(x) / _spread(x))


def _spread(x: Tensor) -> Tensor:
    """Standard deviation of ``x``, estimated from the middle half of its values, scalar; 1 where all values tie.

    A spread that outliers raise would let the loss fall without any order: a few distances far out make all others
    alike. Pre-training found that way out; docs/results/02-algorithm.md has the numbers.
    """
    quarter = len(x) // 4
    middle = _deviation(x.sort().values[quarter : len(x) - quarter]) / MIDDLE_HALF
    # Where values tie the spread is zero and so are the differences: any positive temperature gives zero.
    # Against outliers a spread of nothing but rounding errors would count as zero too, and its gradient overflow.
    whole = _deviation(x)
    spread = torch.where(middle > torch.finfo(x.dtype).eps * whole, middle, whole)
    return torch.where(spread > 0, spread, torch.ones_like(spread))


def _deviation(x: Tensor) -> Tensor:
    """Standard deviation, scalar, with a gradient of zero where it is zero."""
    variance = (x - x.mean()).square().mean()
    return torch.where(variance > 0, variance, torch.ones_like(variance)).sqrt() * (variance > 0)
