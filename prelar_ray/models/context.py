"""Context of a scene (ContextWM): one frame whose features the decoder attends to.

The latent state then need not represent the static parts of the scene.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prelar_ray.config import ContextConfig, ConvConfig
from prelar_ray.models.noise import Noise
from prelar_ray.models.resnet import ResidualEncoder, norm_layer
from prelar_ray.types import IMAGE_SIZE

__all__ = ["LARGEST_SIDE", "ContextAttention", "ContextEncoder", "SceneContext"]

LARGEST_SIDE: Final = 16
"""Side of the largest feature maps with attention, pixels; attention at 32x32 would dominate the cost."""


class SceneContext(NamedTuple):
    """Feature maps of one size for B sequences, and the positions that each of the T frames may attend to."""

    feature: Tensor  # (B, P, c), P = side * side positions
    visible: Tensor  # (B*T, V) indices of positions, V = P * (1 - mask)

    def keys(self, position: Tensor) -> Tensor:
        """Return the visible features plus their position embeddings ``(P, c)``: ``(B*T, V, c)``."""
        feature = self.feature + position
        frames = len(self.visible) // len(feature)
        rows = torch.arange(len(feature), device=feature.device).repeat_interleave(frames)
        return feature[rows.unsqueeze(1), self.visible]


class ContextEncoder(nn.Module):
    """Encodes the context frame with a separate trunk like the image encoder's; returns intermediate feature maps."""

    def __init__(self, conv: ConvConfig, config: ContextConfig, image_size: int = IMAGE_SIZE) -> None:
        super().__init__()
        self.mask = config.mask
        self.trunk = ResidualEncoder(3, conv, image_size)

    def forward(self, image: Tensor, noise: Noise) -> dict[int, SceneContext]:
        """Return the context of every sequence by the side of its feature maps.

        Args:
            image: preprocessed ``(B, T, C, Hpx, Wpx)``; the context is one random frame per sequence, or the first if
                ``noise`` is deterministic.
        """
        batch, length = image.shape[:2]
        row = torch.arange(batch, device=image.device)
        frame = torch.zeros_like(row)
        uniform = noise.uniform(batch)
        if uniform is not None:
            frame = (uniform * length).long().clamp_(max=length - 1)
        x = F.elu(self.trunk.conv_in(image[row, frame].contiguous(memory_format=torch.channels_last)))
        contexts = {}
        for stack in self.trunk.stacks:
            x = stack(x)
            if (side := x.shape[-1]) <= LARGEST_SIDE:
                visible = self._visible(batch * length, side * side, noise, x.device)
                if visible.shape[1]:
                    contexts[side] = SceneContext(x.flatten(2).transpose(1, 2), visible)
            x = F.avg_pool2d(x, 2)
        return contexts

    def _visible(self, rows: int, positions: int, noise: Noise, device: torch.device) -> Tensor:
        """Draw the unmasked positions, ``(rows, V)``; the first ones if ``noise`` is deterministic."""
        kept = int(positions * (1 - self.mask))
        order = noise.uniform(rows, positions)
        if order is None:
            return torch.arange(kept, device=device).expand(rows, kept)
        return order.argsort(dim=1)[:, :kept]


class ContextAttention(nn.Module):
    """Adds cross attention to the context to a feature map, ``(N, c, h, w) -> (N, c, h, w)``."""

    def __init__(self, channels: int, side: int, norm: str, config: ContextConfig) -> None:
        super().__init__()
        self.side = side
        self.query_position = nn.Parameter(torch.zeros(side * side, channels))
        self.key_position = nn.Parameter(torch.zeros(side * side, channels))
        self.attention = nn.MultiheadAttention(channels, config.heads, config.dropout, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = norm_layer(channels, norm)

    def forward(self, x: Tensor, context: SceneContext) -> Tensor:
        """Return ``relu(x + attention)``."""
        query = x.flatten(2).transpose(1, 2) + self.query_position
        keys = context.keys(self.key_position)
        found, _ = self.attention(query, keys, keys, need_weights=False)
        found = self.dropout(found).transpose(1, 2).unflatten(-1, (self.side, self.side))
        return F.relu(x + self.norm(found.contiguous(memory_format=torch.channels_last)))
