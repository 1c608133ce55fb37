"""Losses that tie the latent action of fine-tuning to the real one, where both frames and actions are known.

Replay holds the pair of frames (o_{t-1}, o_t) and the action a_t that led to o_t. So two latent actions are known at t:
that of the action encoder e, z_t = e(a_t), Eq. (12), and that of the inverse dynamics encoder, q(z_t | o_{t-1}, o_t)
with mean mu_t, Eq. (11). The tie draws the first to the second; a decoder d of actions keeps the second about the
action. Steps that begin an episode are left out: no action led to them, and their frames are of two episodes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prelar_ray.config import LossConfig
from prelar_ray.learning.ranks import ALONE, Ranks
from prelar_ray.models.inverse_dynamics import InverseDynamicsEncoder
from prelar_ray.models.latent_action import CategoricalAction, DeterministicAction, LatentAction

__all__ = ["action_decoder_loss", "decoded_variance", "infer_latent_actions", "tie_loss"]

CONSTANT = 1e-6
"""Variance of an action below which nothing can be said about how well it is decoded."""


def infer_latent_actions(
    encoder: InverseDynamicsEncoder | None, config: LossConfig, image: Tensor, rows: int
) -> tuple[LatentAction | None, LatentAction | None]:
    """Infer the latent actions of replay, the first ``rows``, and of the clips of videos after them.

    Both go through the encoder together where both are needed: its batch norm has the statistics of both then.

    Args:
        image: preprocessed ``(B + V, T, C, Hpx, Wpx)``.

    Returns:
        Distributions over ``(B, T-1, L)`` and ``(V, T-1, L)``; None for those that no loss needs.
    """
    tied, rehearsed = config.tie_weight > 0 or config.action_decoder_weight > 0, len(image) > rows
    if encoder is None or not (tied or rehearsed):
        return None, None
    trained = rehearsed or config.action_decoder_weight > 0 or config.tie_gradient == "both"
    with torch.set_grad_enabled(trained and torch.is_grad_enabled()):  # else its activations would be kept for nothing
        latent = encoder(image if tied else image[rows:])
    before = rows if tied else 0
    replayed = latent._make(part[:before] for part in latent) if tied else None
    seen = latent._make(part[before:] for part in latent) if rehearsed else None
    return replayed, seen


def tie_loss(
    latent: LatentAction, latent_action: Tensor, across: Tensor, config: LossConfig, ranks: Ranks = ALONE
) -> Tensor:
    """Return half the squared distance of the two latent actions, in units s of a latent action, nats.

        L_tie = E_t [ 1/2 || (e(a_t) - mu_t) / s ||^2 ],  the KL divergence of two Gaussians of width s

    A Gaussian's s is the standard deviation of its prior: a dimension that tells much adds about 1/2 where e knows
    nothing, a collapsed one adds nothing. In units of its own standard deviation the loss would be the steeper the
    surer the inference, without bound. Classes have the mean mu of their probabilities, and s = 1. A deterministic
    latent action has no scale of its own: s is the root mean square of mu, over all ranks and without gradient.

    Args:
        latent: q over ``(B, T-1, L)``; without gradient of the tie where ``config.tie_gradient`` is ``action_encoder``.
        latent_action: e(a), ``(B, T, L)``; index t led to step t.
        across: ``(B, T)``, 1 where step t is inferred from frames of two episodes, which is left out.
        ranks: group of learners that share the batch.

    Returns:
        Scalar.
    """
    mean = latent.logits.softmax(-1).flatten(-2) if isinstance(latent, CategoricalAction) else latent.point
    pairs = 1 - across[:, 1:]
    if config.tie_gradient == "action_encoder":
        mean = mean.detach()
    distance = (latent_action[:, 1:] - mean).square().sum(-1)  # (B, T-1)
    if isinstance(latent, DeterministicAction):
        square = ranks.mean(ranks.mean_where(mean.detach().square().mean(-1), pairs))
        distance = distance / torch.where(square > 0, square, torch.ones_like(square))
    elif not isinstance(latent, CategoricalAction):
        distance = distance / config.action_prior_std**2
    return ranks.mean_where(0.5 * distance, pairs)


def action_decoder_loss(decoded: Tensor, action: Tensor, across: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """Return the negative log-likelihood of the action under a unit-variance Gaussian, without its constant, nats.

        L_dec = E_t [ 1/2 || d(z_t) - a_t ||^2 ],  z_t ~ q(z_t | o_{t-1}, o_t)

    Its gradient reaches the inverse dynamics encoder through the sample: what is decoded must stand out from the noise.

    Args:
        decoded: d(z), ``(B, T-1, A)``.
        action: ``(B, T, A)``; index t led to step t.
        across: ``(B, T)``, 1 where step t is inferred from frames of two episodes, which is left out.
        ranks: group of learners that share the batch.

    Returns:
        Scalar.
    """
    distance = (decoded - action[:, 1:]).square().sum(-1)
    return ranks.mean_where(0.5 * distance, 1 - across[:, 1:])


@torch.no_grad()
def decoded_variance(decoded: Tensor, action: Tensor, across: Tensor) -> Tensor:
    """Return the share of the actions' variance that is decoded, R^2 of all dimensions together, scalar.

    1: all of it. 0: no more than by their mean, or the actions do not vary. Arguments: see :func:`action_decoder_loss`.
    """
    pairs, real = (1 - across[:, 1:]).unsqueeze(-1), action[:, 1:]
    count = pairs.sum().clamp_min(1)
    mean = (pairs * real).sum((0, 1)) / count
    error, variance = ((pairs * (real - x).square()).sum() / count for x in (decoded, mean))
    return torch.where(variance > CONSTANT, 1 - error / variance.clamp_min(CONSTANT), torch.zeros_like(variance))
