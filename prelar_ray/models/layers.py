"""Small building blocks shared by all networks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prelar_ray.config import MLPConfig
from prelar_ray.errors import CheckpointError

__all__ = ["MLP", "ZeroLinear", "full_precision", "hidden_layers", "initialise", "load_module", "parameter_count"]


class ZeroLinear(nn.Linear):
    """Linear layer that starts at zero."""

    def reset_parameters(self) -> None:
        """Set weights and biases to zero."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


def initialise(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases, as published; norms and :class:`ZeroLinear` stay as they are made."""
    for part in module.modules():
        if isinstance(part, ZeroLinear):
            continue
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

    def loss(self, feature: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Compare the prediction with ``target`` ``(...)``.

        Returns:
            The negative log-likelihood without its constant, nats, and the mean without gradient, both ``(...)``.
        """
        mean = self(feature)
        return 0.5 * (mean - target).square(), mean.detach()


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
