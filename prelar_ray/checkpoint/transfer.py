"""What carries over from a checkpoint to something else than its own resume."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from prelar_ray.checkpoint.store import Checkpoint
from prelar_ray.errors import CheckpointError

__all__ = ["policy_weights"]

_MODEL_PARTS = ("encoder.", "rssm.", "action_encoder.")


def policy_weights(checkpoint: Checkpoint) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays that :class:`prelar_ray.acting.policy.Policy` loads.

    Raises:
        CheckpointError: a pre-training checkpoint, which has no policy.
    """
    if checkpoint.phase != "finetune":
        raise CheckpointError(
            f"{checkpoint.path}: a {checkpoint.phase} checkpoint has no policy; "
            f"fine-tune it first (prelar-ray finetune --init {checkpoint.path})"
        )
    model, actor_critic = checkpoint.state["model"], checkpoint.state["actor_critic"]
    weights = {key: value for key, value in model.items() if key.startswith(_MODEL_PARTS)}
    weights |= {key: value for key, value in actor_critic.items() if key.startswith("actor.")}
    return {
        key: value.float().numpy() if value.is_floating_point() else value.numpy() for key, value in weights.items()
    }
