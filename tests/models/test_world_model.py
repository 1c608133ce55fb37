from __future__ import annotations

from unittest import mock

import pytest
import torch

from prelar_ray.config import load_config
from prelar_ray.errors import ConfigError
from prelar_ray.models.actor_critic import ActorCritic
from prelar_ray.models.layers import parameter_count
from prelar_ray.models.resnet import innermost_map
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


def test_a_latent_action_is_inferred_from_the_frames_up_to_the_one_it_leads_to() -> None:
    model = PretrainWorldModel(tiny_config("world_model.inverse_dynamics_frames=3").world_model).eval()
    image = torch.randn(1, 6, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def inferred(image: torch.Tensor) -> torch.Tensor:
        latent = model.infer_latent_actions(image)
        assert latent is not None
        return latent.point[0]

    points = inferred(image)
    assert points.shape == (5, 3)
    for frame in range(6):
        other = image.clone()
        other[:, frame] += 1
        moved = (inferred(other) != points).any(-1).nonzero().flatten().tolist()
        assert moved == [row for row in range(5) if row - 1 <= frame <= row + 1]  # row t-1 sees t-2, t-1 and t
    torch.testing.assert_close(points[:1], inferred(image[:, [0, 0, 1]])[1:])  # before the first is the first again


def test_more_than_two_frames_are_not_subtracted() -> None:
    with pytest.raises(ConfigError, match=r"inverse_dynamics_frames=3: .*set world_model\.inverse_dynamics_input=pair"):
        tiny_config("world_model.inverse_dynamics_frames=3", "world_model.inverse_dynamics_input=difference")


@pytest.mark.parametrize(("pooling", "same"), [("mean", True), ("none", False)])
def test_a_pooled_latent_action_does_not_tell_where_it_happened(pooling: str, same: bool) -> None:
    config = tiny_config(f"world_model.inverse_dynamics_pooling={pooling}")
    encoder = PretrainWorldModel.of_run(config).eval().inverse_dynamics
    assert encoder is not None
    channels, side = innermost_map(config.world_model.inverse_dynamics, 64)
    image = torch.zeros(1, 4, 3, 64, 64)
    features = torch.randn(3, channels, side, side, generator=torch.Generator().manual_seed(0))

    def inferred(features: torch.Tensor) -> torch.Tensor:
        with mock.patch.object(encoder.trunk, "forward", return_value=features.flatten(1)):
            point: torch.Tensor = encoder(image).point
        return point

    here, elsewhere = inferred(features), inferred(features.flip(-1, -2))
    assert torch.allclose(here, elsewhere, atol=1e-6) == same
    assert not torch.allclose(here, inferred(features + 1), atol=1e-6)


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
