from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prelar_ray.config import RSSMConfig
from prelar_ray.models.gathered import Gathered
from prelar_ray.models.rssm import RSSM, State

B, T, E, L = 3, 5, 7, 4


def plain_filter(rssm: RSSM, embed: Tensor, latent_action: Tensor, is_first: Tensor, gumbel: Tensor) -> Tensor:
    """The scan with ordinary layers: features ``(B, T, F)``."""
    state, features = rssm.initial(B), []
    for t in range(T):
        keep = (1 - is_first[:, t]).unsqueeze(-1)
        joined = torch.cat([state.stoch.flatten(-2) * keep, latent_action[:, t] * keep], dim=-1)
        deter = rssm.cell(F.elu(rssm.input(joined)), state.deter * keep)
        hidden = F.elu(rssm.posterior(torch.cat([deter, embed[:, t]], dim=-1)))
        logits = rssm.posterior_logits(hidden).unflatten(-1, (rssm.stoch, rssm.classes))
        probabilities = logits.softmax(-1)
        one_hot = F.one_hot((logits + gumbel[:, t]).argmax(-1), rssm.classes).to(logits.dtype)
        state = State(one_hot + probabilities - probabilities.detach(), deter, logits)
        features.append(state.feature)
    return torch.stack(features, dim=1)


def test_the_gathered_gradients_of_a_scan_are_those_of_ordinary_layers_in_float64() -> None:
    torch.manual_seed(0)
    rssm = RSSM(RSSMConfig(stoch=3, classes=4, deter=6, hidden=5), E, L).double()
    embed = torch.randn(B, T, E).double().requires_grad_()
    latent_action = torch.randn(B, T, L).double().requires_grad_()
    is_first = torch.zeros(B, T).double()
    is_first[:, 0] = is_first[1, 3] = 1
    gumbel = -torch.empty(B, T, 3, 4).double().exponential_().log()
    wanted = [*rssm.parameters(), embed, latent_action]
    found = []
    for feature in (
        plain_filter(rssm, embed, latent_action, is_first, gumbel),
        rssm.filter(embed, latent_action, is_first, gumbel=gumbel).feature,
    ):
        weighting = torch.linspace(-1, 1, feature.numel()).double().view_as(feature)
        gradients = torch.autograd.grad((feature.sin() * weighting).sum(), wanted, allow_unused=True)
        found.append([feature, *(x for x in gradients if x is not None)])
    plain, gathered = found
    assert len(plain) == len(gathered) > 10
    for left, right in zip(plain, gathered, strict=True):
        torch.testing.assert_close(right, left, rtol=1e-12, atol=1e-14)


def test_a_weight_without_gradient_gets_none_and_the_terms_get_theirs() -> None:
    linear = nn.Linear(2, 3).requires_grad_(False)
    terms = torch.randn(4, 2, 3, requires_grad=True)
    loop = Gathered(linear.weight, terms)
    x = torch.randn(4, 2)
    sum(torch.addmm(term, x, loop.weight.t()).sum() for term in loop.terms).backward()  # type: ignore[union-attr]
    assert linear.weight.grad is None
    assert terms.grad is not None
    assert bool((terms.grad == 1).all())


@pytest.mark.parametrize("steps", [2, 9])
def test_the_backward_pass_has_as_many_products_with_inputs_however_many_steps(steps: int) -> None:
    """Of each step there are left the products that pass the gradient on."""
    counts = []
    for length in (steps, steps + 1):
        linear, x = nn.Linear(2, 2), torch.randn(4, 2, requires_grad=True)
        loop, state = Gathered.of(linear, 4, length), x
        for term in loop.terms:
            loop.inputs.append(state.detach())
            state = torch.addmm(term, state, loop.weight.t())
        with torch.profiler.profile() as profile:
            state.sum().backward()
        counts.append(sum(event.count for event in profile.key_averages() if event.key == "aten::mm"))
    assert [b - a for a, b in pairwise(counts)] == [1]
