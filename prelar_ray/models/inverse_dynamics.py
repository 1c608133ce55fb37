"""Inverse dynamics encoder: the latent action between two frames, Eq. (11)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prelar_ray.config import WorldModelConfig
from prelar_ray.models.latent_action import CategoricalAction, DeterministicAction, GaussianAction, LatentAction
from prelar_ray.models.layers import full_precision
from prelar_ray.models.resnet import ResidualEncoder, innermost_map, residual_encoder_size
from prelar_ray.types import IMAGE_SIZE

__all__ = ["InverseDynamicsEncoder"]


class InverseDynamicsEncoder(nn.Module):
    """Infers q(a~_t | o_{t-n+1}, ..., o_t) from n frames concatenated by channel, or from two subtracted.

    Eq. (11) has n = 2. Frames before the first of a sequence are the first again. Features averaged over positions tell
    what moved and how; a whole map also tells where, which predicts the next frame without any dynamics.
    """

    def __init__(self, config: WorldModelConfig, image_size: int = IMAGE_SIZE) -> None:
        super().__init__()
        self.size = config.latent_action
        self.input = config.inverse_dynamics_input
        self.distribution = config.latent_action_distribution
        self.classes = config.latent_action_classes
        self.frames = config.inverse_dynamics_frames
        channels = 3 * self.frames if self.input == "pair" else 3
        self.trunk = ResidualEncoder(channels, config.inverse_dynamics, image_size)
        self.positions = 1  # that are averaged
        features = residual_encoder_size(config.inverse_dynamics, image_size)
        if config.inverse_dynamics_pooling == "mean":
            channels, side = innermost_map(config.inverse_dynamics, image_size)
            features, self.positions = channels, side * side
        hidden = config.inverse_dynamics_head.hidden
        self.hidden = nn.Linear(features, hidden)
        self.out = nn.Linear(hidden, self.size * (2 if self.distribution == "gaussian" else 1))

    def forward(self, image: Tensor) -> LatentAction:
        """Return the distribution for every pair of successive frames.

        Args:
            image: ``(B, T, C, Hpx, Wpx)``.

        Returns:
            Distribution over ``(B, T-1, L)``; row ``t-1`` belongs to the pair (t-1, t).
        """
        if self.input == "pair":
            pairs = image.shape[1] - 1
            early = image[:, :1].expand(-1, self.frames - 2, -1, -1, -1)
            image = torch.cat([early, image], dim=1) if self.frames > 2 else image
            x = torch.cat([image[:, i : i + pairs] for i in range(self.frames)], dim=2)  # (B, T-1, nC, Hpx, Wpx)
        else:
            x = image[:, 1:] - image[:, :-1]  # (B, T-1, C, Hpx, Wpx)
        # Concatenation always gives channels-first memory; convolutions are faster with channels-last.
        flat = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        features = self.trunk(flat)
        if self.positions > 1:
            features = features.unflatten(1, (-1, self.positions)).mean(dim=-1)
        out = full_precision(self.out(F.elu(self.hidden(features)))).unflatten(0, x.shape[:2])
        if self.distribution == "deterministic":
            return DeterministicAction(out)
        if self.distribution == "categorical":
            return CategoricalAction(out.unflatten(-1, (-1, self.classes)))
        mean, raw = out.chunk(2, dim=-1)
        return GaussianAction(mean, 2 * torch.sigmoid(raw / 2))
