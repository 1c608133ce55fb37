from __future__ import annotations

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


@pytest.mark.parametrize(
    ("frames", "across"), [(2, [0, 0, 1, 0, 0, 1]), (3, [0, 0, 1, 1, 0, 1]), (9, [0, 0, 1, 1, 1, 1])]
)
def test_steps_inferred_from_frames_of_two_episodes_are_known(frames: int, across: list[int]) -> None:
    encoder = PretrainWorldModel.of_run(tiny_config(f"world_model.inverse_dynamics_frames={frames}")).inverse_dynamics
    assert encoder is not None
    is_first = torch.tensor([[1, 0, 1, 0, 0, 1]])  # before the first frame is that frame again
    assert encoder.across_episodes(is_first).tolist() == [across]


def test_each_frame_less_the_one_before_shows_movement_alone() -> None:
    config = tiny_config("world_model.inverse_dynamics_frames=3", "world_model.inverse_dynamics_input=difference")
    encoder = PretrainWorldModel.of_run(config).eval().inverse_dynamics
    assert encoder is not None
    image = torch.randn(1, 6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    points = encoder(image).point[0]
    torch.testing.assert_close(encoder(image + torch.randn(3, 64, 64)).point[0], points)  # whatever stands still
    for frame in range(6):
        other = image.clone()
        other[:, frame] += 1
        moved = (encoder(other).point[0] != points).any(-1).nonzero().flatten().tolist()
        assert moved == [row for row in range(5) if row - 1 <= frame <= row + 1]  # row t-1 sees t-2, t-1 and t


def test_features_are_summed_where_a_still_picture_is_known() -> None:
    with pytest.raises(ConfigError, match=r"set world_model\.inverse_dynamics_input=difference"):
        tiny_config("world_model.inverse_dynamics_pooling=sum")


def small_movement(row: int, column: int, step: int) -> torch.Tensor:
    """Two frames ``(1, 2, 3, 64, 64)`` of a spot that moves to the right."""
    image = torch.zeros(1, 2, 3, 64, 64)
    for frame in range(2):
        start = column + frame * step
        image[0, frame, :, row : row + 4, start : start + 4] = 1
    return image


@pytest.mark.parametrize(("pooling", "same"), [("sum", True), ("none", False)])
def test_a_summed_latent_action_tells_what_moved_and_not_where(pooling: str, same: bool) -> None:
    config = tiny_config(
        f"world_model.inverse_dynamics_pooling={pooling}", "world_model.inverse_dynamics_input=difference"
    )
    encoder = PretrainWorldModel.of_run(config).eval().inverse_dynamics
    assert encoder is not None
    side = 64 // innermost_map(config.world_model.inverse_dynamics, 64)[1]  # pixels of one position of the last map
    here, faster = encoder(small_movement(24, 24, 3)).point, encoder(small_movement(24, 24, 6)).point
    inside, border = (encoder(small_movement(*place, 3)).point for place in ((24 - side, 24 + side), (24, 0)))
    moved = (here - faster).norm()
    assert ((here - inside).norm() < 1e-5 * moved) == same
    assert not same or (here - border).norm() < 0.2 * moved  # with zeros beyond the border it is 0.35


@pytest.mark.parametrize("training", [True, False])
def test_a_summed_latent_action_of_a_still_picture_is_that_of_no_features(training: bool) -> None:
    config = tiny_config("world_model.inverse_dynamics_pooling=sum", "world_model.inverse_dynamics_input=difference")
    encoder = PretrainWorldModel.of_run(config).train(training).inverse_dynamics
    assert encoder is not None
    seen: list[torch.Tensor] = []
    encoder.hidden.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    still, moving = torch.rand(1, 1, 3, 64, 64).expand(1, 2, -1, -1, -1), small_movement(24, 24, 3)
    encoder(torch.cat([still, moving]))
    assert seen[0][0].abs().max() < 1e-4
    assert seen[0][1].abs().max() > 0.01


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
