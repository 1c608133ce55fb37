"""The device that networks are computed on."""

from __future__ import annotations

import torch

from prelar_ray.errors import ResourceError

__all__ = ["resolve_device"]


def resolve_device(name: str, gpus: float = 0.0) -> torch.device:
    """Turn the configuration's ``device`` into one that exists.

    Args:
        name: ``auto`` takes a GPU where one is.
        gpus: GPUs that a learner asks for (``learner.gpus``); some are as good as asking for ``cuda``.

    Raises:
        ResourceError: a GPU was asked for and there is none.
    """
    if gpus and name == "auto" and not torch.cuda.is_available():
        raise ResourceError(
            f"learner.gpus={gpus:g}: no GPU is visible to PyTorch; use learner.gpus=0 to learn on the CPU, or see "
            "`prelar-ray doctor`"
        )
    if name == "cuda" and not torch.cuda.is_available():
        raise ResourceError("device=cuda: no GPU is visible to PyTorch; use device=cpu, or see `prelar-ray doctor`")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
