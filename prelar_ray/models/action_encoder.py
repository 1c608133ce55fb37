"""Action encoder: real actions to latent actions, Eq. (12)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from prelar_ray.config.schema import HeadConfig

__all__ = ["ActionEncoder"]


class ActionEncoder(nn.Module):
    """Deterministic ``(..., A) -> (..., L)``."""

    def __init__(self, action: int, head: HeadConfig, latent_action: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(action, head.hidden)
        self.out = nn.Linear(head.hidden, latent_action)

    def forward(self, action: Tensor) -> Tensor:
        """Return the latent action, ``(..., A) -> (..., L)``."""
        latent: Tensor = self.out(F.elu(self.hidden(action)))
        return latent
