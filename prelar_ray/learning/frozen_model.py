"""The world model as imagination uses it: gradients pass through, its parameters get none."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn

from prelar_ray.models.world_model import FinetuneWorldModel

__all__ = ["FrozenModel"]

M = TypeVar("M", bound=nn.Module)


class FrozenModel:
    """Dynamics, action encoder, reward and discount head that share the values of a model.

    In a half-width format the weights of products are copies, converted once per update by :meth:`refresh`: autocast
    would convert them again at every imagined step, for it remembers only those that take gradients.
    """

    def __init__(self, model: FinetuneWorldModel, form: torch.dtype) -> None:
        """Share the values of ``model``, which keeps its tensors; ``form`` is the number format of an update."""
        self._half = form if form in (torch.bfloat16, torch.float16) else None
        self._sources: list[Tensor] = []
        self._converted: list[Tensor] = []
        self.rssm = self._twin(model.rssm)
        self.action_encoder = self._twin(model.action_encoder)
        self.reward = self._twin(model.reward)
        self.discount = None if model.discount is None else self._twin(model.discount)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over what the optimisers have changed since."""
        if self._converted:
            torch._foreach_copy_(self._converted, self._sources)

    def _twin(self, module: M) -> M:
        assert not list(module.buffers()), "only parameters are shared"
        twin = deepcopy(module).eval()
        for part, other in zip(module.modules(), twin.modules(), strict=True):
            for name, parameter in part.named_parameters(recurse=False):
                value = parameter.detach()
                if self._half and isinstance(part, nn.Linear):
                    self._sources.append(value)
                    self._converted.append(value := value.to(self._half))
                setattr(other, name, nn.Parameter(value, requires_grad=False))
        return twin
