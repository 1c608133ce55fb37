"""Image decoder: features to frames."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prelar_ray.config import ContextConfig, ConvConfig
from prelar_ray.models.context import LARGEST_SIDE, ContextAttention, SceneContext
from prelar_ray.models.resnet import ResidualLayer, innermost_map, stack_count
from prelar_ray.types import IMAGE_SIZE

__all__ = ["ImageDecoder", "image_log_prob"]


class ImageDecoder(nn.Module):
    """Decodes features to the mean of a unit-variance Gaussian over pixels, ``(..., F) -> (..., C, Hpx, Wpx)``.

    With ``context`` enabled, every second residual layer below 32x32 attends to a context frame first (ContextWM).
    """

    def __init__(
        self, feature: int, config: ConvConfig, context: ContextConfig | None = None, image_size: int = IMAGE_SIZE
    ) -> None:
        super().__init__()
        self.channels, self.side = innermost_map(config, image_size)
        self.linear_in = nn.Linear(feature, self.channels * self.side * self.side)
        self.stacks = nn.ModuleList()
        self.attentions = nn.ModuleDict()  # by "stack_layer"
        inputs, side = self.channels, self.side
        for i in range(stack_count(config, image_size)):
            outputs, side = inputs // 2, 2 * side
            sizes = [inputs] * config.layers + [outputs]  # the last layer of a stack halves the channels
            pairs = pairwise(sizes)
            self.stacks.append(nn.Sequential(*(ResidualLayer(a, b, config.norm) for a, b in pairs)))
            if context is not None and context.enabled and side <= LARGEST_SIDE:
                for layer in range(0, config.layers, 2):
                    self.attentions[f"{i}_{layer}"] = ContextAttention(inputs, side, config.norm, context)
            inputs = outputs
        self.conv_out = nn.ConvTranspose2d(inputs, 3, 3, stride=2, padding=1, output_padding=1)

    def forward(self, feature: Tensor, context: Mapping[int, SceneContext] | None = None) -> Tensor:
        """Return the mean image.

        Args:
            feature: ``(..., F)``; with a context, ``(B, T, F)``.
            context: feature maps of the context frames by side; required if the decoder was built with a context.
        """
        x = self.linear_in(feature.flatten(0, -2)).unflatten(1, (self.channels, self.side, self.side))
        x = x.contiguous(memory_format=torch.channels_last)
        for i, stack in enumerate(self.stacks):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            assert isinstance(stack, nn.Sequential)
            for j, layer in enumerate(stack):
                x = self._with_context(f"{i}_{j}", layer, x, context)
        image: Tensor = self.conv_out(x)
        return image.unflatten(0, feature.shape[:-1])

    def _with_context(
        self, name: str, layer: nn.Module, x: Tensor, context: Mapping[int, SceneContext] | None
    ) -> Tensor:
        if name not in self.attentions:
            return layer(x)
        if context is None:
            raise ValueError("this decoder attends to a context frame: hand it WorldModel.context(image, noise)")
        found = context.get(x.shape[-1])
        return layer(x) if found is None else layer(self.attentions[name](x, found), x)


def image_log_prob(mean: Tensor, image: Tensor) -> Tensor:
    """Log-likelihood without its constant: minus half the squared error summed over pixels.

    Args:
        mean, image: ``(..., C, Hpx, Wpx)``.

    Returns:
        ``(...)``.
    """
    return -0.5 * (image - mean).square().sum(dim=(-3, -2, -1))
