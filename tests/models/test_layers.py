from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from prelar_ray.config import MLPConfig
from prelar_ray.errors import CheckpointError
from prelar_ray.models.layers import MLP, initialise, load_module, parameter_count


def test_loading_takes_over_every_tensor() -> None:
    source, target = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    source(torch.randn(5, 3))
    load_module(target, source.state_dict(), "norm")
    assert target.running_mean is not None
    assert torch.equal(target.running_mean, source.state_dict()["running_mean"])


def test_loading_names_a_missing_tensor_and_its_shape() -> None:
    layer = nn.Linear(3, 2)
    state = layer.state_dict()
    del state["bias"]
    with pytest.raises(CheckpointError, match=re.escape("lacks encoder.bias, expected shape (2,)")):
        load_module(layer, state, "encoder")


def test_loading_names_a_tensor_of_another_shape_and_both_shapes() -> None:
    with pytest.raises(
        CheckpointError, match=re.escape("encoder.weight has shape (2, 4) in the checkpoint and (2, 3)")
    ):
        load_module(nn.Linear(3, 2), nn.Linear(4, 2).state_dict(), "encoder")


def test_loading_names_a_tensor_that_the_module_does_not_have() -> None:
    with pytest.raises(CheckpointError, match=r"holds encoder\.bias, which this configuration does not have"):
        load_module(nn.Linear(3, 2, bias=False), nn.Linear(3, 2).state_dict(), "encoder")


def test_a_refused_checkpoint_changes_nothing() -> None:
    layer, other = nn.Linear(3, 2), nn.Linear(3, 2).state_dict()
    before = layer.weight.detach().clone()
    other["bias"] = torch.zeros(5)
    with pytest.raises(CheckpointError):
        load_module(layer, other, "encoder")
    assert torch.equal(layer.weight, before)


def test_initialisation_draws_weights_by_fan_and_leaves_norms_alone() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(50, 70), nn.LayerNorm(70), nn.ConvTranspose2d(4, 6, 3), nn.Conv2d(4, 6, 3))
    for norm in (module[1].weight, module[1].bias):
        nn.init.constant_(norm, 0.3)
    initialise(module)
    for layer, bound in ((module[0], (6 / 120) ** 0.5), (module[2], (6 / 90) ** 0.5), (module[3], (6 / 90) ** 0.5)):
        assert not layer.bias.any()
        assert 0.9 * bound < layer.weight.abs().max() <= bound
    assert torch.equal(module[1].weight, torch.full((70,), 0.3))
    assert torch.equal(module[1].bias, torch.full((70,), 0.3))


def test_count_leaves_out_what_is_not_trained() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2).requires_grad_(False))
    assert parameter_count(module) == 3 * 2 + 2 + 2 + 2


def test_head_gives_one_number_per_feature() -> None:
    head = MLP(5, MLPConfig(layers=2, units=3))
    assert head(torch.zeros(4, 6, 5)).shape == (4, 6)
    assert parameter_count(head) == (5 * 3 + 3) + (3 * 3 + 3) + (3 + 1)
