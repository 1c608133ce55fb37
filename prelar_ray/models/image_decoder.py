"""Image decoder: features to frames."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prelar_ray.config.schema import ConvConfig
from prelar_ray.models.resnet import ResidualLayer
from prelar_ray.types import IMAGE_SIZE

__all__ = ["ImageDecoder", "image_log_prob"]


class ImageDecoder(nn.Module):
    """Decode features to the mean of a unit-variance Gaussian over pixels, ``(..., F) -> (..., C, Hpx, Wpx)``."""

    def __init__(self, feature: int, config: ConvConfig) -> None:
        super().__init__()
        self.side = IMAGE_SIZE // 2 ** (config.stacks + 1)
        self.channels = config.depth * 2 ** (config.stacks - 1)
        self.linear_in = nn.Linear(feature, self.channels * self.side * self.side)
        self.stacks = nn.ModuleList()
        inputs = self.channels
        for _ in range(config.stacks):
            outputs = inputs // 2
            sizes = [inputs] * config.layers + [outputs]  # the last layer of a stack halves the channels
            pairs = pairwise(sizes)
            self.stacks.append(nn.Sequential(*(ResidualLayer(a, b, config.norm) for a, b in pairs)))
            inputs = outputs
        self.conv_out = nn.ConvTranspose2d(inputs, 3, 3, stride=2, padding=1, output_padding=1)

    def forward(self, feature: Tensor) -> Tensor:
        x = self.linear_in(feature.flatten(0, -2)).unflatten(1, (self.channels, self.side, self.side))
        x = x.contiguous(memory_format=torch.channels_last)
        for stack in self.stacks:
            x = stack(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        image: Tensor = self.conv_out(x)
        return image.unflatten(0, feature.shape[:-1])


def image_log_prob(mean: Tensor, image: Tensor) -> Tensor:
    """Log-likelihood without its constant: minus half the squared error summed over pixels.

    Args:
        mean, image: ``(..., C, Hpx, Wpx)``.

    Returns:
        ``(...)``.
    """
    return -0.5 * (image - mean).square().sum(dim=(-3, -2, -1))
