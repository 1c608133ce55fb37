"""The recurrent policy that acts in environments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from prelar_ray.acting.captured_steps import CapturedSteps
from prelar_ray.action_space import ActionSpace
from prelar_ray.config import RunConfig
from prelar_ray.errors import CheckpointError
from prelar_ray.models.acting_weights import acting_space
from prelar_ray.models.action_encoder import action_input
from prelar_ray.models.actor_critic import make_actor
from prelar_ray.models.layers import load_module
from prelar_ray.models.observation import VectorEncoder, image_encoder, observed, size_of
from prelar_ray.models.preprocess import preprocess_image
from prelar_ray.models.resnet import folded_config
from prelar_ray.models.rssm import State
from prelar_ray.models.world_model import dynamics
from prelar_ray.types import Frames, Vectors

__all__ = ["ActingNoise", "Policy", "PolicyState", "PolicyWeights", "acting_device", "check_actions"]

PolicyWeights = Mapping[str, npt.NDArray[Any]]
"""Weights of :class:`Policy`: arrays by name."""


class PolicyState(NamedTuple):
    """Recurrent state of the policy in ``n`` environments."""

    latent: State  # (n, ...)
    action: Tensor  # (n, A) previous action

    def at(self, rows: list[int]) -> PolicyState:
        """Return the state of some of the environments."""
        return PolicyState(self.latent.at(rows), self.action[rows])

    def map(self, change: Callable[[Tensor], Tensor]) -> PolicyState:
        """Apply a function to every tensor."""
        return PolicyState(self.latent.map(change), change(self.action))

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor, always in the same order."""
        found: list[Tensor] = []
        self.map(lambda part: found.append(part) or part)  # type: ignore[func-returns-value]
        return found


class ActingNoise(NamedTuple):
    """Random numbers of one step, drawn from the caller's generators so that a step can be repeated."""

    gumbel: npt.NDArray[np.float32] | None  # (n, groups, K) of the latent state; None takes its mode
    uniform: npt.NDArray[np.float32] | None  # (n, A) of the action; None takes its mode

    def at(self, rows: list[int]) -> ActingNoise:
        """Return the random numbers of some of the environments."""
        return ActingNoise(*(None if part is None else part[rows] for part in self))


