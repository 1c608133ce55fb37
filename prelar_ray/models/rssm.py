"""Recurrent state-space model with categorical states, Eq. (11), (12)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prelar_ray.config import RSSMConfig
from prelar_ray.models.distributions import mix_uniform, sample_one_hot
from prelar_ray.models.gathered import Gathered
from prelar_ray.models.layers import full_precision

__all__ = ["RSSM", "State"]


class State(NamedTuple):
    """Latent state; leading dimensions are ``(N,)`` or ``(B, T)``."""

    stoch: Tensor  # (..., S, K) one-hot, with straight-through gradients
    deter: Tensor  # (..., D)
    logits: Tensor  # (..., S, K) of the distribution that stoch was drawn from
    below: State | None = None  # state of the lower RSSM of two stacked ones, while both observe

    @property
    def feature(self) -> Tensor:
        """Input of decoder, heads, actor and critic: ``(..., F)``, F = S*K + D."""
        return torch.cat([self.stoch.flatten(-2), self.deter], dim=-1)

    def detach(self) -> State:
        """The same values without gradient history."""
        return self.map(torch.Tensor.detach)

    def flatten(self) -> State:
        """``(B, T, ...) -> (B*T, ...)``, rows of one sequence together."""
        return self.map(lambda part: part.flatten(0, 1))

    def at(self, index: Any) -> State:
        """Index the leading dimensions."""
        return self.map(lambda part: part[index])

    @staticmethod
    def concatenate(states: Sequence[State]) -> State:
        """Rows of several states in order, ``(N_i, ...) -> (sum N_i, ...)``."""
        stoch, deter, logits = (torch.cat(part) for part in zip(*(state[:3] for state in states), strict=True))
        lower = [state.below for state in states if state.below is not None]
        return State(stoch, deter, logits, State.concatenate(lower) if lower else None)

    def map(self, change: Callable[[Tensor], Tensor]) -> State:
        """Apply a function to every tensor."""
        below = None if self.below is None else self.below.map(change)
        return State(change(self.stoch), change(self.deter), change(self.logits), below)


class GRUCell(nn.Module):
    """Layer-normalised GRU; the reset gate multiplies the whole candidate and the update gate is biased by -1."""

    def __init__(self, inputs: int, deter: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs + deter, 3 * deter)
        self.norm = nn.LayerNorm(3 * deter, eps=1e-3)

    def forward(self, x: Tensor, deter: Tensor) -> Tensor:
        """``(N, inputs), (N, D) -> (N, D)``."""
        return self.gate(self.linear(torch.cat([x, deter], dim=-1)), deter)

    def gate(self, raw: Tensor, deter: Tensor) -> Tensor:
        """Combine the product of the layer, ``(N, 3*D)``, with the previous state."""
        gates = self.norm(full_precision(raw))
        reset, candidate, update = gates.chunk(3, dim=-1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        return torch.lerp(deter, candidate, torch.sigmoid(update - 1))


class RSSM(nn.Module):
    """Latent dynamics conditioned on latent actions."""

    def __init__(self, config: RSSMConfig, embed: int, latent_action: int) -> None:
        super().__init__()
        self.stoch, self.classes, self.deter = config.stoch, config.classes, config.deter
        self.groups = config.stoch  # sampled per observed step
        self.uniform_mix = config.uniform_mix
        self.size = config.stoch * config.classes
        self.feature = self.size + config.deter
        self.input = nn.Linear(self.size + latent_action, config.hidden)
        self.cell = GRUCell(config.hidden, config.deter)
        self.prior = nn.Sequential(
            nn.Linear(config.deter, config.hidden), nn.ELU(), nn.Linear(config.hidden, self.size)
        )
        self.posterior = nn.Linear(config.deter + embed, config.hidden)
        self.posterior_logits = nn.Linear(config.hidden, self.size)

    def initial(self, n: int) -> State:
        """All-zero state for ``n`` rows."""
        weight = self.input.weight
        zeros = weight.new_zeros(n, self.stoch, self.classes)
        return State(zeros, weight.new_zeros(n, self.deter), zeros)

    def observe(
        self,
        embed: Tensor,
        latent_action: Tensor,
        is_first: Tensor,
        state: State | None = None,
        gumbel: Tensor | None = None,
    ) -> tuple[State, Tensor]:
        """Return the posterior states of :meth:`filter`, with the same arguments, and prior logits ``(B, T, S, K)``."""
        posterior = self.filter(embed, latent_action, is_first, state, gumbel)
        return posterior, self.prior_logits(posterior.deter)

    def filter(
        self,
        embed: Tensor,
        latent_action: Tensor,
        is_first: Tensor,
        state: State | None = None,
        gumbel: Tensor | None = None,
    ) -> State:
        """Infer the posterior states of observed steps.

        The loop contains only what depends on the recurrent state: the embedding's half of the posterior layer and the
        action's half of the input layer are computed for all T at once.

        Args:
            embed: ``(B, T, E)``.
            latent_action: ``(B, T, L)``; index t led to step t.
            is_first: ``(B, T)``; where set, previous state and latent action are treated as zero.
            state: state before the first step; zeros by default.
            gumbel: noise ``(B, T, S, K)`` of the posterior samples; None takes the most likely classes.

        Returns:
            Posterior states ``(B, T, ...)``.
        """
        batch, length = is_first.shape
        keep = (1 - is_first.to(embed.dtype)).unsqueeze(-1)  # (B, T, 1)
        weight_stoch, weight_action = self.input.weight.split([self.size, latent_action.shape[-1]], dim=1)
        weight_deter, weight_embed = self.posterior.weight.split([self.deter, embed.shape[-1]], dim=1)
        maps = (
            Gathered(weight_stoch, F.linear(latent_action * keep, weight_action, self.input.bias)),
            Gathered.of(self.cell.linear, batch, length),
            Gathered(weight_deter, F.linear(embed, weight_embed, self.posterior.bias)),
            Gathered.of(self.posterior_logits, batch, length),
        )
        weights = [each.weight for each in maps]
        keeps = keep.unbind(1)
        noise = [None] * length if gumbel is None else gumbel.unbind(1)

        start = state or self.initial(batch)
        stoch, deter = start.stoch, start.deter
        steps = []
        for t in range(length):
            terms = [each.terms[t] for each in maps]
            stoch, deter, logits, inputs = self.filter_step(weights, terms, keeps[t], stoch, deter, noise[t])
            steps.append((stoch, deter, logits))
            if torch.is_grad_enabled():
                for each, x in zip(maps, inputs, strict=True):
                    each.inputs.append(x)
        return _stack(steps)

    def filter_step(
        self,
        weights: Sequence[Tensor],
        terms: Sequence[Tensor],
        keep: Tensor,
        stoch: Tensor,
        deter: Tensor,
        gumbel: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """One step of :meth:`filter`; the four layers are given as :class:`~prelar_ray.models.gathered.Gathered`.

        Args:
            weights: of input, cell, posterior and posterior logits.
            terms: what each adds in this step, ``(B, out)``.
            keep: ``(B, 1)``, 0 where the step is the first of an episode.
            stoch, deter: previous state, ``(B, S, K)`` and ``(B, D)``.
            gumbel: ``(B, S, K)``.

        Returns:
            The new state as ``stoch, deter, logits``, and the inputs of the four layers without gradient.
        """
        form = weights[0].dtype
        deter = deter * keep
        previous = (stoch.flatten(-2) * keep).to(form)
        x = F.elu(torch.addmm(terms[0], previous, weights[0].t()))
        joined = torch.cat([x, deter.to(form)], dim=-1)
        deter = self.cell.gate(torch.addmm(terms[1], joined, weights[1].t()), deter)
        state = deter.to(form)
        hidden = F.elu(torch.addmm(terms[2], state, weights[2].t()))
        raw = torch.addmm(terms[3], hidden, weights[3].t())
        logits = self._logits(raw)
        inputs = tuple(x.detach() for x in (previous, joined, state, hidden))
        return sample_one_hot(logits, gumbel), deter, logits, inputs

    def prior_logits(self, deter: Tensor) -> Tensor:
        """Logits of p(s^_t | deter), ``(..., D) -> (..., S, K)``."""
        return self._logits(self.prior(deter))

    def _logits(self, raw: Tensor) -> Tensor:
        """Logits of prior or posterior from the last layer's outputs, ``(..., S*K) -> (..., S, K)``."""
        return mix_uniform(full_precision(raw).unflatten(-1, (self.stoch, self.classes)), self.uniform_mix)

    def prior_step(self, state: State, latent_action: Tensor, gumbel: Tensor | None = None) -> State:
        """One step without an observation: ``(N, ...), (N, L) -> (N, ...)``."""
        x = F.elu(self.input(torch.cat([state.stoch.flatten(-2), latent_action], dim=-1)))
        deter = self.cell(x, state.deter)
        logits = self.prior_logits(deter)
        return State(sample_one_hot(logits, gumbel), deter, logits)

    def imagine(self, state: State, latent_action: Tensor, gumbel: Tensor | None = None) -> State:
        """Roll the prior from ``state`` ``(N, ...)`` under latent actions ``(N, T, L)``: states ``(N, T, ...)``."""
        steps = []
        for t, action in enumerate(latent_action.unbind(1)):
            state = self.prior_step(state, action, None if gumbel is None else gumbel[:, t])
            steps.append((state.stoch, state.deter, state.logits))
        return _stack(steps)


def _stack(steps: list[tuple[Tensor, Tensor, Tensor]]) -> State:
    """Successive ``(N, ...)`` states as one of ``(N, T, ...)``."""
    stoch, deter, logits = (torch.stack(part, dim=1) for part in zip(*steps, strict=True))
    return State(stoch, deter, logits)
