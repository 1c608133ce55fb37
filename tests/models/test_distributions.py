from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from prelar_ray.models.distributions import (
    TruncatedNormal,
    categorical_entropy,
    categorical_kl,
    gaussian_kl,
    sample_one_hot,
)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_samples_follow_the_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.0, -1.0]])
    gumbel = torch.empty(20_000, 2, 3).exponential_(generator=generator).log_().neg_()
    counts = sample_one_hot(logits.expand(20_000, 2, 3), gumbel).sum(0).numpy()
    for observed, probabilities in zip(counts, logits.softmax(-1).double().numpy(), strict=True):
        assert stats.chisquare(observed.astype(float), 20_000 * probabilities / probabilities.sum()).pvalue > 1e-3


def test_sample_without_noise_is_the_most_likely_class() -> None:
    sample = sample_one_hot(torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]]), None)
    torch.testing.assert_close(sample, torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))


def test_sample_has_the_gradient_of_the_probabilities() -> None:
    logits, weights, gumbel = draw(0, 5, 2, 3).requires_grad_(), draw(1, 5, 2, 3), draw(2, 5, 2, 3)
    (ours,) = torch.autograd.grad((weights * sample_one_hot(logits, gumbel)).sum(), logits)
    (expected,) = torch.autograd.grad((weights * logits.softmax(-1)).sum(), logits)
    torch.testing.assert_close(ours, expected)


def test_categorical_divergence_and_entropy_sum_over_groups() -> None:
    p, q = draw(0, 4, 3, 5), draw(1, 4, 3, 5)
    ours = (categorical_kl(p, q), categorical_entropy(p))
    first, second = (Independent(Categorical(logits=x), 1) for x in (p, q))
    torch.testing.assert_close(ours[0], kl_divergence(first, second))
    torch.testing.assert_close(ours[1], first.entropy())


def test_gaussian_divergence_sums_over_dimensions() -> None:
    mean, std = draw(0, 2, 4, 3), draw(1, 2, 4, 3).exp()
    first, second = (Independent(Normal(mean[i], std[i]), 1) for i in range(2))
    ours = gaussian_kl(mean[0], std[0], mean[1], std[1])
    assert ours.shape == (4,)
    torch.testing.assert_close(ours, kl_divergence(first, second))


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.floats(0.01, 1e4), st.floats(-100, 100))
def test_categorical_divergence_is_finite_never_negative_and_ignores_a_shift_of_the_logits(
    seed: int, spread: float, shift: float
) -> None:
    p, q = spread * draw(seed, 2, 3), spread * draw(seed + 1, 2, 3)
    value = categorical_kl(p, q)
    assert value.isfinite()
    assert value >= 0
    torch.testing.assert_close(categorical_kl(p + shift, q - shift), value, rtol=1e-6, atol=1e-9)
    assert categorical_kl(p, p + shift) == pytest.approx(0, abs=1e-9)
    assert -1e-9 <= categorical_entropy(p) <= 2 * math.log(3) + 1e-9


LOCS = [-1.0, -0.7, 0.0, 0.3, 0.99]
SCALES = [0.1, 0.5, 2.1]


def grid() -> tuple[TruncatedNormal, stats.rv_continuous]:
    loc, scale = (x.reshape(-1) for x in np.meshgrid(LOCS, SCALES, indexing="ij"))
    ours = TruncatedNormal(torch.from_numpy(loc), torch.from_numpy(scale))
    return ours, stats.truncnorm((-1 - loc) / scale, (1 - loc) / scale, loc, scale)


def test_truncated_normal_entropy_and_quantiles_are_the_textbook_ones() -> None:
    ours, expected = grid()
    entropy = TruncatedNormal(ours.loc.unsqueeze(-1), ours.scale.unsqueeze(-1)).entropy()
    np.testing.assert_allclose(entropy, expected.entropy(), rtol=1e-6)
    for probability in (0.001, 0.25, 0.5, 0.9, 0.999):
        quantile = ours.icdf(torch.full_like(ours.loc, probability))
        np.testing.assert_allclose(quantile, expected.ppf(probability), rtol=1e-6, atol=1e-9)


def test_truncated_normal_entropy_sums_over_action_dimensions() -> None:
    ours, expected = grid()
    np.testing.assert_allclose(ours.entropy(), expected.entropy().sum(), rtol=1e-6)


def test_gradient_of_a_truncated_normal_sample_is_that_of_the_quantile() -> None:
    ours, _ = grid()
    uniform = torch.linspace(0.05, 0.95, len(ours.loc), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda loc, scale: TruncatedNormal(loc, scale).icdf(uniform),
        (ours.loc.clone().requires_grad_(), ours.scale.clone().requires_grad_()),
    )


@settings(max_examples=60)
@given(
    st.floats(-1, 1, width=32),
    st.floats(np.float32(0.1), np.float32(2.1), width=32),
    st.one_of(st.floats(0, 1, width=32, exclude_max=True), st.sampled_from([0.0, 1 - 2**-24])),
)
def test_actions_lie_strictly_inside_the_interval_with_finite_gradients(loc: float, scale: float, draw: float) -> None:
    loc_scale = torch.tensor([loc, scale]).requires_grad_()
    for uniform in (None, torch.tensor([draw])):
        policy = TruncatedNormal(loc_scale[:1], loc_scale[1:])
        action = policy.sample(uniform)
        assert action.abs().item() < 1
        gradient = torch.autograd.grad(action.sum() + policy.entropy(), loc_scale)[0]
        assert gradient.isfinite().all()


def test_mode_is_the_location_inside_the_interval() -> None:
    policy = TruncatedNormal(torch.tensor([-1.5, 0.2, 1.5]), torch.ones(3))
    torch.testing.assert_close(policy.mode, torch.tensor([-1.0, 0.2, 1.0]))
    torch.testing.assert_close(policy.sample(None), torch.tensor([-1.0, 0.2, 1.0]), rtol=0, atol=2e-6)


def test_clipping_an_action_keeps_its_gradient() -> None:
    loc = torch.tensor([1.0, -1.0, 0.0]).requires_grad_()
    TruncatedNormal(loc, torch.full((3,), 0.3)).sample(None).sum().backward()
    torch.testing.assert_close(loc.grad, torch.ones(3))
