"""Actor and critics, Eq. (1), (13)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prelar_ray.config import BehaviourConfig, MLPConfig
from prelar_ray.models.distributions import TruncatedNormal
from prelar_ray.models.layers import full_precision, hidden_layers, initialise
from prelar_ray.models.two_hot import scalar_head

__all__ = ["Actor", "ActorCritic"]


class Actor(nn.Module):
    """Policy ``(..., F) -> TruncatedNormal (..., A)``."""

    def __init__(self, feature: int, action: int, config: MLPConfig, min_std: float) -> None:
        super().__init__()
        self.min_std = min_std
        self.hidden = hidden_layers(feature, config)
        self.mean = nn.Linear(config.units, action)
        self.std = nn.Linear(config.units, action)

    @property
    def layers(self) -> list[nn.Linear]:
        """All of them: hidden ones, mean, standard deviation."""
        return [*(part for part in self.hidden if isinstance(part, nn.Linear)), self.mean, self.std]

    def forward(self, feature: Tensor) -> TruncatedNormal:
        """Return the action distribution."""
        hidden = self.hidden(feature)
        return self._policy(self.mean(hidden), self.std(hidden))

    def apply_gathered(
        self, weights: Sequence[Tensor], terms: Sequence[Tensor], feature: Tensor
    ) -> tuple[TruncatedNormal, list[Tensor]]:
        """Return the action distribution and the inputs of all :attr:`layers`.

        Args:
            weights, terms: of the layers, as :class:`~prelar_ray.models.gathered.Gathered` has them.
            feature: ``(N, F)``.
        """
        inputs = [feature.to(weights[0].dtype)]
        for weight, term in zip(weights[:-2], terms[:-2], strict=True):
            inputs.append(F.elu(torch.addmm(term, inputs[-1], weight.t())))
        hidden = inputs[-1]
        mean, raw = (torch.addmm(terms[i], hidden, weights[i].t()) for i in (-2, -1))
        return self._policy(mean, raw), [x.detach() for x in (*inputs, hidden)]

    def _policy(self, mean: Tensor, raw: Tensor) -> TruncatedNormal:
        mean, raw = full_precision(mean), full_precision(raw)
        return TruncatedNormal(torch.tanh(mean), 2 * torch.sigmoid(raw / 2) + self.min_std)


class ActorCritic(nn.Module):
    """Actor, critic, and the slow critic that bootstraps returns."""

    def __init__(self, feature: int, action: int, config: BehaviourConfig) -> None:
        super().__init__()
        self.actor = Actor(feature, action, config.actor, config.actor_min_std)
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
