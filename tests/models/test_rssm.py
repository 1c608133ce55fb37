from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prelar_ray.config import RSSMConfig
from prelar_ray.models.rssm import RSSM, State

B, T, E, L, S, K, D = 2, 6, 5, 3, 2, 4, 8


@pytest.fixture
def rssm() -> RSSM:
    torch.manual_seed(0)
    return RSSM(RSSMConfig(deter=D, hidden=7, stoch=S, classes=K), E, L).double()


@pytest.fixture
def embed() -> Tensor:
    return draw(1, B, T, E)


@pytest.fixture
def action() -> Tensor:
    return draw(2, B, T, L)


@pytest.fixture
def gumbel() -> Tensor:
    return -draw(3, B, T, S, K).exp()


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def starts(*resets: tuple[int, int]) -> Tensor:
    """Flags that are set at the first step of each row and at ``resets``, given as (row, step)."""
    is_first = torch.zeros(B, T, dtype=torch.float64)
    is_first[:, 0] = 1
    for row, step in resets:
        is_first[row, step] = 1
    return is_first


def assert_equal(a: State, b: State) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


def test_state_after_a_reset_does_not_depend_on_anything_before_it(
    rssm: RSSM, embed: Tensor, action: Tensor, gumbel: Tensor
) -> None:
    is_first = starts((0, 3))
    state, prior = rssm.observe(embed, action, is_first, gumbel=gumbel)
    embed, action, gumbel = embed.clone(), action.clone(), gumbel.clone()
    embed[:, :3] += 1
    action[:, :4] += 1  # the action that led to the reset counts as zero, too
    gumbel[:, :3] -= draw(4, B, 3, S, K).exp()
    other, other_prior = rssm.observe(embed, action, is_first, gumbel=gumbel)
    assert_equal(state.at((0, slice(3, None))), other.at((0, slice(3, None))))
    torch.testing.assert_close(prior[0, 3:], other_prior[0, 3:], rtol=0, atol=1e-12)
    assert (state.deter[1, 3:] - other.deter[1, 3:]).abs().min() > 1e-6, "without a reset the past matters"


def test_a_reset_equals_the_beginning_of_a_sequence(rssm: RSSM, embed: Tensor, action: Tensor) -> None:
    whole, _ = rssm.observe(embed, action, starts((0, 3), (1, 3)))
    alone, _ = rssm.observe(embed[:, 3:], action[:, 3:], starts()[:, : T - 3])
    assert_equal(whole.at((slice(None), slice(3, None))), alone)


def test_a_row_carried_into_a_reset_forgets_its_state(rssm: RSSM, embed: Tensor, action: Tensor) -> None:
    carried = State(torch.ones(B, S, K).double(), draw(5, B, D), torch.ones(B, S, K).double())
    fresh, _ = rssm.observe(embed, action, starts())
    assert_equal(rssm.observe(embed, action, starts(), carried)[0], fresh)
    assert (rssm.observe(embed, action, torch.zeros(B, T), carried)[0].deter - fresh.deter).abs().max() > 1e-3


def test_observing_step_by_step_with_carried_state_equals_observing_at_once(
    rssm: RSSM, embed: Tensor, action: Tensor, gumbel: Tensor
) -> None:
    is_first = starts((1, 2))
    at_once, prior = rssm.observe(embed, action, is_first, gumbel=gumbel)
    state = None
    for t in range(T):
        now = slice(t, t + 1)
        step, step_prior = rssm.observe(embed[:, now], action[:, now], is_first[:, now], state, gumbel[:, now])
        state = step.at((slice(None), 0))
        assert_equal(state, at_once.at((slice(None), t)))
        torch.testing.assert_close(step_prior[:, 0], prior[:, t], rtol=0, atol=1e-12)


