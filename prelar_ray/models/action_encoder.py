"""Inputs of the RSSM made from real actions: the action encoder, Eq. (12), or padding in methods without it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from prelar_ray.config import HeadConfig, WorldModelConfig
from prelar_ray.errors import ConfigError
from prelar_ray.models.layers import full_precision

__all__ = ["ActionEncoder", "PaddedAction", "action_input"]


class ActionEncoder(nn.Module):
    """The paper's deterministic action encoder, ``(..., A) -> (..., L)``, Eq. (12)."""

    def __init__(self, action: int, head: HeadConfig, latent_action: int) -> None:
        super().__init__()
        self.size = latent_action
        self.hidden = nn.Linear(action, head.hidden)
        self.out = nn.Linear(head.hidden, latent_action)

    def forward(self, action: Tensor) -> Tensor:
        """Return the latent action, ``(..., A) -> (..., L)``."""
        return full_precision(self.out(F.elu(self.hidden(action))))


class PaddedAction(nn.Module):
    """The action itself followed by zeros, ``(..., A) -> (..., L)``; without parameters (APV, DreamerV2)."""

    def __init__(self, action: int, size: int) -> None:
        super().__init__()
        if action > size:
            raise ConfigError(
                f"world_model.latent_action={size}: an action of {action} numbers does not fit; "
                f"use at least {action}, or world_model.action_input=encoder"
            )
        self.size = size

    def forward(self, action: Tensor) -> Tensor:
        """Pad, ``(..., A) -> (..., L)``."""
        return F.pad(action, (0, self.size - action.shape[-1]))


def action_input(config: WorldModelConfig, action: int) -> ActionEncoder | PaddedAction:
    """Build the module that ``world_model.action_input`` names, for actions of size A.

    Raises:
        ConfigError: the action is larger than the latent action it should be padded to.
    """
    if config.action_input == "encoder":
        return ActionEncoder(action, config.action_encoder, config.latent_action)
    return PaddedAction(action, action if config.action_input == "raw" else config.latent_action)
