from __future__ import annotations

import torch

from prelar_ray.learning.frozen_model import FrozenModel
from prelar_ray.models.rssm import State
from prelar_ray.models.world_model import FinetuneWorldModel
from tests.tiny import ACTION, tiny_config


def model() -> FinetuneWorldModel:
    torch.manual_seed(0)
    return FinetuneWorldModel(tiny_config().world_model, ACTION).eval()


def step(of: FinetuneWorldModel | FrozenModel, action: torch.Tensor) -> torch.Tensor:
    rssm, n = of.rssm, len(action)
    logits = torch.linspace(-1, 1, n * rssm.size).view(n, rssm.stoch, rssm.classes)
    start = State(logits.softmax(-1), torch.linspace(-1, 1, n * rssm.deter).view(n, rssm.deter), logits)
    return of.reward(rssm.prior_step(start, of.action_encoder(action)).feature)  # type: ignore[no-any-return]


def test_gradients_pass_through_without_reaching_parameters() -> None:
    original = model()
    frozen = FrozenModel(original, torch.float32)
    action = torch.linspace(-1, 1, 3 * ACTION).view(3, ACTION).requires_grad_()
    outputs = [step(of, action) for of in (original, frozen)]
    assert torch.equal(*outputs)
    gradients = [torch.autograd.grad(out.sum(), action)[0] for out in outputs]
    assert torch.equal(*gradients)
    assert gradients[0].any()
    assert all(parameter.requires_grad and parameter.grad is None for parameter in original.parameters())


def test_changes_in_place_and_loaded_ones_are_followed() -> None:
    original, action = model(), torch.ones(2, ACTION)
    frozen = FrozenModel(original, torch.float32)
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.mul_(1.5)
    assert torch.equal(step(original, action), step(frozen, action))
    original.load_state_dict(model().state_dict())
    assert torch.equal(step(original, action), step(frozen, action))


def test_weights_of_products_are_converted_once_per_refresh_and_those_of_norms_stay_exact() -> None:
    original, action = model(), torch.ones(2, ACTION)
    frozen = FrozenModel(original, torch.bfloat16)
    assert frozen.rssm.input.weight.dtype == torch.bfloat16  # type: ignore[union-attr]
    assert frozen.rssm.cell.norm.weight.dtype == torch.float32  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.mul_(1.5)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = step(original, action)
        assert not torch.equal(step(frozen, action), wanted)
        frozen.refresh()
        assert torch.equal(step(frozen, action), wanted)
