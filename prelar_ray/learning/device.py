"""The device that networks are computed on."""

from __future__ import annotations

import torch

from prelar_ray.errors import ResourceError

__all__ = ["resolve_device"]


def resolve_device(name: str) -> torch.device:
    """Turn the configuration's ``device`` into one that exists.

    Raises:
        ResourceError: a GPU was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ResourceError("device=cuda: no GPU is visible to PyTorch; use device=cpu, or see `prelar-ray doctor`")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
