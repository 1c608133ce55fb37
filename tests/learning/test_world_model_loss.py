from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prelar_ray.config import RunConfig
from prelar_ray.learning.intrinsic_bonus import IntrinsicBonus
from prelar_ray.learning.world_model_loss import Experience, WorldModelLoss, finetune_loss, pretrain_loss
from prelar_ray.models.noise import Deterministic
from prelar_ray.models.preprocess import preprocess_image
from prelar_ray.models.world_model import FinetuneWorldModel, PretrainWorldModel
from tests.tiny import ACTION, tiny_batch, tiny_clips, tiny_config

ZERO = {
    "pretrain": ["image_weight", "dynamics_kl_weight", "action_kl_weight", "consistency_weight"],
    "finetune": ["image_weight", "dynamics_kl_weight", "reward_weight", "aux_reward_weight"],
}


def only(phase: str, *weights: str) -> RunConfig:
    """A run in which all other loss terms have no weight."""
    return tiny_config(*(f"loss.{name}=0" for name in ZERO[phase] if name not in weights))


def pretraining(config: RunConfig) -> tuple[PretrainWorldModel, WorldModelLoss]:
    model = PretrainWorldModel(config.world_model)
    image = preprocess_image(torch.from_numpy(tiny_clips(0)))
    is_first = torch.zeros(image.shape[:2])
    is_first[:, 0] = 1
    return model, pretrain_loss(model, config.loss, image, is_first, Deterministic())


def finetuning(config: RunConfig, reward: Tensor | None = None) -> tuple[FinetuneWorldModel, WorldModelLoss]:
    model = FinetuneWorldModel(config.world_model, ACTION)
    bonus = IntrinsicBonus(model.encoder.size, config.finetune.bonus) if config.finetune.bonus.weight else None
    batch = tiny_batch(0)
    arrays = [torch.from_numpy(x).float() for x in (batch.action, batch.reward, batch.is_first)]
    if reward is not None:
        arrays[1] = reward
    image = preprocess_image(torch.from_numpy(batch.image))
    return model, finetune_loss(model, config.loss, bonus, Experience(image, *arrays), Deterministic())


def reached(model: torch.nn.Module, loss: WorldModelLoss) -> set[str]:
    """Parts of the model that the loss trains."""
    loss.total.backward()
    return {
        name.split(".")[0]
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }


def test_total_is_the_weighted_sum_of_the_terms() -> None:
    weights = {"image": 0.5, "dynamics_kl": 2.0, "action_kl": 3.0, "consistency": 5.0}
    config = tiny_config(*(f"loss.{name}_weight={value}" for name, value in weights.items()))
    _, loss = pretraining(config)
    expected = sum(value * loss.metrics[f"loss/{name}"] for name, value in weights.items())
    torch.testing.assert_close(loss.total, expected)
    torch.testing.assert_close(loss.metrics["loss/total"], expected)

    weights = {"image": 0.5, "dynamics_kl": 2.0, "reward": 3.0, "aux_reward": 4.0}
    config = tiny_config(*(f"loss.{name}_weight={value}" for name, value in weights.items()))
    _, loss = finetuning(config)
    expected = sum(value * loss.metrics[f"loss/{name}"] for name, value in weights.items())
    torch.testing.assert_close(loss.total, expected)


def test_metrics_carry_no_gradient() -> None:
    for _, loss in (pretraining(tiny_config()), finetuning(tiny_config())):
        assert not any(value.requires_grad for value in loss.metrics.values())
        assert all(value.ndim == 0 for value in loss.metrics.values())


@pytest.mark.parametrize(
    ("term", "parts"),
    [
        ("image_weight", {"encoder", "rssm", "decoder", "inverse_dynamics"}),
        ("dynamics_kl_weight", {"encoder", "rssm", "inverse_dynamics"}),
        ("action_kl_weight", {"inverse_dynamics"}),
        ("consistency_weight", {"inverse_dynamics"}),
    ],
)
def test_each_pretraining_term_trains_the_parts_it_exists_for(term: str, parts: set[str]) -> None:
    assert reached(*pretraining(only("pretrain", term))) == parts


@pytest.mark.parametrize(
    ("term", "parts"),
    [
        ("image_weight", {"encoder", "rssm", "decoder", "action_encoder"}),
        ("dynamics_kl_weight", {"encoder", "rssm", "action_encoder"}),
        ("reward_weight", {"encoder", "rssm", "action_encoder", "reward"}),
        ("aux_reward_weight", {"encoder", "rssm", "action_encoder", "aux_reward"}),
    ],
)
def test_each_finetuning_term_trains_the_parts_it_exists_for(term: str, parts: set[str]) -> None:
    assert reached(*finetuning(only("finetune", term))) == parts


def test_bonus_is_added_to_the_reward_that_imagination_uses_and_not_to_the_plain_one() -> None:
    torch.manual_seed(0)
    _, without = finetuning(tiny_config("finetune.bonus.weight=0"))
    torch.manual_seed(0)
    _, with_bonus = finetuning(tiny_config("finetune.bonus.weight=9"))
    assert torch.equal(without.metrics["loss/aux_reward"], with_bonus.metrics["loss/aux_reward"])
    assert not torch.isclose(without.metrics["loss/reward"], with_bonus.metrics["loss/reward"])
    assert "bonus/mean" not in without.metrics


def test_steps_without_a_whole_window_train_the_plain_reward_only() -> None:
    reward = torch.zeros(3, 6)
    changed = reward.clone()
    changed[:, -1] = 100.0  # the window is 2 steps, so the last one starts at the step before
    losses = []
    for value in (reward, changed):
        torch.manual_seed(0)
        losses.append(finetuning(tiny_config(), value)[1].metrics)
    assert torch.equal(losses[0]["loss/reward"], losses[1]["loss/reward"])
    assert losses[1]["loss/aux_reward"] > losses[0]["loss/aux_reward"] + 100