def test_prior_of_an_observed_step_is_what_the_step_before_predicts(
    rssm: RSSM, embed: Tensor, action: Tensor, gumbel: Tensor
) -> None:
    posterior, prior = rssm.observe(embed, action, starts(), gumbel=gumbel)
    predicted = rssm.prior_step(posterior.at((slice(None), slice(None, -1))).flatten(), action[:, 1:].flatten(0, 1))
    torch.testing.assert_close(predicted.logits.unflatten(0, (B, T - 1)), prior[:, 1:], rtol=0, atol=1e-12)
    torch.testing.assert_close(predicted.deter.unflatten(0, (B, T - 1)), posterior.deter[:, 1:], rtol=0, atol=1e-12)


def test_imagining_equals_repeated_prior_steps(rssm: RSSM, action: Tensor, gumbel: Tensor) -> None:
    start = State(draw(5, B, S, K).softmax(-1), draw(6, B, D), torch.zeros(B, S, K))
    imagined = rssm.imagine(start, action, gumbel)
    state = start
    for t in range(T):
        state = rssm.prior_step(state, action[:, t], gumbel[:, t])
        assert_equal(imagined.at((slice(None), t)), state)


def test_samples_are_one_hot_and_follow_the_noise(rssm: RSSM, embed: Tensor, action: Tensor) -> None:
    favoured = torch.zeros(B, T, S, K).double()
    favoured[..., 2] = 1e3
    for gumbel in (None, favoured):
        posterior, _ = rssm.observe(embed, action, starts(), gumbel=gumbel)
        torch.testing.assert_close(posterior.stoch, posterior.stoch.round(), rtol=0, atol=1e-12)
        torch.testing.assert_close(posterior.stoch.sum(-1), torch.ones(B, T, S).double(), rtol=0, atol=1e-12)
        expected = posterior.logits.argmax(-1) if gumbel is None else torch.full((B, T, S), 2)
        torch.testing.assert_close(posterior.stoch.argmax(-1), expected)


def test_gradient_of_a_posterior_sample_is_that_of_its_probabilities(
    rssm: RSSM, embed: Tensor, action: Tensor, gumbel: Tensor
) -> None:
    weights = draw(7, B, 1, S, K)
    posterior, _ = rssm.observe(embed[:, :1], action[:, :1], starts()[:, :1], gumbel=gumbel[:, :1])
    parameter = rssm.posterior_logits.weight
    (through_sample,) = torch.autograd.grad((weights * posterior.stoch).sum(), parameter, retain_graph=True)
    (through_softmax,) = torch.autograd.grad((weights * posterior.logits.softmax(-1)).sum(), parameter)
    torch.testing.assert_close(through_sample, through_softmax)
    assert through_sample.abs().max() > 1e-3


def test_gradient_flows_through_time_up_to_a_reset(rssm: RSSM, embed: Tensor, action: Tensor, gumbel: Tensor) -> None:
    embed = embed.requires_grad_()
    posterior, _ = rssm.observe(embed, action, starts((0, 3)), gumbel=gumbel)
    (gradient,) = torch.autograd.grad(posterior.deter[:, -1].square().sum(), embed)
    reached = gradient.abs().amax(-1) > 0  # (B, T); the last embedding comes after the last deterministic state
    assert reached.tolist() == [[False, False, False, True, True, False], [True] * 5 + [False]]


def test_deterministic_state_stays_within_the_unit_cube(rssm: RSSM, embed: Tensor, action: Tensor) -> None:
    posterior, _ = rssm.observe(1e3 * embed, 1e3 * action, starts())
    assert posterior.deter.abs().max() <= 1


def test_feature_is_stochastic_then_deterministic_part(rssm: RSSM) -> None:
    state = State(draw(1, B, S, K), draw(2, B, D), draw(3, B, S, K))
    assert state.feature.shape == (B, rssm.feature)
    torch.testing.assert_close(state.feature, torch.cat([state.stoch.reshape(B, S * K), state.deter], dim=1))


def test_initial_state_is_zero(rssm: RSSM) -> None:
    state = rssm.initial(B)
    assert [tuple(part.shape) for part in state[:3]] == [(B, S, K), (B, D), (B, S, K)]
    assert all(not part.any() for part in state[:3])
