"""Weights alone, as safetensors: what travels of a checkpoint; such files hold tensors and nothing that is executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from prelar_ray.errors import CheckpointError

__all__ = ["WEIGHTS", "read_weights", "write_weights"]

WEIGHTS: Final = "model.safetensors"
"""Name of the file in an exported folder, in place of the checkpoint's state."""
PARTS: Final = ("model", "actor_critic")
"""Of a checkpoint's state; the rest is needed to resume, and left out."""


def write_weights(path: Path, state: dict[str, Any]) -> int:
    """Write the weights of a checkpoint's state and return how many numbers they are.

    A tensor is named by its part and its name there, as in ``actor_critic.actor.mean.bias``.
    """
    named = {
        f"{part}.{name}": tensor.detach().cpu().contiguous()
        for part in PARTS
        for name, tensor in state.get(part, {}).items()
        if isinstance(tensor, torch.Tensor)
    }
    # Tensors that share memory cannot be written twice.
    written = save({name: tensor.clone() for name, tensor in named.items()}, metadata={"format": "pt"})
    path.write_bytes(written)  # save_file would let nobody else read it
    return sum(tensor.numel() for tensor in named.values())


def read_weights(path: Path) -> dict[str, Any]:
    """Return a checkpoint's state as far as :func:`write_weights` writes it.

    Raises:
        CheckpointError: it is damaged, or of something else.
    """
    try:
        named = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as weights ({error}); export or fetch it again") from error
    state: dict[str, Any] = {}
    for name, tensor in named.items():
        part, _, rest = name.partition(".")
        if part not in PARTS:
            raise CheckpointError(f"{path}: holds {name[:80]!r}, expected names that begin with {' or '.join(PARTS)}")
        state.setdefault(part, {})[rest] = tensor
    return state
