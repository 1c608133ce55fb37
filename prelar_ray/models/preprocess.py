"""Conversion between stored frames and the inputs and outputs of networks."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["postprocess_image", "preprocess_image"]


def preprocess_image(image: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Map uint8 frames to floats in [-0.5, 0.5] (PreLAR, Table 1).

    Args:
        image: ``(..., Hpx, Wpx, C)`` uint8, on the device that computes.
        dtype: type of the result.

    Returns:
        ``(..., C, Hpx, Wpx)``; a permuted view, so that flattened frames are channels-last in memory.
    """
    return image.to(dtype).div_(255.0).sub_(0.5).movedim(-1, -3)


def postprocess_image(image: Tensor) -> Tensor:
    """Map decoded ``(..., C, Hpx, Wpx)`` back to uint8 ``(..., Hpx, Wpx, C)``."""
    return image.movedim(-3, -1).add(0.5).mul(255.0).round().clamp(0, 255).to(torch.uint8)
