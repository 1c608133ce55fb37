from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr
from torch import Tensor

from prelar_ray.learning.consistency import action_distances, consistency_loss, state_distances
from prelar_ray.learning.learner import PretrainLearner
from prelar_ray.learning.world_model_loss import pretrain_loss
from prelar_ray.models.latent_action import GaussianAction
from prelar_ray.models.noise import Deterministic
from prelar_ray.models.preprocess import preprocess_image
from prelar_ray.models.world_model import PretrainWorldModel
from tests.tiny import tiny_clips, tiny_config

MODES = ("straight_through", "soft", "published")


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brute_force(state: np.ndarray, action: np.ndarray) -> float:
    pairs = [(i, j) for i in range(len(state)) for j in range(len(state))]
    signs = [np.sign(state[i] - state[j]) - np.sign(action[i] - action[j]) for i, j in pairs]
    return float(np.mean(np.square(signs)))


# Few values, so that ties are frequent.
distances = st.integers(1, 7).flatmap(
    lambda n: arrays(np.float64, (2, n), elements=st.sampled_from([0.0, 0.5, 1.0, 2.0, 30.0]))
)


@settings(max_examples=60)
@given(distances)
def test_value_is_the_mean_squared_difference_of_signs_over_all_ordered_pairs(values: np.ndarray) -> None:
    state, action = torch.from_numpy(values)
    for mode in ("published", "straight_through"):
        assert consistency_loss(state, action, mode).item() == pytest.approx(brute_force(*values), abs=1e-12)


def test_value_runs_from_zero_for_equal_ranks_to_nearly_four_for_opposite_ranks() -> None:
    state = torch.arange(50.0)
    for mode in MODES:
        assert consistency_loss(state, state.square() + 1, mode) < 0.2
        assert consistency_loss(state, -state, mode) > 1.5
    assert consistency_loss(state, state.square(), "published") == 0
    assert consistency_loss(state, -state, "published").item() == pytest.approx(4 * 49 / 50)  # the diagonal gives zero


def test_published_mode_has_no_gradient() -> None:
    action = draw(1, 8).requires_grad_()
    assert not consistency_loss(draw(0, 8), action, "published").requires_grad


@pytest.mark.parametrize("mode", ["straight_through", "soft"])
def test_gradient_reaches_actions_and_never_states(mode: str) -> None:
    state, action = draw(0, 8).requires_grad_(), draw(1, 8).requires_grad_()
    consistency_loss(state, action, mode).backward()
    assert state.grad is None, "state distances are targets"
    assert action.grad is not None
    assert action.grad.abs().max() > 1e-3


def test_straight_through_has_the_value_of_published_and_the_gradient_of_soft() -> None:
    state, action = draw(0, 8), draw(1, 8).requires_grad_()
    loss = consistency_loss(state, action, "straight_through")
    assert loss.item() == pytest.approx(consistency_loss(state, action, "published").item(), abs=1e-15)
    (ours,) = torch.autograd.grad(loss, action)
    (soft,) = torch.autograd.grad(consistency_loss(state, action, "soft"), action)
    assert torch.equal(ours, soft)
    assert (ours @ action.detach()).abs() < 1e-12, "scale is neither lost nor gained"


def test_gradient_of_soft_agrees_with_finite_differences() -> None:
    state, action = draw(0, 7).exp(), draw(1, 7).exp().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: consistency_loss(state, x, "soft"), action)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("factor", [1e-6, 3.0, 1e6])
def test_scale_of_either_distance_changes_nothing(mode: str, factor: float) -> None:
    state, action = draw(0, 9).exp(), draw(1, 9).exp()
    value = consistency_loss(state, action, mode)
    assert value > 0.1
    torch.testing.assert_close(consistency_loss(factor * state, action, mode), value)
    torch.testing.assert_close(consistency_loss(state, factor * action, mode), value)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [1, 5])
def test_ties_and_a_single_distance_give_zero_and_finite_gradients(mode: str, n: int) -> None:
    state, action = torch.full((n,), 2.0), torch.zeros(n, requires_grad=True)
    loss = consistency_loss(state, action, mode)
    assert loss == 0
    if mode != "published":
        loss.backward()
        assert action.grad is not None
        assert action.grad.isfinite().all()


def test_tied_actions_are_drawn_apart_by_states_that_differ() -> None:
    state, action = torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3, requires_grad=True)
    consistency_loss(state, action).backward()
    assert action.grad is not None
    assert action.grad.isfinite().all()
    assert torch.equal(action.grad.sign(), torch.tensor([1.0, 0.0, -1.0]))  # descent orders them as the states


def test_descent_on_this_loss_alone_makes_the_ranks_agree() -> None:
    rows, steps, size = 6, 4, 3
    permutation = torch.arange(rows).roll(1)
    state = draw(0, rows * steps).exp()
    mean = draw(4, rows, steps, size).requires_grad_()
    std = torch.ones(rows, steps, size).double()

    def rank_correlation() -> float:
        with torch.no_grad():
            return float(spearmanr(state, action_distances(GaussianAction(mean, std), permutation)).statistic)

    assert abs(rank_correlation()) < 0.1
    optimizer = torch.optim.Adam([mean], lr=0.03)
    for _ in range(300):
        optimizer.zero_grad()
        consistency_loss(state, action_distances(GaussianAction(mean, std), permutation)).backward()
        optimizer.step()
    assert rank_correlation() > 0.9


