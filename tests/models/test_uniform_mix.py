"""Latent categoricals with a share of the uniform distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from prelar_ray.config import RSSMConfig
from prelar_ray.models.distributions import categorical_kl, mix_uniform, sample_one_hot
from prelar_ray.models.rssm import RSSM
from prelar_ray.models.stacked_rssm import StackedRSSM

N, T, E, L, S, K, D = 2, 4, 5, 3, 2, 4, 8
MIX = 0.1


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rssm(mix: float, stacked: bool = False) -> RSSM | StackedRSSM:
    torch.manual_seed(0)
    config = RSSMConfig(deter=D, hidden=7, stoch=S, classes=K, uniform_mix=mix)
    return (StackedRSSM(config, E, 2, L) if stacked else RSSM(config, E, L)).double()


def certain(model: RSSM | StackedRSSM) -> None:
    """Make every posterior and prior almost certain."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "posterior_logits" in name or "prior.2" in name:
                parameter.mul_(1000)


def test_no_class_is_less_likely_than_its_share_of_the_mix() -> None:
    """softmax(mixed) = (1 - mix) softmax(logits) + mix / K."""
    logits = 20 * draw(50, S, K)
    mixed = mix_uniform(logits, MIX)
    np.testing.assert_allclose(mixed.exp(), (1 - MIX) * logits.softmax(-1) + MIX / K)
    np.testing.assert_allclose(mixed.exp().sum(-1), 1)
    assert mixed.exp().min() >= MIX / K - 1e-12


def test_no_mix_leaves_logits_as_they_are() -> None:
    logits = draw(S, K)
    assert mix_uniform(logits, 0.0) is logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_stay_finite_at_extreme_logits(dtype: torch.dtype) -> None:
    one, other = (x.to(dtype).requires_grad_() for x in (1e4 * draw(5, S, K), 1e4 * draw(5, S, K, seed=1)))
    distance = categorical_kl(mix_uniform(one, 0.01), mix_uniform(other, 0.01))
    assert distance.max() <= S * np.log(K / 0.01)
    (distance.sum() + sample_one_hot(mix_uniform(one, 0.01), None).square().sum()).backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (one, other))


def test_the_gradient_is_that_of_its_equation() -> None:
    assert torch.autograd.gradcheck(lambda x: mix_uniform(x, MIX), draw(3, K).requires_grad_())


@pytest.mark.parametrize("stacked", [False, True])
def test_posterior_prior_and_imagined_states_are_all_mixed(stacked: bool) -> None:
    model = rssm(MIX, stacked)
    certain(model)
    first = torch.zeros(N, T, dtype=torch.float64)
    posterior, prior = model.observe(draw(N, T, E), draw(N, T, L), first)
    last = posterior.at((slice(None), -1))
    imagined = model.imagine(last, draw(N, T, L))
    found = [posterior.logits, prior, imagined.logits, model.prior_step(last, draw(N, L)).logits]
    if posterior.below is not None:
        found.append(posterior.below.logits)
    for logits in found:
        least = logits.softmax(-1).min()
        assert MIX / K - 1e-9 <= least < 1.1 * MIX / K


def test_the_mix_has_no_parameters_and_changes_no_recurrence_but_the_distributions() -> None:
    plain, mixed = rssm(0.0), rssm(MIX)
    assert plain.state_dict().keys() == mixed.state_dict().keys()
    first = torch.zeros(N, T, dtype=torch.float64)
    one, other = (model.filter(draw(N, T, E), draw(N, T, L), first) for model in (plain, mixed))
    assert torch.equal(one.stoch.argmax(-1), other.stoch.argmax(-1)), "the most likely classes are the same"
    torch.testing.assert_close(mix_uniform(one.logits, MIX), other.logits)
