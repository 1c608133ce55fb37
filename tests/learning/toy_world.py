"""A world model worked out by hand: frames are of one brightness, the latent action is how much it changes."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from prelar_ray.models.latent_action import GaussianAction
from prelar_ray.models.rssm import State
from prelar_ray.models.world_model import PretrainWorldModel


class ToyRSSM:
    """The deterministic state is the brightness; the latent action is added to it, if the model ``listens``."""

    groups, classes = 1, 2

    def __init__(self, listens: bool) -> None:
        self.listens = listens

    def observe(self, embed: Tensor, action: Tensor, is_first: Tensor, gumbel: Any = None) -> tuple[State, Tensor]:
        before = torch.cat([embed[:, :1], embed[:, :-1]], dim=1)
        return self.filter(embed, action, is_first), self._state(before + self._change(action)).logits

    def filter(self, embed: Tensor, action: Tensor, is_first: Tensor) -> State:
        return self._state(embed)

    def prior_step(self, state: State, action: Tensor) -> State:
        return self._state(state.deter + self._change(action))

    def imagine(self, state: State, action: Tensor) -> State:
        return self._state(state.deter.unsqueeze(1) + self._change(action).cumsum(1))

    def _change(self, action: Tensor) -> Tensor:
        return action[..., :1] * float(self.listens)

    def _state(self, level: Tensor) -> State:
        # So small that the KL of two states grows with the distance of their levels, wherever they are.
        logits = torch.stack([0.01 * level, torch.zeros_like(level)], dim=-1)
        return State(torch.zeros(*level.shape, 0), level, logits)


class ToyWorld:
    """Latent actions have three dimensions: the change of brightness, and two that say nothing."""

    def __init__(self, listens: bool = True) -> None:
        self.rssm = ToyRSSM(listens)

    def observed(self, image: Tensor, vector: None = None) -> Tensor:
        return image.mean(dim=(-3, -2, -1)).unsqueeze(-1)

    def decode(self, feature: Tensor, image: Tensor, noise: object) -> Tensor:
        return feature[..., -1:, None, None].expand(*feature.shape[:-1], 3, 64, 64)

    def infer_latent_actions(self, image: Tensor) -> GaussianAction:
        change = self.observed(image).diff(dim=1)
        mean = torch.cat([change, torch.zeros_like(change), torch.zeros_like(change)], dim=-1)
        return GaussianAction(mean, torch.tensor([0.5, 1.0, 1.0]).expand_as(mean))

    to_inputs = PretrainWorldModel.to_inputs


def toy_model(listens: bool = True) -> PretrainWorldModel:
    """Without any parameter, so it is no torch module."""
    return cast(PretrainWorldModel, ToyWorld(listens))


def toy_clips(rows: int, length: int, scale: float = 1.0) -> Tensor:
    """Preprocessed clips whose brightness does a random walk with steps of standard deviation ``scale``."""
    noise = torch.randn(rows, length, generator=torch.Generator().manual_seed(0))
    return (scale * noise).cumsum(1)[..., None, None, None].expand(rows, length, 3, 64, 64)