def test_an_outlier_does_not_make_all_others_alike() -> None:
    state = torch.arange(20.0).double()
    with_outlier = torch.cat([-state[:-1], state.new_tensor([1e4])])
    opposed = consistency_loss(state[:-1], with_outlier[:-1], "soft")
    assert opposed > 1.5
    assert consistency_loss(state, with_outlier, "soft") > 0.8 * opposed


def test_distances_that_tie_but_for_a_few_are_told_apart() -> None:
    state = torch.arange(8.0)
    action = torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0], requires_grad=True)  # the middle half has no spread
    assert consistency_loss(state, action, "soft") > consistency_loss(state, action.flip(0), "soft") + 0.1
    consistency_loss(state, action, "soft").backward()
    assert action.grad is not None
    assert action.grad.isfinite().all()


@pytest.mark.parametrize("mode", ["straight_through", "soft"])
def test_a_middle_half_of_rounding_errors_gives_finite_gradients(mode: str) -> None:
    action = torch.cat([torch.rand(18, generator=torch.Generator().manual_seed(0)) * 1e-20, torch.tensor([1.0, 2.0])])
    action.requires_grad_()
    consistency_loss(torch.arange(20.0), action, mode).backward()
    assert action.grad is not None
    assert action.grad.isfinite().all()


def consistency_alone(mode: str) -> PretrainWorldModel:
    """A model after the backward pass of the consistency loss and of nothing else."""
    weights = ("image", "dynamics_kl", "action_kl")
    config = tiny_config(f"loss.consistency_gradient={mode}", *(f"loss.{name}_weight=0" for name in weights))
    model = PretrainWorldModel(config.world_model)
    image = preprocess_image(torch.from_numpy(tiny_clips(0)))
    is_first = torch.zeros(image.shape[:2])
    is_first[:, 0] = 1
    pretrain_loss(model, config.loss, image, is_first, Deterministic()).total.backward()
    return model


@pytest.mark.parametrize("mode", ["straight_through", "soft"])
def test_gradient_reaches_the_inverse_dynamics_encoder_and_nothing_else(mode: str) -> None:
    reached = {
        name.split(".")[0]
        for name, parameter in consistency_alone(mode).named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }
    assert reached == {"inverse_dynamics"}


def test_published_gradient_reaches_nothing() -> None:
    gradients = [parameter.grad for parameter in consistency_alone("published").parameters()]
    assert all(gradient is None or not gradient.any() for gradient in gradients)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("loss.consistency_gradient=published", "loss.consistency_weight=0"),
        ("loss.consistency_gradient=straight_through", "loss.consistency_gradient=soft"),
    ],
)
def test_settings_of_equal_gradient_train_alike_to_the_bit(one: str, other: str) -> None:
    learners = [PretrainLearner(tiny_config(setting)) for setting in (one, other)]
    for learner in learners:
        for seed in range(3):
            learner.update(tiny_clips(seed))
    ours, theirs = (learner.state_dict() for learner in learners)
    assert all(torch.equal(value, theirs["model"][key]) for key, value in ours["model"].items())
    different = PretrainLearner(tiny_config("loss.consistency_gradient=soft", "loss.consistency_weight=0"))
    soft = PretrainLearner(tiny_config("loss.consistency_gradient=soft"))
    for learner in (different, soft):
        learner.update(tiny_clips(0))
    pairs = zip(different.model.parameters(), soft.model.parameters(), strict=True)
    assert not all(torch.equal(x, y) for x, y in pairs), "the loss does teach where it has a gradient"


def test_state_distance_is_zero_where_the_swapped_action_is_the_own_one_and_positive_elsewhere() -> None:
    config = tiny_config()
    rssm = PretrainWorldModel(config.world_model).rssm
    rows, steps = 3, 5
    torch.manual_seed(1)
    embed = torch.randn(rows, steps, rssm.posterior.in_features - rssm.deter)
    action = torch.randn(rows, steps, config.world_model.latent_action)
    is_first = torch.zeros(rows, steps)
    is_first[:, 0] = 1
    posterior, prior = rssm.observe(embed, action, is_first)
    own = state_distances(rssm, posterior, prior, action, torch.arange(rows))
    torch.testing.assert_close(own, torch.zeros(rows * (steps - 1)), rtol=0, atol=1e-6)
    swapped = state_distances(rssm, posterior, prior, action, torch.tensor([1, 2, 0]))
    assert swapped.min() > 0
    assert swapped.median() > 1e-3
    assert not swapped.requires_grad
    # Row b is compared with row permutation[b], in the order (b, t).
    pair = state_distances(rssm, posterior, prior, action, torch.tensor([1, 0, 2])).reshape(rows, steps - 1)
    torch.testing.assert_close(pair[0], swapped.reshape(rows, steps - 1)[0])
    torch.testing.assert_close(pair[2], torch.zeros(steps - 1), rtol=0, atol=1e-6)


def test_action_distance_compares_each_row_with_the_one_it_is_swapped_for() -> None:
    mean, std = draw(0, 3, 2, 4), draw(1, 3, 2, 4).exp()
    permutation = torch.tensor([2, 0, 1])
    ours = action_distances(GaussianAction(mean, std), permutation).reshape(3, 2)
    for row, other in enumerate(permutation.tolist()):
        first, second = (torch.distributions.Normal(mean[i], std[i]) for i in (row, other))
        torch.testing.assert_close(ours[row], torch.distributions.kl_divergence(first, second).sum(-1))
