"""Low-dimensional observations beside images: their encoder, and the head that predicts them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prelar_ray.config import MLPConfig
from prelar_ray.models.layers import full_precision, hidden_layers
from prelar_ray.models.two_hot import symlog

__all__ = ["VectorEncoder", "VectorHead", "joined"]


class VectorEncoder(nn.Module):
    """Encodes vectors of any scale through symlog, ``(..., V) -> (..., units)``."""

    def __init__(self, vector: int, config: MLPConfig) -> None:
        super().__init__()
        self.size = config.units
        self.hidden = hidden_layers(vector, config)

    def forward(self, vector: Tensor) -> Tensor:
        encoded: Tensor = self.hidden(symlog(vector))
        return encoded


class VectorHead(nn.Module):
    """Predicts the vector in symlog space: mean of a unit-variance Gaussian, ``(..., F) -> (..., V)``."""

    def __init__(self, feature: int, vector: int, config: MLPConfig) -> None:
        super().__init__()
        self.hidden = hidden_layers(feature, config)
        self.out = nn.Linear(config.units, vector)

    def forward(self, feature: Tensor) -> Tensor:
        return full_precision(self.out(self.hidden(feature)))

    def loss(self, feature: Tensor, vector: Tensor) -> Tensor:
        """Negative log-likelihood of ``vector`` ``(..., V)`` without its constant, nats, ``(...)``."""
        return 0.5 * (self(feature) - symlog(vector)).square().sum(dim=-1)


def joined(embed: Tensor, encoder: VectorEncoder | None, vector: Tensor | None) -> Tensor:
    """Return what the dynamics observe: the image's embedding ``(..., E)``, with the encoded vector behind it."""
    if encoder is None:
        return embed
    if vector is None:
        raise ValueError("this model observes vectors too: hand it those of env.vector_key")
    return torch.cat([embed, encoder(vector.to(embed.dtype))], dim=-1)
