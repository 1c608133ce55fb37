from __future__ import annotations

import pytest
import torch

from prelar_ray.config import load_config
from prelar_ray.models.actor_critic import ActorCritic
from prelar_ray.models.layers import parameter_count
from prelar_ray.models.world_model import FinetuneWorldModel, PretrainWorldModel
from tests.tiny import ACTION, tiny_config


def millions(module: torch.nn.Module) -> float:
    return parameter_count(module) / 1e6


def test_paper_preset_has_the_published_number_of_parameters() -> None:
    config = load_config("paper")
    with torch.device("meta"):
        pretrain = PretrainWorldModel(config.world_model)
        finetune = FinetuneWorldModel(config.world_model, 4)
        parts = ActorCritic(finetune.rssm.feature, 4, config.behaviour)
    assert millions(pretrain) == pytest.approx(28.68, abs=0.005)
    published = {"rssm": 14.760, "encoder": 1.562, "inverse_dynamics": 4.841, "decoder": 7.519}
    assert {name: millions(part) for name, part in pretrain.named_children()} == pytest.approx(published, abs=5e-4)
    assert millions(finetune) == pytest.approx(26.51, abs=0.005)
    assert millions(parts.actor) == pytest.approx(1.304, abs=5e-4)
    assert millions(parts.critic) == pytest.approx(1.301, abs=5e-4)


def test_slow_critic_starts_as_the_critic_and_is_not_trained() -> None:
    config = tiny_config()
    parts = ActorCritic(20, ACTION, config.behaviour)
    feature = torch.randn(5, 20)
    assert torch.equal(parts.slow_critic(feature), parts.critic(feature))
    assert parts.critic(feature).abs().min() > 0
    assert parameter_count(parts.slow_critic) == 0
    with torch.no_grad():
        parts.critic.out.bias.fill_(1.0)
    assert not torch.equal(parts.slow_critic(feature), parts.critic(feature)), "a copy, not the same tensors"


def test_policy_deviates_by_at_least_the_configured_minimum() -> None:
    config = tiny_config("behaviour.actor_min_std=0.25")
    parts = ActorCritic(20, ACTION, config.behaviour)
    with torch.no_grad():
        parts.actor.std.bias.fill_(-30.0)
    policy = parts.actor(torch.zeros(5, 20))
    torch.testing.assert_close(policy.scale, torch.full((5, ACTION), 0.25))
    assert policy.loc.abs().max() <= 1
