"""Actors and critics, Eq. (1), (13)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prelar_ray.action_space import ActionSpace
from prelar_ray.config import BehaviourConfig, MLPConfig
from prelar_ray.models.distributions import OneHotCategoricals, TruncatedNormal
from prelar_ray.models.layers import full_precision, hidden_layers, initialise
from prelar_ray.models.two_hot import scalar_head

__all__ = ["ActionDistribution", "Actor", "ActorCritic", "ContinuousActor", "DiscreteActor", "make_actor"]

ActionDistribution = TruncatedNormal | OneHotCategoricals
"""Distributions of actions."""


class Actor(nn.Module, ABC):
    """Policy: from a feature ``(..., F)`` to the distribution of actions ``(..., A)``."""

    def __init__(self, feature: int, config: MLPConfig) -> None:
        super().__init__()
        self.hidden = hidden_layers(feature, config)

    @property
    @abstractmethod
    def size(self) -> int:
        """Numbers A in an action."""

    @property
    @abstractmethod
    def heads(self) -> list[nn.Linear]:
        """Layers after the hidden ones."""

    @abstractmethod
    def _policy(self, *outputs: Tensor) -> ActionDistribution:
        """Return the distribution that the outputs of the heads describe."""

    @property
    def layers(self) -> list[nn.Linear]:
        """All of them: hidden ones, heads."""
        return [*(part for part in self.hidden if isinstance(part, nn.Linear)), *self.heads]

    def forward(self, feature: Tensor) -> ActionDistribution:
        """Return the action distribution."""
        hidden = self.hidden(feature)
        return self._policy(*(head(hidden) for head in self.heads))

    def apply_gathered(
        self, weights: Sequence[Tensor], terms: Sequence[Tensor], feature: Tensor
    ) -> tuple[ActionDistribution, list[Tensor]]:
        """Return the action distribution and the inputs of all :attr:`layers`.

        Args:
            weights, terms: of the layers, as :class:`~prelar_ray.models.gathered.Gathered` has them.
            feature: ``(N, F)``.
        """
        heads = len(self.heads)
        inputs = [feature.to(weights[0].dtype)]
        for weight, term in zip(weights[:-heads], terms[:-heads], strict=True):
            inputs.append(F.elu(torch.addmm(term, inputs[-1], weight.t())))
        hidden = inputs[-1]
        outputs = [torch.addmm(terms[i], hidden, weights[i].t()) for i in range(-heads, 0)]
        return self._policy(*outputs), [x.detach() for x in (*inputs, *[hidden] * (heads - 1))]


class ContinuousActor(Actor):
    """Actions in [-1, 1]: a truncated normal."""

    def __init__(self, feature: int, action: int, config: MLPConfig, min_std: float) -> None:
        super().__init__(feature, config)
        self.min_std = min_std
        self.mean = nn.Linear(config.units, action)
        self.std = nn.Linear(config.units, action)

    @property
    def size(self) -> int:
        """Numbers A in an action."""
        return self.mean.out_features

    @property
    def heads(self) -> list[nn.Linear]:
        """Mean and standard deviation."""
        return [self.mean, self.std]

    def _policy(self, *outputs: Tensor) -> TruncatedNormal:
        mean, raw = (full_precision(output) for output in outputs)
        return TruncatedNormal(torch.tanh(mean), 2 * torch.sigmoid(raw / 2) + self.min_std)


class DiscreteActor(Actor):
    """Discrete actions: a categorical for each factor, independent of the others."""

    sizes: Tensor
    """Of the factors, so that weights and checkpoints say what their actions are."""

    def __init__(self, feature: int, sizes: tuple[int, ...], config: MLPConfig) -> None:
        super().__init__(feature, config)
        self.logits = nn.Linear(config.units, sum(sizes))
        self._sizes = sizes
        self.register_buffer("sizes", torch.tensor(sizes))

    @property
    def size(self) -> int:
        """Numbers A in an action."""
        return self.logits.out_features

    @property
    def heads(self) -> list[nn.Linear]:
        """Logits."""
        return [self.logits]

    def _policy(self, *outputs: Tensor) -> OneHotCategoricals:
        (logits,) = outputs
        return OneHotCategoricals(full_precision(logits), self._sizes)


def make_actor(feature: int, actions: ActionSpace, config: BehaviourConfig) -> Actor:
    """Build the actor of an action space for features of size F."""
    if actions.is_discrete:
        return DiscreteActor(feature, actions.sizes, config.actor)
    return ContinuousActor(feature, actions.size, config.actor, config.actor_min_std)


class ActorCritic(nn.Module):
    """Actor, critic, and the slow critic that bootstraps returns."""

    def __init__(self, feature: int, actions: ActionSpace | int, config: BehaviourConfig) -> None:
        """Build for features of size F and ``actions``; a number stands for so many continuous ones."""
        super().__init__()
        self.actor = make_actor(feature, ActionSpace.of(actions), config)
        self.critic = scalar_head(feature, config.critic, config.critic_distribution)
        self.slow_critic = scalar_head(feature, config.critic, config.critic_distribution).requires_grad_(False)
        initialise(self)
        self.copy_slow_critic()

    @torch.no_grad()
    def copy_slow_critic(self, fraction: float = 1.0) -> None:
        """Move the slow critic towards the critic: slow <- slow + fraction (critic - slow); 1 makes them equal."""
        if fraction == 1:
            self.slow_critic.load_state_dict(self.critic.state_dict())
        else:
            torch._foreach_lerp_(list(self.slow_critic.parameters()), list(self.critic.parameters()), fraction)
