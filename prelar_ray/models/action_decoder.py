"""Action decoder: the real action that a latent action stands for."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from prelar_ray.config import HeadConfig
from prelar_ray.models.layers import full_precision

__all__ = ["ActionDecoder"]


class ActionDecoder(nn.Module):
    """Mirror of the action encoder, of the same width: mean of a unit-variance Gaussian, ``(..., L) -> (..., A)``."""

    def __init__(self, latent_action: int, head: HeadConfig, action: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(latent_action, head.hidden)
        self.out = nn.Linear(head.hidden, action)

    def forward(self, latent_action: Tensor) -> Tensor:
        """Return the mean, ``(..., L) -> (..., A)``."""
        return full_precision(self.out(F.elu(self.hidden(latent_action))))
