"""Layer normalisation of feature maps, which needs no statistics of a batch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from prelar_ray.models.layers import full_precision

__all__ = ["LayerNorm2d"]


class LayerNorm2d(nn.LayerNorm):
    """Normalises the channels of each position by themselves, ``(N, c, h, w) -> (N, c, h, w)``.

    With the mean and the variance over the c channels of one position, ``y = (x - mean) / sqrt(variance + 1e-3)`` times
    a weight plus a bias per channel. Neither other frames nor other positions count, so that training, acting and
    evaluation compute the same. The numbers of a position lie together in channels-last memory, where this is as fast
    as batch norm; one group over all positions would leave that format on a GPU.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        last = full_precision(x).permute(0, 2, 3, 1)
        y = F.layer_norm(last, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)
        # Copied, for what follows works in place, and the gradient of a view that was written to takes twice as long.
        return y.to(x.dtype, copy=True)
