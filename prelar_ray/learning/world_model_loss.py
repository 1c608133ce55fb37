"""World-model losses of both phases, Eq. (14), (15): a few lines each, one per term of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from prelar_ray.config import LossConfig
from prelar_ray.learning.balance import UNBALANCED, LossBalance
from prelar_ray.learning.consistency import action_distances, consistency_loss, state_distances
from prelar_ray.learning.intrinsic_bonus import IntrinsicBonus, windows_in_episodes
from prelar_ray.learning.kl import action_kl, balanced_kl, bounded_kl
from prelar_ray.learning.ranks import ALONE, Ranks
from prelar_ray.learning.rehearsal import with_clips
from prelar_ray.learning.tied_actions import action_decoder_loss, decoded_variance, infer_latent_actions, tie_loss
from prelar_ray.models.distributions import categorical_entropy
from prelar_ray.models.image_decoder import image_log_prob
from prelar_ray.models.latent_action import LatentAction
from prelar_ray.models.noise import Noise
from prelar_ray.models.observation import size_of
from prelar_ray.models.rssm import RSSM, State
from prelar_ray.models.stacked_rssm import StackedRSSM
from prelar_ray.models.world_model import FinetuneWorldModel, PretrainWorldModel

__all__ = ["WorldModelLoss", "finetune_loss", "pretrain_loss"]


class WorldModelLoss(NamedTuple):
    """Result of a forward pass."""

    total: Tensor  # scalar, weighted
    metrics: dict[str, Tensor]  # scalars without gradient, by metric name
    posterior: State  # (B, T, ...) with gradient


def pretrain_loss(
    model: PretrainWorldModel,
    config: LossConfig,
    image: Tensor,
    is_first: Tensor,
    noise: Noise,
    ranks: Ranks = ALONE,
    balance: LossBalance = UNBALANCED,
    action_kl_scale: Tensor | None = None,
) -> WorldModelLoss:
    """Eq. (14) on action-free clips.

    Args:
        image: preprocessed ``(B, T, C, Hpx, Wpx)``.
        is_first: ``(B, T)``.
        ranks: group of learners that share the batch. The consistency term compares distances of all ranks; latent
            actions are swapped within a rank.
        balance: learnt scales of the losses.
        action_kl_scale: factor of the latent-action KL's weight, scalar on the device; None for 1.
    """
    rssm = model.rssm
    latent = model.infer_latent_actions(image)
    latent_action = model.to_inputs(None if latent is None else latent.sample(noise), is_first)  # (B, T, L)
    gumbel = noise.gumbel(*is_first.shape, rssm.groups, rssm.classes)
    posterior, prior = rssm.observe(model.observed(image), latent_action, is_first, gumbel=gumbel)
    decoded = model.decode(posterior.feature, image, noise)

    dynamics_kl, _ = balanced_kl(posterior.logits, prior, config.kl_balance, config.free_nats, ranks=ranks)
    terms = {"image": -image_log_prob(decoded, image).mean(), "dynamics_kl": dynamics_kl}
    weights: dict[str, float | Tensor] = {
        "image": config.image_weight,
        "dynamics_kl": config.dynamics_kl_weight,
    }
    metrics = _entropies(posterior.logits, prior)
    if latent is not None:
        terms |= _latent_action_terms(rssm, config, latent, posterior, prior, latent_action, noise, ranks, metrics)
        weights |= {"action_kl": config.action_kl_weight, "consistency": config.consistency_weight}
        if action_kl_scale is not None:
            weights["action_kl"] = config.action_kl_weight * action_kl_scale
        metrics["model/latent_action_std"] = latent.spread.detach().mean()
    return _weighted(terms, weights, metrics, posterior, balance)


def finetune_loss(
    model: FinetuneWorldModel,
    config: LossConfig,
    bonus: IntrinsicBonus | None,
    image: Tensor,
    action: Tensor,
    reward: Tensor,
    is_first: Tensor,
    noise: Noise,
    ranks: Ranks = ALONE,
    balance: LossBalance = UNBALANCED,
    is_terminal: Tensor | None = None,
    vector: Tensor | None = None,
) -> WorldModelLoss:
    """Eq. (15) on replayed experience, with the losses of inferred latent actions that the configuration asks for.

    Args:
        bonus: intrinsic bonus; None trains ``reward`` on the plain reward at all steps.
        image: preprocessed ``(B + V, T, C, Hpx, Wpx)``: B segments of replay, then V clips of videos to rehearse.
        action: ``(B, T, A)``; index t led to step t.
        reward, is_first: ``(B, T)``.
        ranks: group of learners that share the batch.
        balance: learnt scales of the losses.
        is_terminal: ``(B, T)``, which a model with a discount head learns from.
        vector: ``(B, T, V)``, of a model that observes vectors, which may be all that it observes.

    Returns:
        The loss, with the posterior of replay.
    """
    rssm, rows = model.rssm, len(action)
    replayed, seen = infer_latent_actions(model.inverse_dynamics, config, image, rows)
    encoded = latent_action = model.action_encoder(action)
    begins = is_first
    if seen is not None:
        latent_action, begins = with_clips(encoded, is_first, seen.sample(noise))
    embed = model.observed(image, vector)
    gumbel = noise.gumbel(*begins.shape, rssm.groups, rssm.classes)
    posterior, prior = rssm.observe(embed, latent_action, begins, gumbel=gumbel)
    feature = posterior.feature
    error = None  # (B + V, T)
    if model.decoder is not None:
        error = -image_log_prob(model.decode(feature, image, noise), image)
    metrics = _entropies(posterior.logits, prior)
    replay, feature = posterior.at(slice(rows)), feature[:rows]
    target, counts = reward, None
    if bonus is not None:
        novelty = _novelty_input(bonus, embed[:rows, :, : size_of(model.encoder)], replay).detach()
        ends = None if model.discount is None else is_terminal
        target, counts = _reward_with_bonus(bonus, novelty, reward, is_first, ends, metrics)

    dynamics_kl, kl = balanced_kl(posterior.logits, prior, config.kl_balance, config.free_nats, ranks=ranks)
    reward_loss, _ = model.reward.loss(feature[:, : target.shape[1]], target)  # of the shape of target
    terms = {} if error is None else {"image": error.mean()}
    weights = {} if error is None else {"image": config.image_weight}
    terms |= {
        "dynamics_kl": dynamics_kl,
        "reward": reward_loss.mean() if counts is None else ranks.mean_where(reward_loss, counts),
    }
    weights |= {"dynamics_kl": config.dynamics_kl_weight, "reward": config.reward_weight}
    if model.aux_reward is not None:
        terms["aux_reward"] = model.aux_reward.loss(feature, reward)[0].mean()
        weights["aux_reward"] = config.aux_reward_weight
    if model.discount is not None:
        assert is_terminal is not None, "a discount head learns from terminal flags"
        terms["discount"] = model.discount.loss(feature, 1 - is_terminal)[0].mean()
        weights["discount"] = config.discount_weight
    if model.vector_head is not None:
        assert vector is not None, "what is observed is predicted"
        terms["vector"] = model.vector_head.loss(feature, vector).mean()
        weights["vector"] = config.vector_weight
    if replayed is not None:
        assert model.inverse_dynamics is not None
        across = model.inverse_dynamics.across_episodes(is_first)
        if config.tie_weight:
            terms["tie"] = tie_loss(replayed, encoded, across, config, ranks)
            weights["tie"] = config.tie_weight
        if model.action_decoder is not None:
            told = model.action_decoder(replayed.sample(noise))
            terms["action_decoder"] = action_decoder_loss(told, action, across, ranks)
            weights["action_decoder"] = config.action_decoder_weight
            metrics["model/action_r2"] = decoded_variance(told, action, across)
    if seen is not None and error is not None:
        clips, share = slice(rows, None), 1 - rows / len(image)
        states = posterior.at(clips), prior[clips], latent_action[clips]
        terms |= _latent_action_terms(rssm, config, seen, *states, noise, ranks, metrics)
        weights |= {"action_kl": share * config.action_kl_weight, "consistency": share * config.consistency_weight}
        metrics |= {"rehearsal/image": error[clips].detach().mean(), "rehearsal/dynamics_kl": kl[clips].detach().mean()}
    if inferred := replayed or seen:
        metrics["model/latent_action_std"] = inferred.spread.detach().mean()
    return _weighted(terms, weights, metrics, replay, balance)


def _latent_action_terms(
    rssm: RSSM | StackedRSSM,
    config: LossConfig,
    latent: LatentAction,
    posterior: State,
    prior: Tensor,
    latent_action: Tensor,
    noise: Noise,
    ranks: Ranks,
    metrics: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Return the losses of latent actions inferred from frames, Eq. (9) and the consistency loss.

    Args:
        latent: distributions over ``(B, T-1, L)``.
        posterior, prior: states ``(B, T, ...)``, and logits ``(B, T, S, K)`` under ``latent_action``.
        latent_action: their samples, ``(B, T, L)``; index t led to step t.
        metrics: the KL is added to them.
    """
    permutation = noise.derangement(len(latent_action))
    state_distance = ranks.gather(state_distances(rssm, posterior, prior, latent_action, permutation))
    action_distance = ranks.gather(action_distances(latent, permutation))
    kl = action_kl(latent, config.action_prior_std)
    metrics["model/latent_action_kl"] = kl.detach().mean()
    return {
        "action_kl": bounded_kl(kl, config.action_free_nats, config.action_capacity, ranks),
        "consistency": consistency_loss(state_distance, action_distance, config.consistency_gradient),
    }


