"""Networks of frames of 128x128 and 32x32: one stack more or less, the smallest feature map as at 64x64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prelar_ray.config import ContextConfig, ConvConfig, RunConfig
from prelar_ray.errors import ConfigError
from prelar_ray.learning.world_model_loss import Experience, finetune_loss, pretrain_loss
from prelar_ray.models.context import ContextEncoder
from prelar_ray.models.image_decoder import ImageDecoder
from prelar_ray.models.image_encoder import ImageEncoder
from prelar_ray.models.noise import Deterministic
from prelar_ray.models.resnet import innermost_map, stack_count
from prelar_ray.models.world_model import FinetuneWorldModel, PretrainWorldModel, WorldModel
from tests.tiny import ACTION, tiny_config

B, T = 2, 3
LARGE = "env.image_size=128"


def conv(stacks: int) -> ConvConfig:
    return ConvConfig(depth=2, stacks=stacks, layers=1)


def frames(size: int) -> Tensor:
    return torch.rand(B, T, 3, size, size, generator=torch.Generator().manual_seed(0)) - 0.5


@pytest.mark.parametrize("stacks", [1, 3, 4])
def test_larger_frames_have_a_stack_more_and_as_small_a_map(stacks: int) -> None:
    config = conv(stacks)
    (channels, side), (more, same) = (innermost_map(config, size) for size in (64, 128))
    assert (stack_count(config, 64), stack_count(config, 128)) == (stacks, stacks + 1)
    assert (more, same) == (2 * channels, side)
    encoder, decoder = ImageEncoder(config, 128), ImageDecoder(5, config, image_size=128)
    assert encoder.size == 2 * ImageEncoder(config).size
    assert encoder(frames(128)).shape == (B, T, encoder.size)
    assert decoder(torch.zeros(B, T, 5)).shape == (B, T, 3, 128, 128)


@pytest.mark.parametrize("stacks", [2, 3, 4])
def test_smaller_frames_have_a_stack_less_and_as_small_a_map(stacks: int) -> None:
    config = conv(stacks)
    (channels, side), (fewer, same) = (innermost_map(config, size) for size in (64, 32))
    assert stack_count(config, 32) == stacks - 1
    assert (2 * fewer, same) == (channels, side)
    encoder, decoder = ImageEncoder(config, 32), ImageDecoder(5, config, image_size=32)
    assert encoder(frames(32)).shape == (B, T, encoder.size)
    assert decoder(torch.zeros(B, T, 5)).shape == (B, T, 3, 32, 32)


def test_small_frames_with_a_single_stack_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"world_model\.decoder\.stacks=1: .* of 32 pixels .* set it to 2 or more"):
        tiny_config("env.image_size=32", "world_model.decoder.stacks=1", "world_model.encoder.stacks=2")


def test_the_context_has_maps_of_the_same_sides() -> None:
    config = ContextConfig(enabled=True, heads=1, mask=0.0)
    maps = {}
    for size in (32, 64, 128):
        encoder, decoder = ContextEncoder(conv(3), config, size), ImageDecoder(4, conv(3), config, size)
        contexts = encoder(frames(size), Deterministic(torch.arange(B)))
        maps[size] = set(contexts)
        assert decoder(torch.zeros(B, T, 4), contexts).shape == (B, T, 3, size, size)
        assert {attention.side for attention in decoder.attentions.values()} == set(contexts)
    assert maps[32] == maps[64] == maps[128] == {8, 16}


def assert_all_learn(model: WorldModel) -> None:
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    for part in ("encoder", "decoder", "inverse_dynamics"):
        convolutions = getattr(model, part)
        last = next(p for name, p in reversed(list(convolutions.named_parameters())) if "conv1.weight" in name)
        assert last.grad.abs().sum() > 0, part


def shapes(config: RunConfig) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for p in PretrainWorldModel.of_run(config).parameters()]


def test_every_parameter_of_pretraining_gets_a_gradient() -> None:
    config = tiny_config(LARGE)
    model = PretrainWorldModel.of_run(config).train()
    is_first = torch.zeros(B, T)
    pretrain_loss(model, config.loss, frames(128), is_first, Deterministic(torch.tensor([1, 0]))).total.backward()
    assert_all_learn(model)
    assert len(shapes(config)) > len(shapes(tiny_config()))


def test_every_parameter_of_finetuning_gets_a_gradient() -> None:
    config = tiny_config(LARGE, "loss.tie_weight=1", "loss.tie_gradient=both")
    model = FinetuneWorldModel.of_run(config, ACTION).train()
    generator = torch.Generator().manual_seed(1)
    action, reward = torch.rand(B, T, ACTION, generator=generator), torch.rand(B, T, generator=generator)
    noise, flags = Deterministic(torch.empty(0, dtype=torch.int64)), torch.zeros(B, T)
    loss = finetune_loss(model, config.loss, None, Experience(frames(128), action, reward, flags), noise).total
    loss.backward()
    assert_all_learn(model)


def test_frames_of_another_size_do_not_pass() -> None:
    for built, given in ((64, 128), (128, 64)):
        model = PretrainWorldModel.of_run(tiny_config(f"env.image_size={built}"))
        with pytest.raises(RuntimeError):
            model.rssm.posterior(torch.cat([torch.zeros(B, T, 8), model.encoder(frames(given))], dim=-1))
