"""Scalars as distributions over bins."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prelar_ray.config import MLPConfig
from prelar_ray.models.layers import MLP, initialise
from prelar_ray.models.two_hot import (
    BINS,
    LIMIT,
    TwoHotMLP,
    expectation,
    neighbours,
    scalar_head,
    symexp,
    symlog,
    two_hot_loss,
)

SMALL = MLPConfig(layers=2, units=3)
in_symlog_space = st.floats(-LIMIT, LIMIT, allow_subnormal=False)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def two_hot(target: Tensor) -> Tensor:
    """The weights of all bins, ``(...) -> (..., K)``."""
    index, weight = neighbours(target)
    return target.new_zeros(*target.shape, BINS).scatter_add(-1, index, weight)


@given(in_symlog_space)
def test_symexp_inverts_symlog(x: float) -> None:
    found = symlog(symexp(torch.tensor(x, dtype=torch.float64)))
    assert float(found) == pytest.approx(x, rel=1e-12)
    assert float(symexp(torch.tensor(x, dtype=torch.float64))) == pytest.approx(math.copysign(math.expm1(abs(x)), x))


@given(in_symlog_space, st.sampled_from([torch.float32, torch.float64]))
def test_a_two_hot_target_decodes_to_itself(x: float, dtype: torch.dtype) -> None:
    """symexp(sum_k w_k b_k) = y for every |y| <= e^20 - 1."""
    target = symexp(torch.tensor(x, dtype=dtype))
    probability = two_hot(target)
    assert probability.min() >= 0
    assert (probability > 0).sum() <= 2
    assert float(probability.sum()) == pytest.approx(1, rel=1e-6)
    found = expectation(probability.log())
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert float(found) == pytest.approx(float(target), rel=tolerance, abs=tolerance)


@given(in_symlog_space)
def test_a_target_and_its_negative_are_mirror_images(x: float) -> None:
    target = symexp(torch.tensor(x, dtype=torch.float32))
    assert torch.equal(two_hot(-target), two_hot(target).flip(-1))


def test_targets_beyond_the_last_bin_count_as_it() -> None:
    weights = two_hot(torch.tensor([-1e12, 1e12]))
    assert weights.argmax(-1).tolist() == [0, BINS - 1]
    assert torch.equal(weights.amax(-1), torch.ones(2))


def test_bins_are_evenly_spaced_in_symlog_space() -> None:
    certain = torch.eye(BINS, dtype=torch.float64).log()
    np.testing.assert_allclose(symlog(expectation(certain)), np.linspace(-20, 20, 255), atol=1e-12)


def test_symmetric_logits_predict_exactly_zero_and_mirrored_ones_the_opposite() -> None:
    logits = draw(7, BINS).float() * 5
    assert not expectation(logits + logits.flip(-1)).any()
    torch.testing.assert_close(expectation(logits.flip(-1)), -expectation(logits), rtol=1e-4, atol=1e-5)


def test_the_prediction_has_the_gradient_of_its_equation_at_zero_too() -> None:
    """d symexp(m) / dl_k = exp(|m|) p_k (b_k - m) with m = sum_k p_k b_k."""
    for logits in (draw(BINS), torch.zeros(BINS, dtype=torch.float64)):
        (found,) = torch.autograd.grad(expectation(logits.requires_grad_()), logits)
        p, bins = logits.detach().softmax(-1), torch.linspace(-LIMIT, LIMIT, BINS, dtype=torch.float64)
        mean = (p * bins).sum()
        torch.testing.assert_close(found, mean.abs().exp() * p * (bins - mean))


def test_the_loss_is_the_cross_entropy_of_the_two_hot_target_and_so_is_its_gradient() -> None:
    """L = -sum_k w_k ln p_k and dL/dl = p - w."""
    logits = (3 * draw(6, BINS)).requires_grad_()
    target = torch.tensor([0.0, 0.3, -0.3, 7.0, -1e4, 4e8], dtype=torch.float64)
    loss = two_hot_loss(logits, target)
    torch.testing.assert_close(loss, F.cross_entropy(logits, two_hot(target), reduction="none"))
    (found,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
    torch.testing.assert_close(found, logits.softmax(-1) - two_hot(target))
    few = draw(2, BINS).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: two_hot_loss(x, target[3:5]), few, fast_mode=True)
    assert torch.autograd.gradcheck(expectation, few, fast_mode=True)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_target_that_is_not_finite_shows_in_its_loss_alone(bad: float) -> None:
    loss = two_hot_loss(torch.zeros(2, BINS), torch.tensor([bad, 1.0]))
    assert loss.isfinite().tolist() == [False, True]


def test_an_untrained_head_predicts_exactly_zero_with_the_loss_of_a_uniform_distribution() -> None:
    head = scalar_head(5, SMALL, "two_hot")
    initialise(head)
    feature = draw(4, 3, 5).float()
    prediction = head(feature)
    assert prediction.shape == (4, 3)
    assert not prediction.any()
    loss, mean = head.loss(feature, prediction + 3)
    torch.testing.assert_close(loss, torch.full((4, 3), math.log(BINS)))
    assert torch.equal(mean, prediction)
    assert not mean.requires_grad


def test_a_head_learns_rewards_of_any_scale() -> None:
    torch.manual_seed(0)
    head = TwoHotMLP(3, MLPConfig(layers=1, units=16))
    feature, target = torch.eye(3), torch.tensor([-1e4, 0.05, 300.0])
    optimiser = torch.optim.Adam(head.parameters(), 0.03)
    for _ in range(150):
        optimiser.zero_grad()
        head.loss(feature, target)[0].sum().backward()
        optimiser.step()
    torch.testing.assert_close(head(feature), target, rtol=0.05, atol=0.02)


def test_under_autocast_predictions_and_losses_are_float32() -> None:
    head = TwoHotMLP(5, SMALL)
    torch.nn.init.normal_(head.out.weight)
    feature = draw(4, 5).float()
    with torch.autocast("cpu", torch.bfloat16):
        values = head(feature), *head.loss(feature, torch.full((4,), 2.0))
    assert {x.dtype for x in values} == {torch.float32}
    torch.testing.assert_close(values[0], head(feature), rtol=0.05, atol=0.05)


def test_the_gaussian_head_is_as_published() -> None:
    """L = 1/2 (mean - y)^2."""
    head = scalar_head(5, SMALL, "gaussian")
    assert type(head) is MLP
    feature, target = draw(4, 5).float(), draw(4).float()
    loss, mean = head.loss(feature, target)
    assert torch.equal(mean, head(feature))
    torch.testing.assert_close(loss, (mean - target).square() / 2)