def _novelty_input(bonus: IntrinsicBonus, embed: Tensor, posterior: State) -> Tensor:
    """Return the input of the bonus: embeddings ``(B, T, E)``, or features ``(B, T, F)`` of the pre-trained RSSM."""
    if bonus.config.input == "embedding":
        return embed
    return posterior.feature if posterior.below is None else posterior.below.feature


def _reward_with_bonus(
    bonus: IntrinsicBonus,
    novelty: Tensor,
    reward: Tensor,
    is_first: Tensor,
    is_terminal: Tensor | None,
    metrics: dict[str, Tensor],
) -> tuple[Tensor, Tensor | None]:
    """Return what the reward head learns: reward plus intrinsic bonus, and which steps count.

    Args:
        novelty: what the bonus looks at, ``(B, T, E)``.
        reward, is_first: ``(B, T)``.
        is_terminal: ``(B, T)`` where episodes can terminate; None as published.
        metrics: those of the bonus are added to them.

    Returns:
        Targets ``(B, T)``, and 1 for those that count, ``(B, T)``; as published, ``(B, T - window + 1)`` and None.
    """
    windows = counts = None
    if is_terminal is not None:
        windows, counts = _windows(is_first, is_terminal, bonus.config.window)
    intrinsic, _ = bonus(novelty, windows)
    metrics |= {"bonus/mean": intrinsic.mean(), "bonus/scale": bonus.normaliser.magnitude.clone()}
    return reward[:, : intrinsic.shape[1]] + intrinsic, counts


