"""Behaviour learning in imagination, Eq. (1)-(4), (16), (17)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prelar_ray.config import BehaviourConfig
from prelar_ray.learning.lambda_return import lambda_return
from prelar_ray.learning.optimizers import Optimizer
from prelar_ray.learning.precision import FULL, Precision
from prelar_ray.learning.ranks import ALONE, Ranks
from prelar_ray.learning.running_magnitude import RunningMagnitude
from prelar_ray.models.actor_critic import Actor, ActorCritic
from prelar_ray.models.distributions import TruncatedNormal
from prelar_ray.models.layers import frozen, load_module
from prelar_ray.models.noise import Noise
from prelar_ray.models.rssm import State
from prelar_ray.models.world_model import FinetuneWorldModel

__all__ = ["BehaviourLearner", "Imagination", "imagine", "unroll"]


class Imagination(NamedTuple):
    """Imagined trajectories, time first; index 0 is the start."""

    feature: Tensor  # (H+1, N, F), gradients reach the actor through the actions
    action: Tensor  # (H+1, N, A); action[i] leads to state i, action[0] is zero
    entropy: Tensor  # (H, N) of the policy that acts at state i


def unroll(
    model: FinetuneWorldModel,
    actor: Actor,
    start: State,
    horizon: int,
    gumbel: Tensor | None,
    uniform: Tensor | None,
) -> Imagination:
    """Roll out the actor in the model, with given noise.

    The policy gets detached features, so that the value gradient reaches it only through the dynamics.

    Args:
        gumbel: ``(H, N, S, K)`` of the states; None takes the most likely classes.
        uniform: ``(H, N, A)`` of the actions; None takes the modes.
    """
    state, features, actions, policies = start, [start.feature], [], []
    for i in range(horizon):
        policy = actor(features[-1].detach())
        action = policy.sample(None if uniform is None else uniform[i])
        latent = model.action_encoder(action)
        state = model.rssm.prior_step(state, latent, None if gumbel is None else gumbel[i])
        features.append(state.feature)
        actions.append(action)
        policies.append(policy)
    actions.insert(0, torch.zeros_like(actions[0]))
    locs, scales = (torch.stack(part) for part in zip(*policies, strict=True))
    entropy = TruncatedNormal(locs, scales).entropy()  # of all steps at once: H times fewer kernels
    return Imagination(torch.stack(features), torch.stack(actions), entropy)


def imagine(
    model: FinetuneWorldModel,
    actor: Actor,
    start: State,
    horizon: int,
    noise: Noise,
    unroll: Callable[..., Imagination] = unroll,
) -> Imagination:
    """Roll out the actor in the model for ``horizon`` steps from ``start`` ``(N, ...)``, which has no gradient.

    ``unroll`` is the function of that name or its compiled version.
    """
    rssm, n = model.rssm, len(start.deter)
    gumbel = noise.gumbel(horizon, n, rssm.stoch, rssm.classes)
    return unroll(model, actor, start, horizon, gumbel, noise.uniform(horizon, n, actor.mean.out_features))


class BehaviourLearner:
    """Updates actor and critic on imagined trajectories."""

    def __init__(
        self,
        config: BehaviourConfig,
        actor_critic: ActorCritic,
        unroll: Callable[..., Imagination] = unroll,
        ranks: Ranks = ALONE,
    ) -> None:
        """Create the optimisers; ``unroll`` is the function of that name or its compiled version."""
        self.config = config
        self.parts = actor_critic
        self.unroll = unroll
        self.actor_optimizer = Optimizer([actor_critic.actor], config.actor_optimizer, ranks=ranks)
        self.critic_optimizer = Optimizer([actor_critic.critic], config.critic_optimizer, ranks=ranks)
        device = next(actor_critic.parameters()).device
        self.reward_normaliser = RunningMagnitude(config.reward_momentum, ranks=ranks).to(device)
        self.updates = 0

    def update(
        self, model: FinetuneWorldModel, start: State, noise: Noise, precision: Precision = FULL
    ) -> dict[str, Tensor]:
        """One step of Algorithm 1, lines 23-24; :meth:`advance` belongs after it.

        Args:
            model: world model in evaluation mode.
            start: states ``(N, ...)`` without gradient.

        Returns:
            Metrics: scalars on the device.
        """
        config, parts = self.config, self.parts
        # Gradients flow through these parts to the actor; imagination does not train their parameters.
        with frozen([model.rssm, model.action_encoder, model.reward]):
            with precision.autocast():
                imagination = imagine(model, parts.actor, start, config.horizon, noise, self.unroll)
                predicted = model.reward(imagination.feature)
                value = parts.slow_critic(imagination.feature)  # (H+1, N)
            reward = self.reward_normaliser(predicted)  # (H+1, N)
            target = lambda_return(reward[:-1], value[:-1], config.discount, value[-1], config.return_lambda)
            weight = self._weights(target)  # (H, 1)
            bonus = config.entropy_weight * imagination.entropy[:-1]  # (H-1, N)
            actor_loss = -(weight[:-1] * (target[1:] + bonus)).mean()
            precision.backward(actor_loss)

        target = returns = target.detach()
        if config.critic_target == "published":
            target = torch.cat([target[:1], target[1:] + bonus.detach()])
        with precision.autocast():
            prediction = parts.critic(imagination.feature[:-1].detach())
        critic_loss = (weight * 0.5 * (prediction - target).square()).mean()
        precision.backward(critic_loss)

        metrics = {
            "behaviour/actor_loss": actor_loss.detach(),
            "behaviour/critic_loss": critic_loss.detach(),
            "behaviour/entropy": imagination.entropy[:-1].detach().mean(),
            "behaviour/reward": reward.detach().mean(),
            "behaviour/value": prediction.detach().mean(),
            "behaviour/target": returns.mean(),
            "grad_norm/actor": self.actor_optimizer.step(precision),
            "grad_norm/critic": self.critic_optimizer.step(precision),
        }
        return metrics

    def advance(self) -> None:
        """Count the update, and copy the slow critic every so many; not in :meth:`update`, which may be captured."""
        self.actor_optimizer.advance()
        self.critic_optimizer.advance()
        if self.updates % self.config.slow_critic_every == 0:
            self.parts.copy_slow_critic()
        self.updates += 1

    def _weights(self, target: Tensor) -> Tensor:
        """Cumulative discounts shifted by one: 1, gamma, gamma^2, ... as ``(H, 1)``."""
        steps = torch.arange(len(target), dtype=target.dtype, device=target.device)
        return (self.config.discount**steps).unsqueeze(-1)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of optimisers and reward normaliser, and the update counter of the slow critic."""
        return {
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "reward_normaliser": self.reward_normaliser.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.actor_optimizer.load_state_dict(state["actor_optimizer"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        load_module(self.reward_normaliser, state["reward_normaliser"], "reward_normaliser")
        self.updates = int(state["updates"])
