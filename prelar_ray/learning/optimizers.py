"""Adam with clipping on the global norm and coupled L2, as published."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from prelar_ray.config import OptimizerConfig
from prelar_ray.learning.precision import FULL, Precision
from prelar_ray.learning.ranks import ALONE, Ranks

__all__ = ["Optimizer"]


class Optimizer:
    """Adam: averages gradients over ranks, clips by the norm over all its parameters, adds L2, steps."""

    def __init__(
        self, modules: Iterable[nn.Module], config: OptimizerConfig, frozen_updates: int = 0, ranks: Ranks = ALONE
    ) -> None:
        self.config, self.ranks = config, ranks
        self.frozen_updates = frozen_updates
        self.updates = 0
        self.parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        device = self.parameters[0].device
        on_gpu = device.type == "cuda"
        self.adam = torch.optim.Adam(
            self.parameters,
            lr=torch.zeros((), device=device) if on_gpu else 0.0,  # a captured step reads it from the device
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
            capturable=on_gpu,
        )
        self._set_rate()

    def step(self, precision: Precision = FULL) -> Tensor:
        """Apply the accumulated gradients and clear them; return their norm before clipping, scalar.

        A gradient that overflows under the loss scale skips the step and gives a norm of 0.
        """
        self.ranks.average_gradients(self.parameters)
        precision.scaler.unscale_(self.adam)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm, foreach=True)
        precision.scaler.step(self.adam)
        self.adam.zero_grad(set_to_none=True)
        return norm.masked_fill(~norm.isfinite(), 0) if precision.scaler.is_enabled() else norm

    def advance(self) -> None:
        """Count the step and set the learning rate of the next; not in :meth:`step`, which may be captured."""
        self.updates += 1
        self._set_rate()

    def _set_rate(self) -> None:
        """Set the learning rate, which is zero during the first ``frozen_updates`` while Adam's moments accumulate."""
        rate = 0.0 if self.updates < self.frozen_updates else self.config.learning_rate
        for group in self.adam.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """Adam's moments and the update count; the learning rate follows from the count."""
        state = self.adam.state_dict()
        for group in state["param_groups"]:
            group["lr"] = self.config.learning_rate
        return {"adam": state, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        own = [{key: group[key] for key in ("lr", "capturable")} for group in self.adam.param_groups]
        self.adam.load_state_dict(state["adam"])
        for group, options in zip(self.adam.param_groups, own, strict=True):
            group.update(options)  # of this device, which need not be that of the checkpoint
        # The fused step pairs elements by memory position: moments must have the layout of their parameters.
        for parameter, moments in self.adam.state.items():
            for key in ("exp_avg", "exp_avg_sq"):
                moments[key] = torch.empty_like(parameter).copy_(moments[key])
        self.updates = int(state["updates"])
        self._set_rate()
