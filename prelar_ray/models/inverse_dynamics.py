"""Inverse dynamics encoder: the latent action between two frames, Eq. (11)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prelar_ray.config import WorldModelConfig
from prelar_ray.models.latent_action import CategoricalAction, DeterministicAction, GaussianAction, LatentAction
from prelar_ray.models.layers import full_precision
from prelar_ray.models.resnet import Padding, ResidualEncoder, innermost_map, residual_encoder_size
from prelar_ray.types import IMAGE_SIZE

__all__ = ["InverseDynamicsEncoder"]


class InverseDynamicsEncoder(nn.Module):
    """Infers q(a~_t | o_{t-n+1}, ..., o_t) from n frames, or from each less the one before, concatenated by channel.

    Eq. (11) has n = 2. Frames before the first of a sequence are the first again.

    A whole feature map tells where things will be, which predicts the next frame without any dynamics. The sum over
    P positions of what features have beyond those of a still picture, sum_p (f_p(x) - f_p(0)) / sqrt(P), tells what
    moved and how. Beyond the border such a network sees the border again, for zeros would tell how far away it is.
    """

    def __init__(self, config: WorldModelConfig, image_size: int = IMAGE_SIZE) -> None:
        super().__init__()
        self.size = config.latent_action
        self.input = config.inverse_dynamics_input
        self.distribution = config.latent_action_distribution
        self.classes = config.latent_action_classes
        self.frames = config.inverse_dynamics_frames
        self.summed = config.inverse_dynamics_pooling == "sum"
        seen = 3 * (self.frames if self.input == "pair" else self.frames - 1)
        padding: Padding = "replicate" if self.summed else "zeros"
        self.trunk = ResidualEncoder(seen, config.inverse_dynamics, image_size, padding)
        self.channels = innermost_map(config.inverse_dynamics, image_size)[0]
        features = self.channels if self.summed else residual_encoder_size(config.inverse_dynamics, image_size)
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
        x = self._seen(image)
        features = self._features(x.flatten(0, 1))
        out = full_precision(self.out(F.elu(self.hidden(features)))).unflatten(0, x.shape[:2])
        if self.distribution == "deterministic":
            return DeterministicAction(out)
        if self.distribution == "categorical":
            return CategoricalAction(out.unflatten(-1, (-1, self.classes)))
        mean, raw = out.chunk(2, dim=-1)
        return GaussianAction(mean, 2 * torch.sigmoid(raw / 2))

    def across_episodes(self, is_first: Tensor) -> Tensor:
        """Return 1 for the steps that are inferred from frames of two episodes, else 0.

        Args:
            is_first: ``(B, T)``; the frames before index 0 are the first again.

        Returns:
            ``(B, T)``; with n = 2, where an episode begins.
        """
        begins = torch.cat([torch.zeros_like(is_first[:, :1]), is_first[:, 1:]], dim=1)
        across = begins
        for lag in range(1, min(self.frames - 1, is_first.shape[1])):
            across = torch.maximum(across, F.pad(begins[:, :-lag], (lag, 0)))
        return across

    def _seen(self, image: Tensor) -> Tensor:
        """Return what is seen of each pair: ``(B, T, C, Hpx, Wpx) -> (B, T-1, nC or (n-1)C, Hpx, Wpx)``."""
        pairs = image.shape[1] - 1
        if self.frames > 2:
            image = torch.cat([image[:, :1].expand(-1, self.frames - 2, -1, -1, -1), image], dim=1)
        if self.input == "difference":
            image = image[:, 1:] - image[:, :-1]
        return torch.cat([image[:, i : i + pairs] for i in range(image.shape[1] - pairs + 1)], dim=2)

    def _features(self, x: Tensor) -> Tensor:
        """``(N, nC or (n-1)C, Hpx, Wpx) -> (N, features)``."""
        # Concatenation always gives channels-first memory; convolutions are faster with channels-last.
        x = x.contiguous(memory_format=torch.channels_last)
        if not self.summed:
            features: Tensor = self.trunk(x)
            return features
        still = torch.zeros_like(x[:1])  # in the same pass, so that it meets the same statistics of batch norm
        features = self.trunk(torch.cat([x, still]))
        moved = (features[:-1] - features[-1:]).unflatten(1, (self.channels, -1))  # (N, c, P)
        return moved.sum(dim=-1) / math.sqrt(moved.shape[-1])  # not large where everything moves, as at a cut
