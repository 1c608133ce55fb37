"""Small building blocks shared by all networks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prelar_ray.config import MLPConfig
from prelar_ray.errors import CheckpointError

__all__ = ["MLP", "full_precision", "hidden_layers", "initialise", "load_module", "parameter_count"]


def initialise(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases everywhere except normalisation layers, as published."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def hidden_layers(inputs: int, config: MLPConfig) -> nn.Sequential:
    """Return ``layers`` times Linear and ELU, ``(..., inputs) -> (..., units)``."""
    parts: list[nn.Module] = []
    for _ in range(config.layers):
        parts += [nn.Linear(inputs, config.units), nn.ELU()]
        inputs = config.units
    return nn.Sequential(*parts)


class MLP(nn.Module):
    """Scalar head: mean of a unit-variance Gaussian, ``(..., F) -> (...)``."""

    def __init__(self, inputs: int, config: MLPConfig) -> None:
        super().__init__()
        self.hidden = hidden_layers(inputs, config)
        self.out = nn.Linear(config.units, 1)

    def forward(self, feature: Tensor) -> Tensor:
        """Return the mean, ``(..., F) -> (...)``."""
        return full_precision(self.out(self.hidden(feature)).squeeze(-1))


def full_precision(x: Tensor) -> Tensor:
    """Convert from autocast's half-width formats: inputs of distributions, losses and states are float32 or float64."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def parameter_count(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def load_module(module: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Load ``state`` strictly.

    Raises:
        CheckpointError: names the first key that is missing, unknown or of another shape, with both shapes.
    """
    own = module.state_dict()
    for key, value in own.items():
        if key not in state:
            raise CheckpointError(f"checkpoint lacks {name}.{key}, expected shape {tuple(value.shape)}")
        if state[key].shape != value.shape:
            raise CheckpointError(
                f"{name}.{key} has shape {tuple(state[key].shape)} in the checkpoint and {tuple(value.shape)} in this "
                "configuration; use the configuration the checkpoint was made with"
            )
    unknown = sorted(set(state) - set(own))
    if unknown:
        raise CheckpointError(f"checkpoint holds {name}.{unknown[0]}, which this configuration does not have")
    module.load_state_dict(dict(state))
