"""Losses balanced by learnt scales (HarmonyDream, Ma et al., ICML 2024)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from prelar_ray.config import LossConfig

__all__ = ["GROUPS", "UNBALANCED", "LossBalance"]

GROUPS = {"image": ("image",), "reward": ("reward", "aux_reward"), "dynamics_kl": ("dynamics_kl",)}
"""Terms that share a scale, by the name of the scale."""


class LossBalance(nn.Module):
    """Sums losses, of which each group may have a learnt scale ``sigma = exp(s)``: ``L / sigma + log(1 + sigma)``.

    ``s`` starts at 0. For a constant ``L`` the sum is least where ``L / sigma = sigma / (1 + sigma)``: a group enters
    with less than 1 however large its loss is, and its factor ``1 / sigma`` grows as ``L ** -0.5`` only, not as
    ``L ** -1``, where the loss vanishes.
    """

    def __init__(self, groups: Iterable[str] = ()) -> None:
        """Give the named :data:`GROUPS` a scale; without any there is no parameter, and the sum is the plain one."""
        super().__init__()
        self.log_scale = nn.ParameterDict({group: nn.Parameter(torch.zeros(())) for group in groups})

    @classmethod
    def of(cls, config: LossConfig, groups: Iterable[str]) -> LossBalance:
        """Build what ``loss.balance`` asks for; a group without weight gets no scale, which would only shrink."""
        if config.balance == "none":
            return cls()
        return cls(group for group in groups if any(getattr(config, f"{term}_weight") for term in GROUPS[group]))

    def forward(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of weighted terms, scalars by name; those outside the groups are added as they are."""
        scaled = dict(terms)
        for group, s in self.log_scale.items():
            factor = (-s).exp()
            scaled |= {name: factor * terms[name] for name in GROUPS[group] if name in terms}
        parts = [*scaled.values(), *(softplus(s) for s in self.log_scale.values())]
        return torch.stack(parts).sum()

    @torch.no_grad()
    def metrics(self) -> dict[str, Tensor]:
        """Return the factor ``1 / sigma`` of every group with a scale, by metric name."""
        return {f"loss_scale/{group}": (-s).exp() for group, s in self.log_scale.items()}


UNBALANCED = LossBalance()
"""The plain sum."""
