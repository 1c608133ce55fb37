"""Behaviour learning in imagination, Eq. (1)-(4), (16), (17)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from prelar_ray.config import BehaviourConfig
from prelar_ray.learning.frozen_model import FrozenModel
from prelar_ray.learning.lambda_return import lambda_return
from prelar_ray.learning.optimizers import Optimizer
from prelar_ray.learning.precision import FULL, Precision
from prelar_ray.learning.ranks import ALONE, Ranks
from prelar_ray.learning.return_range import ReturnRange
from prelar_ray.learning.running_magnitude import RunningMagnitude
from prelar_ray.models.actor_critic import ActionDistribution, Actor, ActorCritic
from prelar_ray.models.gathered import Gathered
from prelar_ray.models.layers import load_module
from prelar_ray.models.noise import Noise
from prelar_ray.models.rssm import RSSM, State
from prelar_ray.models.stacked_rssm import StackedRSSM
from prelar_ray.models.world_model import FinetuneWorldModel

__all__ = ["BehaviourLearner", "Dynamics", "Imagination", "imagine", "imagine_step"]


class Imagination(NamedTuple):
    """Imagined trajectories, time first; index 0 is the start."""

    feature: Tensor  # (H+1, N, F), gradients reach the actor through the actions
    action: Tensor  # (H+1, N, A); action[i] leads to state i, action[0] is zero
    entropy: Tensor  # (H, N) of the policy that acts at state i


class Dynamics(Protocol):
    """What imagination runs through: a world model, or a frozen one."""

    @property
    def rssm(self) -> RSSM | StackedRSSM:
        """Latent dynamics."""

    @property
    def action_encoder(self) -> nn.Module:
        """From actions to latent actions."""


Step = Callable[..., tuple[State, ActionDistribution, Tensor, list[Tensor]]]


def imagine_step(
    model: Dynamics,
    actor: Actor,
    weights: Sequence[Tensor],
    terms: Sequence[Tensor],
    state: State,
    gumbel: Tensor | None,
    uniform: Tensor | None,
) -> tuple[State, ActionDistribution, Tensor, list[Tensor]]:
    """One imagined step from ``state`` ``(N, ...)``.

    The policy gets a detached feature, so that the value gradient reaches it only through the dynamics.

    Args:
        weights, terms: of the actor's layers, as :class:`~prelar_ray.models.gathered.Gathered` has them.
        gumbel: ``(N, S, K)`` of the state; None takes the most likely classes.
        uniform: ``(N, A)`` of the action; None takes the mode.

    Returns:
        The next state, the policy, its action ``(N, A)``, and the inputs of the actor's layers.
    """
    policy, inputs = actor.apply_gathered(weights, terms, state.feature.detach())
    action = policy.sample(uniform)
    return model.rssm.prior_step(state, model.action_encoder(action), gumbel), policy, action, inputs


def imagine(
    model: Dynamics,
    actor: Actor,
    start: State,
    horizon: int,
    noise: Noise,
    step: Step = imagine_step,
) -> Imagination:
    """Roll out the actor in the model for ``horizon`` steps from ``start`` ``(N, ...)``, which has no gradient.

    ``step`` is :func:`imagine_step` or its compiled version.
    """
    rssm, n = model.rssm, len(start.deter)
    gumbel = noise.gumbel(horizon, n, rssm.stoch, rssm.classes)
    uniform = noise.uniform(horizon, n, actor.size)
    layers = [Gathered.of(layer, n, horizon) for layer in actor.layers]
    weights = [layer.weight for layer in layers]
    state, features, actions, policies = start, [start.feature], [], []
    for i in range(horizon):
        drawn = None if gumbel is None else gumbel[i], None if uniform is None else uniform[i]
        state, policy, action, inputs = step(model, actor, weights, [x.terms[i] for x in layers], state, *drawn)
        features.append(state.feature)
        actions.append(action)
        policies.append(policy)
        for layer, x in zip(layers, inputs, strict=True):
            layer.inputs.append(x)
    actions.insert(0, torch.zeros_like(actions[0]))
    entropy = policies[0].stack(policies).entropy()  # of all steps at once: H times fewer kernels
    return Imagination(torch.stack(features), torch.stack(actions), entropy)


class BehaviourLearner:
    """Updates actor and critic on imagined trajectories."""

    def __init__(
        self,
        config: BehaviourConfig,
        actor_critic: ActorCritic,
        model: FinetuneWorldModel,
        precision: Precision = FULL,
        step: Step = imagine_step,
        ranks: Ranks = ALONE,
    ) -> None:
        """Create the optimisers.

        Args:
            model: world model, on its device; imagination follows its parameters.
            step: :func:`imagine_step` or its compiled version.
        """
        self.config = config
        self.parts = actor_critic
        self.model = FrozenModel(model, precision.dtype)
        self.precision, self.step = precision, step
        self.actor_optimizer = Optimizer([actor_critic.actor], config.actor_optimizer, ranks=ranks)
        self.critic_optimizer = Optimizer([actor_critic.critic], config.critic_optimizer, ranks=ranks)
        device = next(actor_critic.parameters()).device
        self.reward_normaliser = RunningMagnitude(config.reward_momentum, ranks=ranks).to(device)
        self.return_range: ReturnRange | None = None
        if config.return_normalisation == "percentiles":
            self.return_range = ReturnRange(config.return_momentum, ranks).to(device)
        self.updates = 0

    def update(self, start: State, noise: Noise, terminal: Tensor | None = None) -> dict[str, Tensor]:
        """One step of Algorithm 1, lines 23-24; :meth:`advance` belongs after it.

        Args:
            start: states ``(N, ...)`` without gradient.
            terminal: ``(N,)``, 1 for states in which the episode terminated; a discount head takes its word for them.

        Returns:
            Metrics: scalars on the device.
        """
        config, parts, model, precision = self.config, self.parts, self.model, self.precision
        model.refresh()
        with precision.autocast():
            imagination = imagine(model, parts.actor, start, config.horizon, noise, self.step)
            predicted = model.reward(imagination.feature)
            value = parts.slow_critic(imagination.feature)  # (H+1, N)
            continuation = self._continues(imagination.feature[:-1], terminal)  # (H, N)
        reward = self.reward_normaliser(predicted)  # (H+1, N)
        discount = config.discount if continuation is None else config.discount * continuation
        target = lambda_return(reward[:-1], value[:-1], discount, value[-1], config.return_lambda)
        weight = self._weights(target, continuation)  # (H, 1), or (H, N) with a discount head
        bonus = config.entropy_weight * imagination.entropy[:-1]  # (H-1, N)
        # No value is subtracted as a baseline: without gradient it would change nothing.
        scaled = target if self.return_range is None else target / self.return_range(target)
        actor_loss = -(weight[:-1] * (scaled[1:] + bonus)).mean()
        precision.backward(actor_loss)

        target = returns = target.detach()
        if config.critic_target == "published":
            target = torch.cat([target[:1], target[1:] + bonus.detach()])
        with precision.autocast():
            loss, prediction = parts.critic.loss(imagination.feature[:-1].detach(), target)  # (H, N)
        critic_loss = (weight * loss).mean()
        precision.backward(critic_loss)

        metrics = {
            "behaviour/actor_loss": actor_loss.detach(),
            "behaviour/critic_loss": critic_loss.detach(),
            "behaviour/entropy": imagination.entropy[:-1].detach().mean(),
            "behaviour/reward": reward.detach().mean(),
            "behaviour/value": prediction.mean(),
            "behaviour/target": returns.mean(),
            "grad_norm/actor": self.actor_optimizer.step(precision),
            "grad_norm/critic": self.critic_optimizer.step(precision),
        }
        if continuation is not None:
            metrics["behaviour/continue"] = continuation.detach().mean()
        if self.return_range is not None:
            metrics["behaviour/return_range"] = self.return_range.range.clone()
        return metrics

    def advance(self) -> None:
        """Count the update, and move the slow critic every so many; not in :meth:`update`, which may be captured."""
        self.actor_optimizer.advance()
        self.critic_optimizer.advance()
        if self.updates % self.config.slow_critic_every == 0:
            self.parts.copy_slow_critic(self.config.slow_critic_fraction)
        self.updates += 1

    def _continues(self, feature: Tensor, terminal: Tensor | None) -> Tensor | None:
        """Return the probability c that the episode continues after each state, ``(H, N, F) -> (H, N)``.

        What is known of the start replaces what is predicted of it, as in DreamerV2. None without a discount head.
        """
        if self.model.discount is None:
            return None
        predicted = self.model.discount(feature)
        return predicted if terminal is None else torch.cat([(1 - terminal).unsqueeze(0), predicted[1:]])

    def _weights(self, target: Tensor, continuation: Tensor | None = None) -> Tensor:
        """Cumulative discounts shifted by one, without gradient: 1, gamma, gamma^2, ... as ``(H, 1)``.

        With probabilities c ``(H, N)`` of continuing: 1, gamma c_0, gamma^2 c_0 c_1, ... as ``(H, N)``.
        """
        steps = torch.arange(len(target), dtype=target.dtype, device=target.device)
        weights = (self.config.discount**steps).unsqueeze(-1)
        if continuation is None:
            return weights
        reached = torch.cat([torch.ones_like(continuation[:1]), continuation[:-1].detach()])
        return weights * reached.cumprod(dim=0)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of optimisers and normalisers, and the update counter of the slow critic."""
        ranges = {} if self.return_range is None else {"return_range": self.return_range.state_dict()}
        return {
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "reward_normaliser": self.reward_normaliser.state_dict(),
            "updates": self.updates,
            **ranges,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.actor_optimizer.load_state_dict(state["actor_optimizer"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        load_module(self.reward_normaliser, state["reward_normaliser"], "reward_normaliser")
        if self.return_range is not None:
            load_module(self.return_range, state.get("return_range", {}), "return_range")
        self.updates = int(state["updates"])