def _windows(is_first: Tensor, is_terminal: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Return the windows of the bonus where episodes can end early, and which of them count.

    The last steps of an episode have no whole window. Where it terminates there, their rewards are often all that there
    is to learn, so their windows end with the episode. Those cut short by the end of the segment alone do not count.

    Args:
        is_first, is_terminal: ``(B, T)``.

    Returns:
        Steps ``(B, T, window)``, and 1 for windows that count, ``(B, T)``.
    """
    windows = windows_in_episodes(is_first, window)
    last = windows.shape[1] - 1
    cut = (windows[..., -1] == last) & (windows[..., 0] + window - 1 > last)
    return windows, (~cut | (is_terminal[:, -1:] > 0)).to(is_first.dtype)


def _weighted(
    terms: dict[str, Tensor],
    weights: Mapping[str, float | Tensor],
    metrics: dict[str, Tensor],
    posterior: State,
    balance: LossBalance,
) -> WorldModelLoss:
    """Sum the weighted terms; a term without a weight, or the reverse, raises."""
    total = balance({name: weights[name] * term for name, term in terms.items()})
    assert weights.keys() == terms.keys()
    metrics |= {f"loss/{name}": term.detach() for name, term in terms.items()}
    return WorldModelLoss(total, metrics | {"loss/total": total.detach()} | balance.metrics(), posterior)


@torch.no_grad()
def _entropies(posterior: Tensor, prior: Tensor) -> dict[str, Tensor]:
    return {
        "model/posterior_entropy": categorical_entropy(posterior).mean(),
        "model/prior_entropy": categorical_entropy(prior).mean(),
    }
