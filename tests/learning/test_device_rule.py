"""Updates ask nothing of the host, so that each can be one CUDA graph; no GPU is needed to see it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from prelar_ray.action_space import ActionSpace
from prelar_ray.config import native_methods
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from tests.learning.device_rule import OffDevice, only_on_device
from tests.tiny import ACTION, inputs_of, tiny_batch, tiny_clips, tiny_config, tiny_experience, tiny_method


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", native_methods())
def test_updates_of_every_method_stay_on_the_device(method: str, precision: str) -> None:
    config = tiny_method(method, f"precision={precision}")
    finetune = FinetuneLearner(config, ACTION)
    _check(finetune._compute, inputs_of(*tiny_experience(config, 0)))
    if config.world_model.latent_action_source != "none":
        _check(PretrainLearner(config)._compute, [torch.from_numpy(tiny_clips(0))])


def test_choices_vectors_and_episodes_that_end_stay_on_the_device() -> None:
    config = tiny_config("env.vector_key=state", "env.vector_size=3")
    batch = tiny_batch(0)
    vector = torch.randn(*batch.shape, 3)
    learner = FinetuneLearner(config, ActionSpace.discrete(ACTION), terminates=True)
    _check(learner._compute, [*inputs_of(batch), vector])


def test_a_bounded_action_kl_with_a_rising_weight_stays_on_the_device() -> None:
    for bound in ("loss.action_free_nats=2", "loss.action_capacity=2"):
        config = tiny_config("loss.action_kl_warmup_updates=5", bound)
        _check(PretrainLearner(config)._compute, [torch.from_numpy(tiny_clips(0))])


def _check(compute: Callable[..., object], inputs: list[Tensor]) -> None:
    compute(*inputs)  # makes the optimisers' moments
    with only_on_device():
        compute(*inputs)


@pytest.mark.parametrize(
    ("offence", "reason"),
    [
        (lambda x: x.new_tensor(0.5), "makes a tensor from numbers of the host"),
        (lambda x: torch.as_tensor(0.5, device=x.device), "makes a tensor from numbers of the host"),
        (lambda x: x.sum().item(), "reads a value back"),
        (lambda x: bool((x > 0).any()), "reads a value back"),
        (lambda x: x[x > 0], "shape that depends on a mask"),
        (lambda x: x.nonzero(), "shape that depends on values"),
        (lambda x: torch.zeros_like(x).index_add(0, (x > 0).long(), x), "adds in any order on a GPU"),
        (lambda x: torch.zeros_like(x).scatter_add(0, (x > 0).long(), x), "adds in any order on a GPU"),
        (lambda x: x + torch.arange(3), "made without naming the device"),
    ],
)
def test_the_rule_finds_what_needs_the_host(offence: Callable[[Tensor], object], reason: str) -> None:
    x = torch.randn(3)
    with pytest.raises(OffDevice, match=reason), only_on_device():
        offence(x)
