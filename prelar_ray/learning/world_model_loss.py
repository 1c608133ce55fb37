"""World-model losses of both phases, Eq. (14), (15): a few lines each, one per term of the paper."""

from __future__ import annotations

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

__all__ = ["Experience", "WorldModelLoss", "finetune_loss", "pretrain_loss"]


class Experience(NamedTuple):
    """Segments of replay, and clips of videos to rehearse."""

    image: Tensor  # preprocessed (B + V, T, C, Hpx, Wpx): B segments of replay, then V clips
    action: Tensor  # (B, T, A); index t led to step t
    reward: Tensor  # (B, T)
    is_first: Tensor  # (B, T)
    is_terminal: Tensor | None = None  # (B, T), which a model with a discount head learns from
    vector: Tensor | None = None  # (B, T, V), of a model that observes vectors, which may be all that it observes


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
    terms, metrics = _Terms(), _entropies(posterior.logits, prior)
    terms.add("image", config.image_weight, -image_log_prob(decoded, image).mean())
    terms.add("dynamics_kl", config.dynamics_kl_weight, dynamics_kl)
    if latent is not None:
        states = posterior, prior, latent_action
        losses = _latent_action_losses(rssm, config, latent, *states, noise, ranks, metrics)
        scale = 1.0 if action_kl_scale is None else action_kl_scale
        terms.add("action_kl", config.action_kl_weight * scale, losses.action_kl)
        terms.add("consistency", config.consistency_weight, losses.consistency)
        metrics["model/latent_action_std"] = latent.spread.detach().mean()
    return terms.weighted(metrics, posterior, balance)


def finetune_loss(
    model: FinetuneWorldModel,
    config: LossConfig,
    bonus: IntrinsicBonus | None,
    experience: Experience,
    noise: Noise,
    ranks: Ranks = ALONE,
    balance: LossBalance = UNBALANCED,
) -> WorldModelLoss:
    """Eq. (15) on replayed experience, with the losses of inferred latent actions that the configuration asks for.

    Args:
        bonus: intrinsic bonus; None trains ``reward`` on the plain reward at all steps.
        ranks: group of learners that share the batch.
        balance: learnt scales of the losses.

    Returns:
        The loss, with the posterior of replay.
    """
    image, action, reward, is_first, is_terminal, vector = experience
    rssm, rows = model.rssm, len(action)
    replayed, seen = infer_latent_actions(model.inverse_dynamics, config, image, rows)
    encoded = latent_action = model.action_encoder(action)
    begins = is_first
    if seen is not None:
        latent_action, begins = with_clips(encoded, is_first, seen.sample(noise))
    embed = model.observed(image, vector)
    gumbel = noise.gumbel(*begins.shape, rssm.groups, rssm.classes)
    posterior, prior = rssm.observe(embed, latent_action, begins, gumbel=gumbel)
    terms, metrics = _Terms(), _entropies(posterior.logits, prior)
    feature, error = posterior.feature, None  # error: (B + V, T)
    if model.decoder is not None:
        error = -image_log_prob(model.decode(feature, image, noise), image)
        terms.add("image", config.image_weight, error.mean())

    replay, feature = posterior.at(slice(rows)), feature[:rows]
    dynamics_kl, kl = balanced_kl(posterior.logits, prior, config.kl_balance, config.free_nats, ranks=ranks)
    terms.add("dynamics_kl", config.dynamics_kl_weight, dynamics_kl)
    target, counts = reward, None
    if bonus is not None:
        novelty = _novelty_input(bonus, embed[:rows, :, : size_of(model.encoder)], replay).detach()
        ends = None if model.discount is None else is_terminal
        target, counts = _reward_with_bonus(bonus, novelty, reward, is_first, ends, metrics)
    reward_loss, _ = model.reward.loss(feature[:, : target.shape[1]], target)  # of the shape of target
    reward_mean = reward_loss.mean() if counts is None else ranks.mean_where(reward_loss, counts)
    terms.add("reward", config.reward_weight, reward_mean)
    _add_other_heads(terms, model, config, feature, experience)

    if replayed is not None:
        assert model.inverse_dynamics is not None
        across = model.inverse_dynamics.across_episodes(is_first)
        if config.tie_weight:
            terms.add("tie", config.tie_weight, tie_loss(replayed, encoded, across, config, ranks))
        if model.action_decoder is not None:
            told = model.action_decoder(replayed.sample(noise))
            decoder_loss = action_decoder_loss(told, action, across, ranks)
            terms.add("action_decoder", config.action_decoder_weight, decoder_loss)
            metrics["model/action_r2"] = decoded_variance(told, action, across)
    if seen is not None and error is not None:
        clips, share = slice(rows, None), 1 - rows / len(image)
        states = posterior.at(clips), prior[clips], latent_action[clips]
        losses = _latent_action_losses(rssm, config, seen, *states, noise, ranks, metrics)
        terms.add("action_kl", share * config.action_kl_weight, losses.action_kl)
        terms.add("consistency", share * config.consistency_weight, losses.consistency)
        metrics |= {"rehearsal/image": error[clips].detach().mean(), "rehearsal/dynamics_kl": kl[clips].detach().mean()}
    if inferred := replayed or seen:
        metrics["model/latent_action_std"] = inferred.spread.detach().mean()
    return terms.weighted(metrics, replay, balance)