class Policy(nn.Module):
    """Encoders, RSSM, action encoder and actor: from frames and vectors to actions, batched over environments.

    With ``one_by_one`` each row is computed alone: slower, but bit-identical for any number of rows, whereas batches of
    different sizes round differently. Without it, a GPU replays a captured step
    (:class:`~prelar_ray.acting.captured_steps.CapturedSteps`).
    """

    def __init__(self, config: RunConfig, actions: ActionSpace | int, one_by_one: bool = False) -> None:
        """Build for ``actions``; a number stands for so many continuous ones."""
        super().__init__()
        model = config.world_model
        self.actions, self.task = ActionSpace.of(actions), config.env.task
        # Batch norms are folded into the convolutions' weights; see `acting_weights`.
        self.encoder = image_encoder(folded_config(model.encoder), config.env.image_size)
        self.action_encoder = action_input(model, self.actions.size)
        size = config.env.vector_size
        self.vector_encoder = VectorEncoder(size, model.vector) if size else None
        observed_size = size_of(self.encoder, self.vector_encoder)
        self.rssm = dynamics(model, observed_size, self.action_encoder.size)
        self.actor = make_actor(self.rssm.feature, self.actions, config.behaviour)
        self.version = -1
        self.one_by_one = one_by_one
        self._captured = CapturedSteps(self.step)
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Shape of the Gumbel noise per environment and step, ``(groups, K)``."""
        return self.rssm.groups, self.rssm.classes

    def load_weights(self, weights: PolicyWeights, version: int) -> None:
        """Load the arrays that :func:`prelar_ray.models.acting_weights.acting_weights` returned.

        Raises:
            CheckpointError: an array is missing or has another shape, for example that of another task's actions.
        """
        check_actions(weights, self.actions, self.task)
        load_module(self, {key: torch.tensor(value) for key, value in weights.items()}, "policy")
        self.version = version

    def initial(self, n: int) -> PolicyState:
        """State before the first step of ``n`` environments."""
        latent = self.rssm.initial(n)
        return PolicyState(latent, latent.deter.new_zeros(n, self.actions.size))

    @torch.inference_mode()
    def act(
        self,
        image: Frames,
        is_first: npt.NDArray[np.bool_],
        state: PolicyState,
        noise: ActingNoise,
        vector: Vectors | None = None,
    ) -> tuple[npt.NDArray[np.float32], PolicyState]:
        """Choose actions.

        Args:
            image: uint8 ``(n, Hpx, Wpx, C)``; moved to the device of ``state``, which is that of the parameters.
            is_first: ``(n,)``; where set, the row of ``state`` is ignored.
            state: from the previous step, or :meth:`initial`.
            noise: random numbers; the published evaluation takes the mode of the action but samples the latent state.
            vector: ``(n, V)``; read by a policy that observes vectors.

        Returns:
            Actions ``(n, A)`` in [-1, 1] and the state for the next step, which on a GPU overwrites it.
        """
        if self.vector_encoder is None:
            vector = None
        if not self.one_by_one:
            found = self._captured(image, is_first, state, noise, vector) if state.action.is_cuda else None
            return found or self.act_eagerly(image, is_first, state, noise, vector)
        rows = [[i] for i in range(len(image))]
        of_rows = [
            (image[i], is_first[i], state.at(i), noise.at(i), None if vector is None else vector[i]) for i in rows
        ]
        actions, states = zip(*(self.act_eagerly(*of_row) for of_row in of_rows), strict=True)
        latent = State.concatenate([row.latent for row in states])
        return np.concatenate(actions), PolicyState(latent, torch.cat([row.action for row in states]))

    @torch.inference_mode()
    def act_eagerly(
        self,
        image: Frames,
        is_first: npt.NDArray[np.bool_],
        state: PolicyState,
        noise: ActingNoise,
        vector: Vectors | None = None,
    ) -> tuple[npt.NDArray[np.float32], PolicyState]:
        """:meth:`act` in one batch, launching every kernel by itself; leaves ``state`` as it is."""
        device = state.action.device
        frames, first = torch.from_numpy(image).to(device), torch.from_numpy(is_first).to(device)
        gumbel, uniform, seen = (
            None if part is None else torch.from_numpy(part).to(device) for part in (*noise, vector)
        )
        next_state = self.step(frames, first, state, gumbel, uniform, seen)
        return next_state.action.cpu().numpy().astype(np.float32), next_state

    def step(
        self,
        image: Tensor,
        is_first: Tensor,
        state: PolicyState,
        gumbel: Tensor | None,
        uniform: Tensor | None,
        vector: Tensor | None = None,
    ) -> PolicyState:
        """Return the next state, with the action to take, without waiting for the device that holds all arguments.

        Args:
            image: uint8 ``(n, Hpx, Wpx, C)``.
            is_first: bool ``(n,)``.
            state: of ``n`` environments.
            gumbel, uniform: see :class:`ActingNoise`.
            vector: ``(n, V)``; None for a policy that observes images alone.
        """
        dtype = state.action.dtype
        embed = observed(self.encoder, preprocess_image(image, dtype), self.vector_encoder, vector).unsqueeze(1)
        latent_action = self.action_encoder(state.action).unsqueeze(1)
        drawn = None if gumbel is None else gumbel.to(dtype).unsqueeze(1)
        posterior = self.rssm.filter(embed, latent_action, is_first.unsqueeze(1), state.latent, drawn)
        latent = posterior.at((slice(None), 0))
        action = self.actor(latent.feature).sample(None if uniform is None else uniform.to(dtype))
        return PolicyState(latent, action)


def acting_device(gpus: float) -> torch.device:
    """The device of a policy that has this share of a GPU; the CPU where there is none."""
    return torch.device("cuda" if gpus > 0 and torch.cuda.is_available() else "cpu")


def check_actions(weights: Mapping[str, Any], actions: ActionSpace, task: str) -> None:
    """Check that a policy's actions are those of a task; ``weights`` holds the actor's under ``actor.``.

    Raises:
        CheckpointError: they are of another kind, or of other sizes.
    """
    theirs = acting_space(weights)
    if theirs is not None and theirs != actions:  # a missing tensor is reported when the weights are loaded
        raise CheckpointError(
            f"its policy has actions of {theirs}, env.task={task} takes {actions}; "
            "choose the task it was trained on, or another with such actions"
        )
