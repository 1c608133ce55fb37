"""This project's learners holding the parameters, batch and determinism of a parity folder."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.models.noise import Deterministic
from prelar_ray.published.names import official_key
from prelar_ray.types import SequenceBatch
from tests.parity.folder import FINETUNED, PRETRAINED, Array, Arrays, Entries, ParityError, ParityFolder
from tests.parity.options import run_config

OWN_BUFFERS = {"filled"}
"""Buffers that the published code keeps outside its checkpoint."""

REWARD_MAGNITUDE = "_task_behavior.rewnorm.mag"
"""Published name of the buffer of the learner's reward normaliser, which is part of no module here."""


def pretrain_learner(folder: ParityFolder, dtype: torch.dtype = torch.float32) -> PretrainLearner:
    """A learner with the published parameters."""
    learner = PretrainLearner(run_config(folder, "pretrain"), deterministic(folder, dtype))
    load_official(learner.model, "", folder.tensors[PRETRAINED])
    return learner


def finetune_learner(
    folder: ParityFolder,
    dtype: torch.dtype = torch.float32,
    initial_updates: int = 0,
    state: Entries | None = None,
) -> FinetuneLearner:
    """A learner with the published parameters, or with those in ``state``."""
    state = state or folder.tensors[FINETUNED]
    config = run_config(folder, "finetune")
    tune = config.finetune.model_copy(update={"initial_updates": initial_updates})
    config = config.model_copy(update={"finetune": tune})
    learner = FinetuneLearner(config, folder.options["action_dim"], deterministic(folder, dtype))
    load_official(learner.model, "", state)
    load_official(learner.actor_critic, "", state)
    learner.behaviour.reward_normaliser.magnitude.copy_(state[REWARD_MAGNITUDE])
    assert learner.bonus is not None
    if dtype == torch.float64:
        learner.bonus.double()
    load_official(learner.bonus, "bonus.", state)
    return learner


def deterministic(folder: ParityFolder, dtype: torch.dtype) -> Deterministic:
    """The deterministic mode of the recording: samples are modes, and the batch permutation is the recorded one."""
    noise = Deterministic(torch.tensor(folder.options["fixed_batch_permutation"]))
    noise.dtype, noise.device = dtype, torch.get_default_device()
    return noise


def batch(folder: ParityFolder) -> SequenceBatch:
    """The one batch that every recorded update sees, frames channels-last."""
    given = folder.arrays["inputs"]
    return SequenceBatch(
        np.ascontiguousarray(np.moveaxis(given["inputs/image"], 2, -1)),
        given["inputs/action"],
        given["inputs/reward"],
        given["inputs/is_first"].astype(np.bool_),
        given["inputs/is_terminal"].astype(np.bool_),
    )


def load_official(module: nn.Module, prefix: str, state: Entries) -> None:
    """Load published parameters and buffers into ``module``, strictly.

    Args:
        prefix: what :func:`official_key` expects before the module's own keys, for example ``"bonus."``.

    Raises:
        ParityError: a tensor is missing or has another shape.
    """
    loaded: dict[str, Tensor] = {}
    for key, own in module.state_dict().items():
        if key in OWN_BUFFERS:
            loaded[key] = own
            continue
        name = official_key(prefix + key)
        if name not in state:
            raise ParityError(f"{state.source}: {name} is missing, expected shape {tuple(own.shape)}")
        if state[name].shape != own.shape:
            raise ParityError(
                f"{state.source}: {name} has shape {tuple(state[name].shape)}, expected {tuple(own.shape)}"
            )
        loaded[key] = state[name]
    module.load_state_dict(loaded, strict=True)


def named_state(module: nn.Module, prefix: str = "") -> Arrays:
    """Copies of parameters and buffers by published name."""
    return {
        official_key(prefix + key): to_array(value)
        for key, value in module.state_dict().items()
        if key not in OWN_BUFFERS
    }


def finetune_state(learner: FinetuneLearner) -> Arrays:
    """Everything that the published code saves in fine-tuning, by its names."""
    assert learner.bonus is not None
    return {
        **named_state(learner.model),
        **named_state(learner.bonus, "bonus."),
        **named_state(learner.actor_critic),
        REWARD_MAGNITUDE: to_array(learner.behaviour.reward_normaliser.magnitude),
    }


def to_array(tensor: Tensor) -> Array:
    """A copy without gradient history."""
    return tensor.detach().cpu().numpy().copy()


def to_arrays(tensors: Mapping[str, Tensor], prefix: str = "") -> Arrays:
    """Copies of several tensors, under ``prefix``."""
    return {prefix + key: to_array(value) for key, value in tensors.items()}
