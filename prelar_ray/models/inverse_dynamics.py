"""Inverse dynamics encoder: the latent action between two frames, Eq. (11)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prelar_ray.config.schema import ConvConfig, HeadConfig
from prelar_ray.models.resnet import ResidualEncoder, residual_encoder_size

__all__ = ["InverseDynamicsEncoder", "LatentAction"]


class LatentAction(NamedTuple):
    """Diagonal Gaussian over latent actions; both ``(..., L)``."""

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor | None) -> Tensor:
        """Reparameterised sample; the mean where ``noise`` (standard normal, same shape) is None."""
        return self.mean if noise is None else self.mean + self.std * noise


class InverseDynamicsEncoder(nn.Module):
    """Infer q(a~_t | o_{t-1}, o_t) from the channel-wise concatenation of two frames."""

    def __init__(self, conv: ConvConfig, head: HeadConfig, latent_action: int) -> None:
        super().__init__()
        self.size = latent_action
        self.trunk = ResidualEncoder(6, conv)
        self.hidden = nn.Linear(residual_encoder_size(conv), head.hidden)
        self.out = nn.Linear(head.hidden, 2 * latent_action)

    def forward(self, image: Tensor) -> LatentAction:
        """Return the distribution for every pair of successive frames.

        Args:
            image: ``(B, T, C, Hpx, Wpx)``.

        Returns:
            Mean and standard deviation, ``(B, T-1, L)``; row ``t-1`` belongs to the pair (t-1, t).
        """
        pairs = torch.cat([image[:, :-1], image[:, 1:]], dim=2)  # (B, T-1, 2C, Hpx, Wpx)
        # The concatenation is channel-first in memory whatever its inputs are; convolutions prefer channels-last.
        flat = pairs.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        hidden = F.elu(self.hidden(self.trunk(flat)))
        mean, raw = self.out(hidden).unflatten(0, pairs.shape[:2]).chunk(2, dim=-1)
        return LatentAction(mean, 2 * torch.sigmoid(raw / 2))
