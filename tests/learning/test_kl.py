from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prelar_ray.config import LossConfig
from prelar_ray.learning.kl import action_kl, balanced_kl, bounded_kl
from prelar_ray.models.distributions import categorical_kl
from prelar_ray.models.latent_action import GaussianAction


def logits(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64).requires_grad_()


def test_balance_shares_out_the_gradient_and_leaves_the_value() -> None:
    posterior, prior = logits(0), logits(1)
    plain = categorical_kl(posterior, prior).mean()
    whole = torch.autograd.grad(plain, (posterior, prior))
    loss, value = balanced_kl(posterior, prior, balance=0.7)
    assert loss.item() == pytest.approx(plain.item())
    torch.testing.assert_close(value, categorical_kl(posterior, prior))
    shares = torch.autograd.grad(loss, (posterior, prior))
    torch.testing.assert_close(shares[0], 0.3 * whole[0])
    torch.testing.assert_close(shares[1], 0.7 * whole[1])


def test_below_the_floor_the_loss_is_the_floor_and_has_no_gradient() -> None:
    posterior, prior = logits(0), logits(1)
    mean = categorical_kl(posterior, prior).mean().item()
    loss, _ = balanced_kl(posterior, prior, free_nats=mean + 1)
    assert loss.item() == pytest.approx(mean + 1)
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, (posterior, prior)))
    loss, _ = balanced_kl(posterior, prior, free_nats=mean - 1)
    assert loss.item() == pytest.approx(mean)
    assert all(gradient.any() for gradient in torch.autograd.grad(loss, (posterior, prior)))


def test_latent_actions_cost_nothing_at_their_prior_and_are_summed_over_dimensions() -> None:
    at_prior = GaussianAction(torch.zeros(2, 3, 4), torch.full((2, 3, 4), 1.5))
    torch.testing.assert_close(action_kl(at_prior, 1.5), torch.zeros(2, 3))
    away = GaussianAction(torch.full((2, 3, 4), 3.0), torch.full((2, 3, 4), 1.5))
    torch.testing.assert_close(action_kl(away, 1.5), torch.full((2, 3), 4 * 0.5 * (3.0 / 1.5) ** 2))


@pytest.mark.parametrize(
    ("bound", "value", "gradient"),
    [
        ({}, 2.0, 0.5),
        ({"free_nats": 1.5}, 2.0, 0.5),
        ({"free_nats": 3.0}, 3.0, 0.0),
        ({"capacity": 1.5}, 0.5, 0.5),
        ({"capacity": 3.0}, 1.0, -0.5),  # upwards: a latent action that tells too little is made to tell more
    ],
)
def test_a_bound_says_where_the_mean_of_a_kl_is_drawn_to(
    bound: dict[str, float], value: float, gradient: float
) -> None:
    kl = torch.tensor([0.5, 3.5], requires_grad=True)  # one element below each floor, which is of the mean
    loss = bounded_kl(kl, **bound)
    (found,) = torch.autograd.grad(loss, kl)
    assert loss.item() == pytest.approx(value)
    assert found.tolist() == [gradient, gradient]


def test_a_floor_and_a_target_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match=r"action_free_nats=1 and loss\.action_capacity=2 .* set one of them to 0"):
        LossConfig(action_free_nats=1, action_capacity=2)
