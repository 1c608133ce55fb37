"""Image encoder: frames to embeddings."""

from __future__ import annotations

from torch import Tensor, nn

from prelar_ray.config import ConvConfig
from prelar_ray.models.resnet import ResidualEncoder, residual_encoder_size

__all__ = ["ImageEncoder"]


class ImageEncoder(nn.Module):
    """Encodes each frame separately, ``(..., C, Hpx, Wpx) -> (..., E)``."""

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        self.size = residual_encoder_size(config)
        self.trunk = ResidualEncoder(3, config)

    def forward(self, image: Tensor) -> Tensor:
        embed: Tensor = self.trunk(image.flatten(0, -4))
        return embed.unflatten(0, image.shape[:-3])
