from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prelar_ray.learning.lambda_return import lambda_return


def mixture_of_n_step_returns(
    reward: np.ndarray, value: np.ndarray, discount: float, bootstrap: float, mix: float
) -> list[float]:
    """The definition: n-step returns weighted by (1 - lambda) lambda^(n-1), the longest one taking what is left."""
    horizon = len(reward)
    following = [*value[1:], bootstrap]
    result = []
    for start in range(horizon):
        returns, weights = [], []
        for end in range(start, horizon):
            n = end - start + 1
            rewards = sum(discount**k * reward[start + k] for k in range(n))
            returns.append(rewards + discount**n * following[end])
            weights.append((1 - mix) * mix ** (n - 1) if end < horizon - 1 else mix ** (n - 1))
        result.append(sum(w * r for w, r in zip(weights, returns, strict=True)))
    return result


@settings(max_examples=50)
@given(st.integers(1, 6), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**32))
def test_return_is_the_mixture_of_n_step_returns(horizon: int, discount: float, mix: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reward, value, bootstrap = rng.normal(size=(horizon, 2)), rng.normal(size=(horizon, 2)), rng.normal(size=2)
    ours = lambda_return(*map(torch.from_numpy, (reward, value)), discount, torch.from_numpy(bootstrap), mix)
    for column in range(2):
        expected = mixture_of_n_step_returns(reward[:, column], value[:, column], discount, bootstrap[column], mix)
        np.testing.assert_allclose(ours[:, column], expected, atol=1e-9)


def test_discount_may_differ_by_step_and_cuts_off_the_future_where_it_is_zero() -> None:
    reward, value = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[10.0], [20.0], [30.0]])
    discount = torch.tensor([[0.5], [0.0], [0.9]])
    ours = lambda_return(reward, value, discount, torch.tensor([40.0]), 1.0)
    assert ours.flatten().tolist() == pytest.approx([1 + 0.5 * 2, 2.0, 3 + 0.9 * 40])
