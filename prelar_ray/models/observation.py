"""What the dynamics observe: images and vectors, each by an encoder of its own; and the head that predicts vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prelar_ray.config import ConvConfig, MLPConfig
from prelar_ray.models.image_encoder import ImageEncoder
from prelar_ray.models.layers import full_precision, hidden_layers
from prelar_ray.models.two_hot import symlog

__all__ = ["VectorEncoder", "VectorHead", "image_encoder", "observed", "size_of"]


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


def image_encoder(config: ConvConfig, image_size: int) -> ImageEncoder | None:
    """Build the encoder of images of ``image_size`` pixels; None for 0, where none are observed."""
    return ImageEncoder(config, image_size) if image_size else None


def size_of(*encoders: ImageEncoder | VectorEncoder | None) -> int:
    """Return how many numbers the encoders that there are return together."""
    return sum(encoder.size for encoder in encoders if encoder is not None)


def observed(
    encoder: ImageEncoder | None, image: Tensor, vector_encoder: VectorEncoder | None, vector: Tensor | None
) -> Tensor:
    """Return what the dynamics observe, ``(..., E)``: the embedding of the image, and the encoded vector behind it.

    Args:
        encoder: of images; None where none are observed.
        image: preprocessed ``(..., C, Hpx, Wpx)``.
        vector_encoder: of vectors; None where none are observed.
        vector: ``(..., V)``; read where vectors are observed.
    """
    parts = [] if encoder is None else [encoder(image)]
    if vector_encoder is not None:
        if vector is None:
            raise ValueError("this model observes vectors too: hand it those of env.vector_key")
        parts.append(vector_encoder(vector.to(parts[0].dtype if parts else image.dtype)))
    return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
