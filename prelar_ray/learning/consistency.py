"""Action-state consistency loss: latent actions far apart should drive states far apart, and the reverse."""

from __future__ import annotations

import torch
from torch import Tensor

from prelar_ray.models.distributions import categorical_kl
from prelar_ray.models.latent_action import LatentAction
from prelar_ray.models.rssm import RSSM, State
from prelar_ray.models.stacked_rssm import StackedRSSM

__all__ = ["action_distances", "consistency_loss", "state_distances"]


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
        gradient: ``published`` compares signs, whose derivative is zero; ``soft`` compares tanh of the differences
            over their spread, so it does not depend on the scale of either distance; ``straight_through`` has the
            value of the former and the gradient of the latter.

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
    x = x - x.mean()
    variance = x.square().mean()
    # Where all values tie, the spread is zero and so is every difference: any positive temperature gives zero.
    spread = torch.where(variance > 0, variance, torch.ones_like(variance)).sqrt()
    return torch.tanh(_differences(x / spread))
