"""Linear maps in loops over time, whose weight gradient is one matrix product over all steps.

Backpropagation through a loop computes a small product and a sum for every step and weight. Here the loop itself gives
its weights no gradient: what it adds to a product at step t is row t of a tensor, so the gradient of that tensor is the
gradient of the products, and with the inputs of all steps it gives the gradient of the weight at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["Gathered"]


class Gathered:
    """``x W^T + terms[:, t]`` at steps t of a loop.

    Attributes:
        weight: ``(out, in)`` in the number format of products, without gradient.
        terms: T tensors ``(N, out)``.
        inputs: the loop appends the ``x`` of every step, ``(N, in)`` in that format, where a gradient is wanted.
    """

    def __init__(self, weight: Tensor, terms: Tensor) -> None:
        """Prepare a loop; ``terms`` is ``(N, T, out)``, which often holds what does not depend on the state."""
        form = _format(weight)
        self.weight = weight.detach().to(form)
        self.inputs: list[Tensor] = []
        kept: Tensor = _Gather.apply(terms.to(form), weight, self.inputs)  # type: ignore[no-untyped-call]
        self.terms = kept.unbind(1)

    @classmethod
    def of(cls, linear: nn.Linear, rows: int, steps: int) -> Gathered:
        """Prepare a whole layer for ``steps`` steps of ``rows`` rows."""
        return cls(linear.weight, linear.bias.expand(rows, steps, -1))


def _format(weight: Tensor) -> torch.dtype:
    """Return the number format in which a product with ``weight`` is computed here."""
    kind = weight.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return weight.dtype


class _Gather(torch.autograd.Function):
    """Returns the terms; backwards, their gradient and that of the weight."""

    @staticmethod
    def forward(ctx: Any, terms: Tensor, weight: Tensor, inputs: list[Tensor]) -> Tensor:
        ctx.inputs = inputs
        return terms.view_as(terms)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        of_weight = None
        if ctx.needs_input_grad[1]:
            inputs = torch.stack(ctx.inputs, dim=1)  # (N, T, in)
            of_weight = gradient.flatten(0, 1).t() @ inputs.flatten(0, 1)
        return gradient, of_weight, None
