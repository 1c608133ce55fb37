"""Updates and their parts on synthetic batches: plain torch, no environment, no Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prelar_ray.config import RunConfig
from prelar_ray.learning.behaviour import imagine
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.learning.ranks import ALONE, Ranks
from prelar_ray.models.image_decoder import image_log_prob
from prelar_ray.models.preprocess import preprocess_image
from prelar_ray.types import SequenceBatch

__all__ = ["ACTION", "Learner", "make", "parts", "synthetic_batch"]

ACTION = 4
Learner = PretrainLearner | FinetuneLearner


def synthetic_batch(config: RunConfig, phase: str) -> SequenceBatch:
    """Return a batch of noise, ``(B, T, ...)``; the time of an update does not depend on the content."""
    settings = config.pretrain if phase == "pretrain" else config.finetune
    shape, size = (settings.batch_size, settings.segment_length), config.env.image_size
    rng = np.random.default_rng(0)
    is_first = np.zeros(shape, np.bool_)
    is_first[:, 0] = True
    return SequenceBatch(
        rng.integers(0, 256, (*shape, size, size, 3), dtype=np.uint8),
        rng.uniform(-1, 1, (*shape, ACTION)).astype(np.float32),
        rng.normal(size=shape).astype(np.float32),
        is_first,
        np.zeros(shape, np.bool_),
    )


def make(config: RunConfig, phase: str, ranks: Ranks = ALONE) -> tuple[Learner, Callable[[], None]]:
    """Return a learner and a function that updates it once on its rank's rows of the same batch."""
    whole = synthetic_batch(config, phase)
    batch = whole.split([whole.shape[0] // ranks.size] * ranks.size)[ranks.rank]
    if phase == "pretrain":
        pretrain = PretrainLearner(config, ranks=ranks)
        return pretrain, lambda: pretrain.update(batch.image)
    finetune = FinetuneLearner(config, ACTION, ranks=ranks)
    return finetune, lambda: finetune.update(batch)


def parts(learner: Learner, batch: SequenceBatch) -> dict[str, Callable[[], None]]:
    """Return the parts of an update by name, each from given inputs to gradients of parameters and inputs.

    They do not overlap, and their sum is slightly less than an update, without losses and metrics.
    """
    config, model, noise = learner.config, learner.model, learner.noise
    raw = learner._tensor(batch.image)
    image = preprocess_image(raw, noise.dtype)
    is_first = learner._floats(batch.is_first)

    def both_ways(forward: Callable[[], Tensor], parameters: Iterable[Tensor]) -> Callable[[], None]:
        taught = list(parameters)

        def run() -> None:
            model.train()
            with learner.precision.autocast():
                out = forward()
            out.float().sum().backward()
            model.eval()
            for parameter in taught:
                parameter.grad = None

        return run

    size = config.world_model.latent_action
    if isinstance(learner, FinetuneLearner):
        size = learner.model.action_encoder.size
    encoder, decoder = model.encoder, model.decoder
    assert encoder is not None, "of a run that observes images"
    assert decoder is not None
    latent = torch.zeros(*is_first.shape, size, device=learner.device, requires_grad=True)
    with torch.no_grad():
        embed = encoder(image)
        gumbel = noise.gumbel(*is_first.shape, model.rssm.groups, model.rssm.classes)
        posterior, _ = model.rssm.observe(embed, latent, is_first, gumbel=gumbel)
        context = model.context(image, noise)
    start = posterior.detach().flatten()
    embed.requires_grad_()
    feature = posterior.feature.detach().requires_grad_()

    def scan() -> Tensor:
        state, prior = model.rssm.observe(embed, latent, is_first, gumbel=gumbel)
        return state.feature.sum() + prior.sum()

    def data() -> None:
        preprocess_image(learner._tensor(batch.image), noise.dtype)

    found: dict[str, Callable[[], None]] = {
        "data": data,
        "encoder": both_ways(lambda: encoder(image), encoder.parameters()),
        "scan": both_ways(scan, model.rssm.parameters()),
        "decoder": both_ways(lambda: -image_log_prob(decoder(feature, context), image).mean(), decoder.parameters()),
    }
    if isinstance(learner, PretrainLearner):
        inverse = learner.model.inverse_dynamics
        if inverse is not None:
            found["inverse dynamics"] = both_ways(lambda: inverse(image).sample(noise), inverse.parameters())
        found["optimiser"] = lambda: _step([learner.optimizer])
        return found

    actor_critic = learner.actor_critic
    heads = [head for head in (learner.model.reward, learner.model.aux_reward) if head is not None]
    found["heads"] = both_ways(
        lambda: torch.stack([head(feature).sum() for head in heads]).sum(),
        [parameter for head in heads for parameter in head.parameters()],
    )
    bonus = learner.bonus
    if bonus is not None:
        novelty = embed if config.finetune.bonus.input == "embedding" else feature
        found["bonus"] = lambda: bonus(novelty.detach())

    def imagination() -> None:
        model = learner.behaviour.model
        model.refresh()
        with learner.precision.autocast():
            imagined = imagine(model, actor_critic.actor, start, config.behaviour.horizon, noise)
            value = model.reward(imagined.feature) + actor_critic.slow_critic(imagined.feature)
        value.sum().backward()
        actor_critic.zero_grad()

    found["imagination"] = imagination
    trajectory = torch.randn(config.behaviour.horizon, *start.feature.shape, device=learner.device)
    found["critic"] = both_ways(lambda: actor_critic.critic(trajectory), actor_critic.critic.parameters())
    behaviour = learner.behaviour
    optimizers = [learner.dynamics_optimizer, learner.optimizer]
    found["optimiser"] = lambda: _step([*optimizers, behaviour.actor_optimizer, behaviour.critic_optimizer])
    return found


def _step(optimizers: Iterable[Any]) -> None:
    for optimizer in optimizers:
        for parameter in optimizer.parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
