"""Uses of a checkpoint other than resuming its run: acting weights, and a pre-trained model for analysis."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from prelar_ray.checkpoint.store import Checkpoint, load_checkpoint
from prelar_ray.config import RunConfig
from prelar_ray.errors import CheckpointError, UsageError
from prelar_ray.learning.device import resolve_device
from prelar_ray.models.acting_weights import acting_weights
from prelar_ray.models.layers import load_module
from prelar_ray.models.world_model import PretrainWorldModel

__all__ = ["Pretrained", "load_pretrained", "policy_weights"]


def policy_weights(checkpoint: Checkpoint) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays that :class:`prelar_ray.acting.policy.Policy` loads.

    Raises:
        CheckpointError: it is a pre-training checkpoint, which has no policy; a norm layer is incomplete.
    """
    if checkpoint.phase != "finetune":
        raise CheckpointError(
            f"{checkpoint.path}: a {checkpoint.phase} checkpoint has no policy; "
            f"fine-tune it first (prelar-ray finetune --init {checkpoint.path})"
        )
    return acting_weights(checkpoint.state["model"], checkpoint.state["actor_critic"])


@dataclass(frozen=True)
class Pretrained:
    """A pre-trained world model for analysis."""

    path: Path  # of the checkpoint
    config: RunConfig
    update: int
    model: PretrainWorldModel  # with latent actions, in evaluation mode
    counters: dict[str, Any]  # of the checkpoint; they identify the videos that it was trained on


def load_pretrained(path: Path) -> Pretrained:
    """Load the world model of a pre-training run (its last checkpoint) or checkpoint, onto a GPU if available.

    Raises:
        UsageError: there is no checkpoint, or one of fine-tuning, or its method has no latent actions.
        CheckpointError: the checkpoint is damaged.
    """
    if not (path / "meta.json").is_file() and not any((path / "checkpoints").glob("[0-9]*")):
        raise UsageError(f"{path}: holds no checkpoint; name the folder of a pre-training run (pretrain --out)")
    checkpoint = load_checkpoint(path)
    config = checkpoint.config
    if checkpoint.phase != "pretrain":
        raise UsageError(
            f"{path}: a {checkpoint.phase} run infers no latent actions from frames; name the pre-training run"
        )
    source = config.world_model.latent_action_source
    if source != "inverse_dynamics":
        raise UsageError(f"{path}: action-free (latent_action_source={source}), it has no latent action to look at")
    model = PretrainWorldModel.of_run(config)
    load_module(model, checkpoint.state["model"], "model")
    model.to(resolve_device("auto")).eval()
    return Pretrained(checkpoint.path, config, checkpoint.update, model, checkpoint.counters)
