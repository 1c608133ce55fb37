"""The policy of an RLlib algorithm, as a rollout asks for actions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor

from prelar_ray.acting.policy import ActingNoise
from prelar_ray.action_space import ActionSpace
from prelar_ray.baselines.environment import as_floats
from prelar_ray.types import Frames, Vectors

__all__ = ["ModulePolicy", "ModuleState"]


class ModuleState(NamedTuple):
    """Memory between steps of ``n`` environments."""

    action: Tensor  # (n, A) previous action
    memory: dict[str, Tensor]  # the module's own, each (n, ...); empty where it has none

    def at(self, rows: list[int]) -> ModuleState:
        """The memory of some of the environments."""
        return ModuleState(self.action[rows], {name: value[rows] for name, value in self.memory.items()})


class ModulePolicy:
    """Acts as RLlib does without exploration: the mode of the distribution, or what the module itself chooses.

    A module that draws its latent state (DreamerV3) knows torch's global generator only. Here it finds that in a state
    of the policy's own, and training finds it as it left it. What is drawn depends on the rows in a batch.
    """

    noise_shape = (0, 0)  # the environments draw none for it

    def __init__(self, module: TorchRLModule, actions: ActionSpace, version: int, seed: int) -> None:
        """Act with ``module`` as it is then, in environments of these ``actions``."""
        self.module, self.actions, self.version = module, actions, version
        shown = module.observation_space
        assert isinstance(shown, spaces.Box)
        self._black = float(shown.low.min())
        self._device = next(module.parameters()).device
        with torch.random.fork_rng(devices=[]):
            self._has_memory = bool(module.is_stateful())  # draws, the first time it is asked
        self._random_state = torch.Generator().manual_seed(seed).get_state()

    def initial(self, n: int) -> ModuleState:
        """State before the first step of ``n`` environments."""
        action = torch.zeros(n, self.actions.size, device=self._device)
        with self._own_randomness():
            return ModuleState(action, self._initial_memory(n) if self._has_memory else {})

    @torch.no_grad()
    def act(
        self,
        image: Frames,
        is_first: npt.NDArray[np.bool_],
        state: ModuleState,
        noise: ActingNoise,
        vector: Vectors | None = None,
    ) -> tuple[npt.NDArray[np.float32], ModuleState]:
        """Choose actions.

        Args:
            image: uint8 ``(n, Hpx, Wpx, C)``.
            is_first: ``(n,)``; where set, the row of ``state`` is ignored.
            state: from the previous step, or :meth:`initial`.
            noise, vector: not used.

        Returns:
            Actions ``(n, A)`` in [-1, 1] and the state for the next step.
        """
        with self._own_randomness():
            return self._act(torch.from_numpy(as_floats(image, self._black)).to(self._device), is_first, state)

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._random_state)
            yield
            self._random_state = torch.get_rng_state()

    def _act(
        self, frames: Tensor, is_first: npt.NDArray[np.bool_], state: ModuleState
    ) -> tuple[npt.NDArray[np.float32], ModuleState]:
        if not self._has_memory:
            action = self._choose(self.module.forward_inference({Columns.OBS: frames}))
            return action.cpu().numpy(), ModuleState(action, {})
        first = torch.from_numpy(is_first).to(self._device)
        # Rows that begin get the initial memory here; DreamerV3 asks for the flag besides.
        fresh = self._initial_memory(len(frames))
        memory = {name: _where(first, fresh[name], value) for name, value in state.memory.items()}
        batch = {Columns.OBS: frames.unsqueeze(1), Columns.STATE_IN: memory, "is_first": first.float()}
        out = self.module.forward_inference(batch)
        action = self._choose(out, steps=True)
        return action.cpu().numpy(), ModuleState(action, dict(out[Columns.STATE_OUT]))

    def _initial_memory(self, n: int) -> dict[str, Tensor]:
        initial = self.module.get_initial_state()
        rows = {name: torch.as_tensor(value, device=self._device) for name, value in initial.items()}
        return {name: row.detach().unsqueeze(0).repeat(n, *[1] * row.dim()) for name, row in rows.items()}

    def _choose(self, out: dict[str, Any], steps: bool = False) -> Tensor:
        """Return actions ``(n, A)``; ``steps`` says that ``out`` has a dimension of one step after the rows."""
        chosen: Any = out.get(Columns.ACTIONS)
        if chosen is None:
            distribution = self.module.get_inference_action_dist_cls().from_logits(out[Columns.ACTION_DIST_INPUTS])
            chosen = distribution.to_deterministic().sample()
        if steps:
            chosen = chosen.squeeze(1)
        if not self.actions.is_discrete:
            clipped: Tensor = chosen.clamp(-1, 1).float()  # as the last connector of RLlib does
            return clipped
        indices = chosen.reshape(len(chosen), -1).cpu().numpy()
        return torch.from_numpy(self.actions.one_hot(indices)).to(chosen.device)


def _where(first: Tensor, fresh: Tensor, value: Tensor) -> Tensor:
    return torch.where(first.view(-1, *[1] * (value.dim() - 1)), fresh.to(value.dtype), value)
