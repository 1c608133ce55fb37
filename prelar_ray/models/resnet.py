"""Residual convolutions shared by the image encoder, the inverse dynamics encoder and the image decoder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from prelar_ray.config import ConvConfig
from prelar_ray.errors import CheckpointError
from prelar_ray.models.layer_norm import LayerNorm2d
from prelar_ray.types import IMAGE_SIZE

__all__ = [
    "Padding",
    "ResidualEncoder",
    "ResidualLayer",
    "fold_norms",
    "folded_config",
    "innermost_map",
    "norm_layer",
    "residual_encoder_size",
    "stack_count",
]

_EPS = 1e-5
Padding = Literal["zeros", "replicate"]
"""What convolutions see beyond the border; zeros tell them where the border is."""


def norm_layer(channels: int, kind: str) -> nn.Module:
    """Build the normalisation that :class:`~prelar_ray.config.ConvConfig` names, ``(N, c, h, w) -> (N, c, h, w)``."""
    if kind == "layer":
        return LayerNorm2d(channels)
    return nn.BatchNorm2d(channels, eps=_EPS) if kind == "batch" else nn.Identity()


class Convolution(nn.Conv2d):
    """A convolution of 3 x 3 with the border that ``padding`` names; ``(N, inputs, h, w) -> (N, outputs, h', w')``.

    PyTorch's own replication adds gradients in any order on a GPU, so that runs could not be repeated bit by bit.
    """

    def __init__(self, inputs: int, outputs: int, padding: Padding, stride: int = 1, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 3, stride, padding=int(padding == "zeros"), bias=bias)
        self.replicates = padding == "replicate"

    def forward(self, x: Tensor) -> Tensor:
        if self.replicates:
            x = torch.cat([x[:, :, :1], x, x[:, :, -1:]], 2)
            x = torch.cat([x[..., :1], x, x[..., -1:]], 3)
        return super().forward(x)


class ResidualLayer(nn.Module):
    """Two convolutions with norms, plus the skip; ``(N, inputs, h, w) -> (N, outputs, h, w)``.

    The skip may start at another tensor ``around``, ``(N, inputs, h, w)``.
    """

    def __init__(self, inputs: int, outputs: int, norm: str, padding: Padding = "zeros") -> None:
        super().__init__()
        bias = norm == "none"  # a norm layer has its own shift
        self.conv1 = Convolution(inputs, outputs, padding, bias=bias)
        self.norm1 = norm_layer(outputs, norm)
        self.conv2 = Convolution(outputs, outputs, padding, bias=bias)
        self.norm2 = norm_layer(outputs, norm)
        self.skip: nn.Module = nn.Identity()
        if inputs != outputs:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=bias), norm_layer(outputs, norm))

    def forward(self, x: Tensor, around: Tensor | None = None) -> Tensor:
        # In place wherever the backward pass does not need the overwritten value: half the activation memory.
        h = F.relu_(self.norm1(self.conv1(x)))
        h = self.norm2(self.conv2(h)).add_(self.skip(x if around is None else around))
        return F.relu_(h)


def fold_norms(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold the batch norms of residual layers, in evaluation mode, into their convolutions.

    Returns:
        State of the same layers with :func:`folded_config`, whose outputs differ only by rounding.

    Raises:
        CheckpointError: a norm layer is incomplete.
    """
    norms = [key.removesuffix("running_mean") for key in state if key.endswith("running_mean")]
    convolutions = {norm: re.sub(r"norm(\d)\.$", r"conv\1.", norm.replace("skip.1.", "skip.0.")) for norm in norms}
    folded = {key: value for key, value in state.items() if not key.startswith(tuple(convolutions))}
    for norm, conv in convolutions.items():
        wanted = [conv + "weight", *(norm + part for part in ("running_mean", "running_var", "weight", "bias"))]
        if missing := [key for key in wanted if key not in state]:
            raise CheckpointError(f"checkpoint lacks {missing[0]}, which belongs to {norm}running_mean")
        weight, mean, variance, scale, shift = (state[key].detach() for key in wanted)
        folded[conv + "weight"], folded[conv + "bias"] = fuse_conv_bn_weights(
            weight, None, mean, variance, _EPS, scale, shift
        )
    return folded


def folded_config(config: ConvConfig) -> ConvConfig:
    """Return the configuration that the layers of ``config`` have after :func:`fold_norms`; other norms stay."""
    return config.model_copy(update={"norm": "none"}) if config.norm == "batch" else config


def stack_count(config: ConvConfig, image_size: int) -> int:
    """Return the residual stacks for frames of ``image_size`` pixels: one more for each doubling of 64, one less at 32.

    So the smallest feature map keeps its side, and the embedding E grows with its channels: twofold at 128. With equal
    stacks E, and the layers of RSSM and decoder at it, would grow fourfold, and receptive fields would not grow.
    """
    return config.stacks + image_size.bit_length() - IMAGE_SIZE.bit_length()


def innermost_map(config: ConvConfig, image_size: int) -> tuple[int, int]:
    """Return channels and side of the smallest feature map: that behind an encoder's last stack."""
    stacks = stack_count(config, image_size)
    channels: int = config.depth * 2 ** (stacks - 1)
    side: int = image_size // 2 ** (stacks + 1)
    return channels, side


def residual_encoder_size(config: ConvConfig, image_size: int = IMAGE_SIZE) -> int:
    """Length of the vector that :class:`ResidualEncoder` returns for frames of ``image_size`` pixels."""
    channels, side = innermost_map(config, image_size)
    return channels * side * side


class ResidualEncoder(nn.Module):
    """Frames to vectors: strided convolution and ELU, then residual stacks with average pooling.

    ``(N, channels, Hpx, Wpx) -> (N, E)``, flattened in (channel, row, column) order.
    """

    def __init__(
        self, channels: int, config: ConvConfig, image_size: int = IMAGE_SIZE, padding: Padding = "zeros"
    ) -> None:
        super().__init__()
        self.conv_in = Convolution(channels, config.depth, padding, stride=2)
        self.stacks = nn.ModuleList()
        inputs = config.depth
        for i in range(stack_count(config, image_size)):
            outputs = config.depth * 2**i
            sizes = [inputs] + [outputs] * config.layers
            pairs = pairwise(sizes)
            self.stacks.append(nn.Sequential(*(ResidualLayer(a, b, config.norm, padding) for a, b in pairs)))
            inputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu(self.conv_in(x))
        for stack in self.stacks:
            x = F.avg_pool2d(stack(x), 2)
        return x.flatten(1)
