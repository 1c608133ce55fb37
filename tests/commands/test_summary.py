from __future__ import annotations

import resource

import pytest
import torch

from prelar_ray.commands.summary import summarise
from prelar_ray.config import load_config, preset_names
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.learning.world_model_loss import finetune_loss, pretrain_loss
from prelar_ray.models.layers import parameter_count
from prelar_ray.models.noise import Deterministic
from prelar_ray.models.preprocess import preprocess_image
from tests.tiny import ACTION, tiny_batch, tiny_config


def test_counts_are_those_of_the_parts_that_learners_train() -> None:
    config = tiny_config()
    summary = summarise(config, ACTION)
    pretrain, finetune = PretrainLearner(config), FinetuneLearner(config, ACTION)
    assert finetune.bonus is not None
    parts = finetune.actor_critic
    assert summary.parameters["pretrain"] == {k: parameter_count(m) for k, m in pretrain.model.named_children()}
    expected = {k: parameter_count(m) for k, m in finetune.model.named_children()}
    expected |= {"actor": parameter_count(parts.actor), "critic": parameter_count(parts.critic)}
    assert summary.parameters["finetune"] == expected
    assert summary.parameters["finetune, not trained"] == {
        "target critic": parameter_count(parts.critic),
        "bonus projection": finetune.bonus.projection.numel(),
    }
    total = sum(summary.parameters["pretrain"].values())
    assert summary.memory["pretrain: parameters, gradients, Adam"] == 4 * 4 * total


def kept_for_backward(forward: object) -> int:
    """Bytes of real tensors that autograd keeps, each storage once."""
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()  # type: ignore[operator]  # keeps the graph, and with it every address, alive
    assert result.total.requires_grad
    return sum(saved.values())


def test_activations_are_what_one_update_really_keeps() -> None:
    config = tiny_config()
    summary = summarise(config, ACTION)
    batch = tiny_batch(0)
    image = preprocess_image(torch.from_numpy(batch.image))
    action, reward, is_first = (torch.from_numpy(x).float() for x in (batch.action, batch.reward, batch.is_first))
    noise = Deterministic()
    pretrain, finetune = PretrainLearner(config), FinetuneLearner(config, ACTION)
    pretrain.model.train()
    finetune.model.train()
    real = {
        "pretrain": kept_for_backward(lambda: pretrain_loss(pretrain.model, config.loss, image, is_first, noise)),
        "finetune": kept_for_backward(
            lambda: finetune_loss(finetune.model, config.loss, None, image, action, reward, is_first, noise)
        ),
    }
    for phase, size in real.items():
        assert summary.memory[f"{phase}: activations of one update"] == pytest.approx(size, rel=0.001)


def test_replay_is_as_large_as_its_frames() -> None:
    summary = summarise(tiny_config("replay.capacity_steps=12345"), ACTION)
    assert summary.memory["replay: frames at capacity"] == 12345 * 64 * 64 * 3


def largest_so_far() -> int:
    """Most bytes that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_is_summarised_without_allocating_it(preset: str) -> None:
    before = largest_so_far()
    summary = summarise(load_config(preset))
    assert all(value > 0 for part in summary.parameters.values() for value in part.values())
    assert all(value > 0 for value in summary.memory.values())
    largest = max(summary.memory.values())
    assert largest > 2**27
    assert largest_so_far() - before < largest / 2
