"""The policy of discrete actions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prelar_ray.action_space import ActionSpace
from prelar_ray.models.actor_critic import ActorCritic, DiscreteActor
from prelar_ray.models.distributions import OneHotCategoricals
from prelar_ray.models.gathered import Gathered
from tests.tiny import tiny_config

SIZES = (3, 2)
LOGITS = torch.tensor([0.5, -1.0, 2.0, 0.3, -0.3])


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    return torch.cat([part.softmax(-1) for part in logits.split(SIZES, -1)], -1)


def test_samples_are_one_hot_with_the_frequencies_of_every_factor_s_softmax() -> None:
    draws = 20_000
    uniform = torch.rand(draws, 5, generator=torch.Generator().manual_seed(0))
    samples = OneHotCategoricals(LOGITS.expand(draws, 5), SIZES).sample(uniform)
    assert set(samples.flatten().tolist()) == {0.0, 1.0}
    assert all((factor.sum(-1) == 1).all() for factor in samples.split(SIZES, -1))
    torch.testing.assert_close(samples.mean(0), probabilities(LOGITS), atol=4 * (0.25 / draws) ** 0.5, rtol=0)
    first, second = samples[:, 2], samples[:, 3]
    assert abs(float((first * second).mean() - first.mean() * second.mean())) < 0.015  # independent


def test_the_mode_is_the_most_likely_choice_of_every_factor() -> None:
    assert OneHotCategoricals(LOGITS, SIZES).sample(None).tolist() == [0, 0, 1, 1, 0]


def test_numbers_at_the_ends_of_the_interval_give_a_choice() -> None:
    uniform = torch.tensor([[0.0] * 5, [1 - 2**-24] * 5])
    assert (OneHotCategoricals(LOGITS.expand(2, 5), SIZES).sample(uniform).sum(-1) == 2).all()


def test_the_gradient_of_a_sample_is_that_of_the_probabilities() -> None:
    weight = torch.arange(5.0)
    found, expected = LOGITS.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    (OneHotCategoricals(found, SIZES).sample(torch.full((5,), 0.4)) * weight).sum().backward()
    (probabilities(expected) * weight).sum().backward()
    assert found.grad is not None
    torch.testing.assert_close(found.grad, expected.grad)


def test_entropy_is_summed_over_factors() -> None:
    p = probabilities(LOGITS)
    torch.testing.assert_close(OneHotCategoricals(LOGITS, SIZES).entropy(), -(p * p.log()).sum())
    torch.testing.assert_close(
        OneHotCategoricals(torch.zeros(4, 5), SIZES).entropy(), torch.full((4,), np.log(6.0)).float()
    )


def test_stacked_policies_are_one_over_time() -> None:
    policies = [OneHotCategoricals(LOGITS.expand(4, 5) * i, SIZES) for i in range(3)]
    stacked = OneHotCategoricals.stack(policies)
    assert stacked.logits.shape == (3, 4, 5)
    torch.testing.assert_close(stacked.entropy()[2], policies[2].entropy())


def test_the_actor_says_what_its_actions_are_and_is_the_same_within_a_loop() -> None:
    config = tiny_config("behaviour.actor_min_std=0.25")
    actor = ActorCritic(20, ActionSpace.discrete(*SIZES), config.behaviour).actor
    assert isinstance(actor, DiscreteActor)
    assert actor.size == 5
    assert actor.state_dict()["sizes"].tolist() == [3, 2]
    feature = torch.randn(4, 20)
    layers = [Gathered.of(layer, 4, 1) for layer in actor.layers]
    looped, inputs = actor.apply_gathered([x.weight for x in layers], [x.terms[0] for x in layers], feature)
    assert len(inputs) == len(layers)
    torch.testing.assert_close(looped.sample(None), actor(feature).sample(None))
    torch.testing.assert_close(looped.entropy(), actor(feature).entropy())


@pytest.mark.parametrize("actions", [4, ActionSpace.continuous(4)])
def test_continuous_actors_have_the_parameters_that_they_had(actions: ActionSpace | int) -> None:
    names = ActorCritic(20, actions, tiny_config().behaviour).actor.state_dict().keys()
    assert names == {f"{part}.{kind}" for part in ("hidden.0", "mean", "std") for kind in ("weight", "bias")}
