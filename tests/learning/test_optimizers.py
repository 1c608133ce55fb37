from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch
from torch import nn

from prelar_ray.config import OptimizerConfig
from prelar_ray.learning.optimizers import Optimizer


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2).double()


def backward(module: nn.Linear, scale: float) -> None:
    (scale * module(torch.tensor([[1.0, -2.0, 3.0]]).double()).square().sum()).backward()


def by_hand(gradients: list[np.ndarray], start: np.ndarray, config: OptimizerConfig) -> np.ndarray:
    """Clip, then add L2, then Adam, on one flat vector."""
    value, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for step, raw in enumerate(gradients, 1):
        gradient = raw * min(1.0, config.clip_norm / (np.linalg.norm(raw) + 1e-6)) + config.weight_decay * value
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        value -= config.learning_rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + config.eps)
    return value


def flat(tensors: list[torch.Tensor]) -> np.ndarray:
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).numpy().copy()


def test_step_clips_the_global_norm_then_adds_l2_then_takes_adams_step() -> None:
    config = OptimizerConfig(learning_rate=0.1, eps=0.01, weight_decay=0.5, clip_norm=1.0)
    module = layer()
    optimizer = Optimizer([module], config)
    start, gradients = flat(list(module.parameters())), []
    for scale in (1.0, 1e-3, 0.3):
        backward(module, scale)
        gradients.append(flat([p.grad for p in module.parameters() if p.grad is not None]))
        norm = optimizer.step()
        np.testing.assert_allclose(norm, np.linalg.norm(gradients[-1]))
    assert np.linalg.norm(gradients[0]) > 1 > np.linalg.norm(gradients[1]), "one step clipped, one not"
    np.testing.assert_allclose(flat(list(module.parameters())), by_hand(gradients, start, config), rtol=1e-9)


def test_gradients_are_cleared_after_a_step() -> None:
    module = layer()
    optimizer = Optimizer([module], OptimizerConfig())
    backward(module, 1.0)
    optimizer.step()
    assert all(parameter.grad is None for parameter in module.parameters())


def test_frozen_updates_change_nothing_while_moments_accumulate() -> None:
    module = layer()
    start = flat(list(module.parameters()))
    optimizer = Optimizer([module], OptimizerConfig(learning_rate=0.1), frozen_updates=2)
    for frozen in (True, True, False):
        backward(module, 1.0)
        optimizer.step()
        optimizer.advance()
        assert np.array_equal(flat(list(module.parameters())), start) == frozen
    assert optimizer.adam.state[module.weight]["step"] == 3


def test_restored_optimizer_continues_with_its_moments_and_its_frozen_count() -> None:
    modules = [layer(), layer()]
    optimizers = [Optimizer([m], OptimizerConfig(learning_rate=0.1), frozen_updates=3) for m in modules]
    for _ in range(2):  # parameters stay, moments move
        backward(modules[0], 1.0)
        optimizers[0].step()
        optimizers[0].advance()
    optimizers[1].load_state_dict(deepcopy(optimizers[0].state_dict()))
    for _ in range(3):
        for module, optimizer in zip(modules, optimizers, strict=True):
            backward(module, 0.5)
            optimizer.step()
            optimizer.advance()
    first, second = (flat(list(module.parameters())) for module in modules)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, flat(list(layer().parameters())))


def test_moments_saved_in_another_memory_format_continue_as_they_were() -> None:
    def convolution(memory_format: torch.memory_format) -> nn.Conv2d:
        torch.manual_seed(0)
        return nn.Conv2d(3, 2, 3).double().to(memory_format=memory_format)  # type: ignore[call-overload]

    modules = [convolution(torch.contiguous_format), convolution(torch.channels_last)]
    optimizers = [Optimizer([module], OptimizerConfig(learning_rate=0.1)) for module in modules]
    for step in range(3):
        for module, optimizer in zip(modules, optimizers, strict=True):
            image = torch.arange(75.0).view(1, 3, 5, 5).double()
            module(image).square().sum().backward()
            optimizer.step()
            optimizer.advance()
        if step == 0:
            modules[1].load_state_dict(modules[0].state_dict())
            optimizers[1].load_state_dict(deepcopy(optimizers[0].state_dict()))
            weight = modules[1].weight
            assert optimizers[1].adam.state[weight]["exp_avg"].stride() == weight.stride()
    torch.testing.assert_close(modules[1].weight, modules[0].weight)


def test_parameters_without_gradient_are_left_out() -> None:
    module = layer()
    module.bias.requires_grad_(False)
    assert [p is module.weight for p in Optimizer([module], OptimizerConfig()).parameters] == [True]
