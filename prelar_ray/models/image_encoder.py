"""Image encoder: frames to embeddings."""

from __future__ import annotations

from torch import Tensor, nn

from prelar_ray.config import ConvConfig
from prelar_ray.models.resnet import ResidualEncoder, residual_encoder_size
from prelar_ray.types import IMAGE_SIZE

__all__ = ["ImageEncoder"]


class ImageEncoder(nn.Module):
    """Encodes each frame separately, ``(..., C, Hpx, Wpx) -> (..., E)``."""

    def __init__(self, config: ConvConfig, image_size: int = IMAGE_SIZE) -> None:
        super().__init__()
        self.size = residual_encoder_size(config, image_size)
        self.trunk = ResidualEncoder(3, config, image_size)

    def forward(self, image: Tensor) -> Tensor:
        embed: Tensor = self.trunk(image.flatten(0, -4))
        return embed.unflatten(0, image.shape[:-3])
