"""The weights of a fine-tuned model that acting needs: published by the learner and read from checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prelar_ray.action_space import ActionSpace
from prelar_ray.models.resnet import fold_norms

__all__ = ["acting_space", "acting_weights"]

_MODEL_PARTS = ("rssm.", "action_encoder.", "vector_encoder.")


def acting_weights(model: Mapping[str, Tensor], actor_critic: Mapping[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays that :class:`prelar_ray.acting.policy.Policy` loads, copied, by name.

    Args:
        model: state of a :class:`~prelar_ray.models.world_model.FinetuneWorldModel`. Acting normalises with running
            statistics, so the batch norms of the encoder are folded into the convolutions before them.
        actor_critic: state of an :class:`~prelar_ray.models.actor_critic.ActorCritic`.

    Raises:
        CheckpointError: a norm layer is incomplete.
    """
    encoder = {key: value for key, value in model.items() if key.startswith("encoder.")}
    weights = fold_norms(encoder)
    weights |= {key: value for key, value in model.items() if key.startswith(_MODEL_PARTS)}
    weights |= {key: value for key, value in actor_critic.items() if key.startswith("actor.")}
    # One copy to the host instead of one per tensor, each of which would wait for the device.
    flat = torch.cat([value.detach().flatten() for value in weights.values()]).cpu().numpy()
    ends = np.cumsum([value.numel() for value in weights.values()])[:-1]
    parts = zip(weights.items(), np.split(flat, ends), strict=True)
    return {key: part.reshape(value.shape) for (key, value), part in parts}


def acting_space(weights: Mapping[str, Any]) -> ActionSpace | None:
    """Return the actions that weights or the state of an ActorCritic are of; None where their actor is incomplete.

    A discrete actor holds the sizes of its factors; one of a checkpoint that knows no other kind is continuous.
    """
    if (sizes := weights.get("actor.sizes")) is not None:
        return ActionSpace.discrete(*(int(size) for size in sizes))
    bias = weights.get("actor.mean.bias")
    return None if bias is None else ActionSpace.continuous(len(bias))
