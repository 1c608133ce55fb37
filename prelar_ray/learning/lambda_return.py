"""Lambda-return, Eq. (3)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["lambda_return"]


def lambda_return(
    reward: Tensor, value: Tensor, discount: Tensor | float, bootstrap: Tensor, return_lambda: float
) -> Tensor:
    """Mix n-step returns with weight lambda, Eq. (3).

    Args:
        reward: ``(H, N)``, received at step i.
        value: ``(H, N)``, of step i.
        discount: ``(H, N)`` or a number.
        bootstrap: ``(N,)``, value after the last step.
        return_lambda: lambda in [0, 1].

    Returns:
        ``(H, N)``.
    """
    following = torch.cat([value[1:], bootstrap.unsqueeze(0)])
    if not isinstance(discount, Tensor):
        discount = torch.full_like(reward, discount)
    one_step = reward + discount * following * (1 - return_lambda)
    target, returns = bootstrap, []
    for step, gamma in zip(reversed(one_step.unbind(0)), reversed(discount.unbind(0)), strict=True):
        target = step + gamma * return_lambda * target
        returns.append(target)
    return torch.stack(returns[::-1])
