"""Learnt scales of the losses (HarmonyDream)."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from prelar_ray.errors import CheckpointError
from prelar_ray.learning.balance import GROUPS, UNBALANCED, LossBalance
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.telemetry.metrics import METRICS
from tests.learning.device_rule import only_on_device
from tests.tiny import ACTION, inputs_of, tiny_batch, tiny_clips, tiny_config

Learner = PretrainLearner | FinetuneLearner
PHASES = ["pretrain", "finetune"]
SCALES = {"pretrain": ["dynamics_kl", "image"], "finetune": ["dynamics_kl", "image", "reward"]}


def make(phase: str, *overrides: str) -> Learner:
    config = tiny_config(*overrides)
    return PretrainLearner(config) if phase == "pretrain" else FinetuneLearner(config, ACTION)


def update(learner: Learner, seed: int) -> None:
    if isinstance(learner, PretrainLearner):
        learner.update(tiny_clips(seed))
    else:
        learner.update(tiny_batch(seed))


def scales(learner: Learner) -> list[float]:
    return [float(s.detach()) for s in learner.balance.log_scale.values()]


def same(one: Any, two: Any) -> bool:
    leaves = [
        [torch.as_tensor(x) for x in torch.utils._pytree.tree_leaves(tree) if x is not None] for tree in (one, two)
    ]
    return len(leaves[0]) == len(leaves[1]) and all(map(torch.equal, *leaves))


def balance(**log_scale: float) -> LossBalance:
    module = LossBalance(log_scale).double()
    for group, value in log_scale.items():
        module.log_scale[group].data.fill_(value)
    return module


def terms(**values: float) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


# The sum


def test_a_group_is_divided_by_its_scale_and_pays_for_it_while_other_terms_stay_as_they_are() -> None:
    module = balance(image=math.log(8.0), reward=math.log(0.5), dynamics_kl=0.0)
    total = module(terms(image=40.0, reward=3.0, aux_reward=1.0, dynamics_kl=7.0, action_kl=11.0))
    groups = (40.0 / 8 + math.log(9.0)) + (4.0 / 0.5 + math.log(1.5)) + (7.0 + math.log(2.0))
    assert total.item() == pytest.approx(groups + 11.0, rel=1e-12)
    factors = {name: float(value) for name, value in module.metrics().items()}
    assert factors == pytest.approx({"loss_scale/image": 1 / 8, "loss_scale/reward": 2.0, "loss_scale/dynamics_kl": 1})


def test_a_group_without_one_of_its_terms_has_its_scale_all_the_same() -> None:
    assert balance(reward=1.0)(terms(reward=2.0)).item() == pytest.approx(2 / math.e + math.log(1 + math.e), rel=1e-12)


@pytest.mark.parametrize("loss", [1e-4, 1.0, 600.0])
def test_constant_losses_are_stationary_where_the_scaled_loss_is_sigma_over_one_plus_sigma(loss: float) -> None:
    sigma = (loss + math.sqrt(loss * loss + 4 * loss)) / 2  # the positive root of sigma^2 = L (1 + sigma)
    module = balance(image=math.log(sigma))
    module(terms(image=loss)).backward()
    gradient = module.log_scale["image"].grad
    assert gradient is not None
    assert float(gradient) == pytest.approx(0.0, abs=1e-12)
    assert loss / sigma == pytest.approx(sigma / (1 + sigma), rel=1e-9)
    for away in (-0.1, 0.1):
        assert balance(image=math.log(sigma) + away)(terms(image=loss)) > module(terms(image=loss))


def test_gradients_are_those_of_finite_differences() -> None:
    module = balance(image=0.7, reward=-1.3, dynamics_kl=2.0)
    names = ["image", "reward", "aux_reward", "dynamics_kl", "action_kl"]
    losses = torch.tensor([30.0, 0.2, 0.1, 4.0, 2.0], dtype=torch.float64, requires_grad=True)
    log_scales = torch.tensor([0.7, -1.3, 2.0], dtype=torch.float64, requires_grad=True)

    def total(losses: Tensor, log_scales: Tensor) -> Tensor:
        values = {f"log_scale.{group}": s for group, s in zip(GROUPS, log_scales, strict=True)}
        given = dict(zip(names, losses, strict=True))
        result: Tensor = torch.func.functional_call(module, values, (given,))
        return result

    assert torch.autograd.gradcheck(total, (losses, log_scales))


def test_without_scales_the_sum_is_the_plain_one_to_the_bit() -> None:
    values = {
        name: torch.rand(()) * 10**power for power, name in enumerate(["image", "reward", "dynamics_kl", "other"])
    }
    assert torch.equal(UNBALANCED(values), torch.stack(list(values.values())).sum())
    assert UNBALANCED.state_dict() == UNBALANCED.metrics() == {}


def test_a_group_without_weight_has_no_scale() -> None:
    config = tiny_config("loss.balance=learnt", "loss.reward_weight=0", "loss.image_weight=0").loss
    assert list(LossBalance.of(config, GROUPS).log_scale) == ["dynamics_kl", "reward"]  # the auxiliary reward is left


# Learners


@pytest.mark.parametrize("phase", PHASES)
def test_scales_start_at_zero_learn_with_the_model_and_are_measured(phase: str) -> None:
    learner = make(phase, "loss.balance=learnt")
    assert list(learner.balance.log_scale) == SCALES[phase]
    assert scales(learner) == [0.0] * len(SCALES[phase])
    update(learner, 0)
    measured = {name: value for name, value in learner.metrics().items() if name.startswith("loss_scale/")}
    assert measured == {f"loss_scale/{group}": 1.0 for group in SCALES[phase]}, "of the update, not after it"
    assert measured.keys() <= METRICS.keys()
    moved = dict(zip(SCALES[phase], scales(learner), strict=True))
    assert moved["image"] > 0, "noise has a loss of hundreds"
    assert moved["dynamics_kl"] < 0, "and nearly no KL"


@pytest.mark.parametrize("phase", PHASES)
def test_fixed_weights_have_no_parameter_and_no_metric(phase: str) -> None:
    learner = make(phase)
    update(learner, 0)
    assert list(learner.balance.parameters()) == []
    assert learner.state_dict()["balance"] == {}
    assert not any(name.startswith("loss_scale/") for name in learner.metrics())


def test_the_model_learns_from_losses_with_their_scales() -> None:
    learners = [make("pretrain", f"loss.balance={kind}", "loss.consistency_weight=0") for kind in ("none", "learnt")]
    for s in learners[1].balance.log_scale.values():
        s.data.fill_(math.log(4.0))
    for learner in learners:
        update(learner, 0)
    plain, scaled = (learner.metrics() for learner in learners)
    grouped, rest = plain["loss/image"] + plain["loss/dynamics_kl"], plain["loss/action_kl"]
    assert scaled["loss/image"] == plain["loss/image"], "the metric is of the loss itself"
    assert scaled["loss/total"] == pytest.approx(grouped / 4 + rest + 2 * math.log(5.0), rel=1e-5)


def test_scales_rest_while_the_pretrained_parts_are_frozen() -> None:
    learner = make("finetune", "loss.balance=learnt", "finetune.initial_updates=2")
    moved = []
    for seed in range(3):
        before = scales(learner)
        update(learner, seed)
        moved.append(scales(learner) != before)
    assert moved == [False, False, True]


@pytest.mark.parametrize("phase", PHASES)
def test_an_update_with_scales_stays_on_the_device(phase: str) -> None:
    learner, batch = make(phase, "loss.balance=learnt"), tiny_batch(0)
    inputs = [torch.from_numpy(batch.image)] if phase == "pretrain" else inputs_of(batch)
    learner._compute(*inputs)  # makes the optimisers' moments
    with only_on_device():
        learner._compute(*inputs)


# Checkpoints


@pytest.mark.parametrize("phase", PHASES)
def test_scales_are_restored_and_continue_bit_for_bit(phase: str) -> None:
    learner = make(phase, "loss.balance=learnt")
    for seed in range(2):
        update(learner, seed)
    state = deepcopy(learner.state_dict())
    other = make(phase, "loss.balance=learnt", "seed=1")
    other.load_state_dict(deepcopy(state))
    assert scales(other) == scales(learner) != [0.0] * len(SCALES[phase])
    for seed in range(2, 4):
        update(learner, seed)
        update(other, seed)
    assert same(learner.state_dict(), other.state_dict())


@pytest.mark.parametrize("phase", PHASES)
def test_a_state_with_scales_fits_no_learner_without_and_the_reverse(phase: str) -> None:
    fixed, learnt = make(phase), make(phase, "loss.balance=learnt")
    with pytest.raises(CheckpointError, match=r"holds balance\.log_scale\.\w+, which this configuration does not have"):
        fixed.load_state_dict(learnt.state_dict())
    with pytest.raises(CheckpointError, match=r"checkpoint lacks balance\.log_scale\.dynamics_kl"):
        learnt.load_state_dict(fixed.state_dict())


def test_a_state_from_before_there_were_scales_is_one_of_fixed_weights() -> None:
    learner = make("pretrain")
    update(learner, 0)
    state = deepcopy(learner.state_dict())
    del state["balance"]
    other = make("pretrain", "seed=1")
    other.load_state_dict(state)
    assert same(learner.state_dict(), other.state_dict())


def test_fine_tuning_starts_its_own_scales_whatever_pretraining_found() -> None:
    pretrained = make("pretrain", "loss.balance=learnt")
    update(pretrained, 0)
    for overrides in (["loss.balance=learnt"], []):
        learner = make("finetune", *overrides)
        assert isinstance(learner, FinetuneLearner)
        learner.load_pretrained(pretrained.model.state_dict())
        assert scales(learner) == [0.0] * len(learner.balance.log_scale)
