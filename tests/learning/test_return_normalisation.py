"""Running range of returns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prelar_ray.learning.ranks import Ranks
from prelar_ray.learning.return_range import ReturnRange


def returns(seed: int, scale: float, *shape: int) -> Tensor:
    return torch.from_numpy(scale * np.random.default_rng(seed).standard_normal(shape) + 5)


def test_the_range_is_the_moving_average_of_the_percentiles_of_numpy() -> None:
    """S <- m S + (1 - m) (Per(V, 95) - Per(V, 5)), scale = max(1, S)."""
    subject, expected = ReturnRange(0.9), 0.0
    for seed in range(8):
        drawn = returns(seed, 10, 4, 33)
        low, high = np.percentile(drawn.numpy(), [5, 95])
        expected = 0.9 * expected + 0.1 * (high - low)
        assert float(subject(drawn)) == pytest.approx(max(1.0, expected), rel=1e-12)
    assert float(subject.range) == pytest.approx(expected, rel=1e-12)
    assert expected > 1, "both sides of the maximum were there"


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50))
def test_percentiles_are_those_of_numpy_for_any_number_of_returns(numbers: list[float]) -> None:
    subject = ReturnRange(0.0)
    subject(torch.tensor(numbers, dtype=torch.float32))
    low, high = np.percentile(np.array(numbers, np.float64), [5, 95])
    assert float(subject.range) == pytest.approx(high - low, rel=1e-9, abs=1e-9)


def test_small_returns_are_not_scaled_up_and_a_rare_outlier_counts_little() -> None:
    subject = ReturnRange(0.0)
    assert float(subject(returns(0, 1e-3, 500))) == 1
    drawn = returns(0, 10, 500)
    before = float(subject(drawn))
    drawn[7] = 1e9
    assert float(subject(drawn)) == pytest.approx(before, rel=0.05)


def test_the_scale_has_the_type_of_the_returns_and_no_gradient() -> None:
    drawn = returns(0, 10, 3, 5).float().requires_grad_()
    scale = ReturnRange(0.5)(drawn)
    assert (scale.dtype, scale.requires_grad) == (torch.float32, False)


class Other(Ranks):
    """Stands in for a group whose other rank has these returns."""

    def __init__(self, theirs: Tensor) -> None:
        super().__init__()
        self.theirs = theirs

    def gather(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.theirs])


def test_percentiles_are_those_of_the_returns_of_all_ranks() -> None:
    drawn = returns(0, 10, 40)
    together = ReturnRange(0.0, Other(drawn[10:]))(drawn[:10])
    assert torch.equal(together, ReturnRange(0.0)(drawn))