class _Terms:
    """Losses and their weights by name, in the order in which they are summed."""

    def __init__(self) -> None:
        self._losses: dict[str, Tensor] = {}
        self._weights: dict[str, float | Tensor] = {}

    def add(self, name: str, weight: float | Tensor, loss: Tensor) -> None:
        """Take a loss, scalar."""
        self._losses[name], self._weights[name] = loss, weight

    def weighted(self, metrics: dict[str, Tensor], posterior: State, balance: LossBalance) -> WorldModelLoss:
        """Return the sum of the weighted losses, and every loss among the metrics."""
        total = balance({name: self._weights[name] * loss for name, loss in self._losses.items()})
        metrics |= {f"loss/{name}": loss.detach() for name, loss in self._losses.items()}
        return WorldModelLoss(total, metrics | {"loss/total": total.detach()} | balance.metrics(), posterior)


def _add_other_heads(
    terms: _Terms, model: FinetuneWorldModel, config: LossConfig, feature: Tensor, experience: Experience
) -> None:
    """Add the losses of what else the model predicts of replay from ``feature`` ``(B, T, F)``."""
    if model.aux_reward is not None:
        loss = model.aux_reward.loss(feature, experience.reward)[0].mean()
        terms.add("aux_reward", config.aux_reward_weight, loss)
    if model.discount is not None:
        assert experience.is_terminal is not None, "a discount head learns from terminal flags"
        loss = model.discount.loss(feature, 1 - experience.is_terminal)[0].mean()
        terms.add("discount", config.discount_weight, loss)
    if model.vector_head is not None:
        assert experience.vector is not None, "what is observed is predicted"
        terms.add("vector", config.vector_weight, model.vector_head.loss(feature, experience.vector).mean())


class _LatentActionLosses(NamedTuple):
    """Scalars."""

    action_kl: Tensor
    consistency: Tensor


def _latent_action_losses(
    rssm: RSSM | StackedRSSM,
    config: LossConfig,
    latent: LatentAction,
    posterior: State,
    prior: Tensor,
    latent_action: Tensor,
    noise: Noise,
    ranks: Ranks,
    metrics: dict[str, Tensor],
) -> _LatentActionLosses:
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
    return _LatentActionLosses(
        bounded_kl(kl, config.action_free_nats, config.action_capacity, ranks),
        consistency_loss(state_distance, action_distance, config.consistency_gradient),
    )


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


@torch.no_grad()
def _entropies(posterior: Tensor, prior: Tensor) -> dict[str, Tensor]:
    return {
        "model/posterior_entropy": categorical_entropy(posterior).mean(),
        "model/prior_entropy": categorical_entropy(prior).mean(),
    }
