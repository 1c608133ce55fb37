"""Actor and critics, Eq. (1), (13)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prelar_ray.config import BehaviourConfig, MLPConfig
from prelar_ray.models.distributions import TruncatedNormal
from prelar_ray.models.layers import MLP, full_precision, hidden_layers, initialise

__all__ = ["Actor", "ActorCritic"]


class Actor(nn.Module):
    """Policy ``(..., F) -> TruncatedNormal (..., A)``."""

    def __init__(self, feature: int, action: int, config: MLPConfig, min_std: float) -> None:
        super().__init__()
        self.min_std = min_std
        self.hidden = hidden_layers(feature, config)
        self.mean = nn.Linear(config.units, action)
        self.std = nn.Linear(config.units, action)

    def forward(self, feature: Tensor) -> TruncatedNormal:
        """Return the action distribution."""
        hidden = self.hidden(feature)
        mean, raw = full_precision(self.mean(hidden)), full_precision(self.std(hidden))
        return TruncatedNormal(torch.tanh(mean), 2 * torch.sigmoid(raw / 2) + self.min_std)


class ActorCritic(nn.Module):
    """Actor, critic, and the slow critic that bootstraps returns."""

    def __init__(self, feature: int, action: int, config: BehaviourConfig) -> None:
        super().__init__()
        self.actor = Actor(feature, action, config.actor, config.actor_min_std)
        self.critic = MLP(feature, config.critic)
        self.slow_critic = MLP(feature, config.critic).requires_grad_(False)
        initialise(self)
        self.copy_slow_critic()

    @torch.no_grad()
    def copy_slow_critic(self) -> None:
        """Make the slow critic equal to the critic."""
        self.slow_critic.load_state_dict(self.critic.state_dict())
