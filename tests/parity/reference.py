"""The published code's numbers, and this project's modules with its parameters.

A set is a folder as ``tests/data/parity``: ``README.md`` there describes every file. Nothing about its widths is known
here; :func:`config_from` derives them from its ``config.json``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from prelar_ray.checkpoint.official import official_key
from prelar_ray.config.schema import (
    BehaviourConfig,
    BonusConfig,
    ConvConfig,
    FinetuneConfig,
    HeadConfig,
    LossConfig,
    MLPConfig,
    OptimizerConfig,
    PretrainConfig,
    RSSMConfig,
    RunConfig,
    WorldModelConfig,
)
from prelar_ray.models.noise import Deterministic
from prelar_ray.types import SequenceBatch

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

FOLDER = Path(__file__).parents[1] / "data" / "parity"

OWN_BUFFERS = {"filled"}
"""Buffers that the published code keeps outside its checkpoint."""


def options(folder: Path) -> dict[str, Any]:
    """The set's ``config.json``."""
    content: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    return content


def arrays(folder: Path, name: str) -> Arrays:
    """All arrays of one ``.npz`` file by name."""
    with np.load(folder / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def parameters(folder: Path, phase: str) -> dict[str, Tensor]:
    """Parameters and buffers before the first recorded update; ``phase`` is ``pretrained`` or ``finetuned``."""
    state: dict[str, Tensor] = torch.load(folder / phase / "variables.pt", weights_only=True)
    return state


def config_from(folder: Path) -> RunConfig:
    """The run that the set records."""
    sizes = options(folder)
    pre, tune = sizes["pretrain"], sizes["finetune"]
    shared = [key for key in pre if key.startswith(("rssm.", "encoder.", "decoder.", "kl."))]
    assert [pre[key] for key in shared] == [tune[key] for key in shared], "both phases share one world model"

    length, batch = sizes["length"], sizes["batch"]
    return RunConfig(
        device="cpu",
        precision="float32",
        threads=1,
        world_model=WorldModelConfig(
            encoder=_conv(pre, "encoder"),
            decoder=_conv(pre, "decoder"),
            rssm=RSSMConfig(
                deter=pre["rssm.deter"],
                hidden=pre["rssm.hidden"],
                stoch=pre["rssm.stoch"],
                classes=pre["rssm.discrete"],
            ),
            latent_action=pre["vanet.stoch"],
            inverse_dynamics=_conv(pre, "vanet"),
            inverse_dynamics_head=HeadConfig(hidden=pre["vanet.hidden_dim"]),
            action_encoder=HeadConfig(hidden=tune["action_encoder.hidden_dim"]),
            reward_head=_mlp(tune, "reward_head"),
        ),
        loss=LossConfig(
            image_weight=pre["loss_scales.image"],
            reward_weight=tune["loss_scales.reward"],
            dynamics_kl_weight=pre["loss_scales.kl"],
            kl_balance=pre["kl.balance"],
            free_nats=pre["kl.free"],
            action_prior_std=2 / (1 + math.exp(-0.5)),  # a standard deviation of 1 passed through 2 * sigmoid(x / 2)
            consistency_gradient="published",
        ),
        behaviour=BehaviourConfig(
            horizon=tune["imag_horizon"],
            discount=tune["discount"],
            return_lambda=tune["discount_lambda"],
            reward_momentum=tune["reward_norm.momentum"],
            entropy_weight=tune["actor_ent"],
            critic_target="published",
            slow_critic_every=tune["slow_target_update"],
            actor=_mlp(tune, "actor"),
            actor_min_std=tune["actor.min_std"],
            critic=_mlp(tune, "critic"),
            actor_optimizer=_optimizer(tune, "actor_opt"),
            critic_optimizer=_optimizer(tune, "critic_opt"),
        ),
        pretrain=PretrainConfig(batch_size=batch, segment_length=length, optimizer=_optimizer(pre, "model_opt")),
        finetune=FinetuneConfig(
            batch_size=batch,
            segment_length=length,
            initial_updates=0,  # enc_lr_type "full"
            dynamics_optimizer=_optimizer(tune, "enc_model_opt"),
            optimizer=_optimizer(tune, "model_opt"),
            bonus=BonusConfig(
                weight=tune["beta"],
                window=tune["intr_seq_length"],
                projection=tune["queue_dim"],
                queue=tune["queue_size"],
                neighbours=tune["k"],
                momentum=tune["intr_reward_norm.momentum"],
            ),
        ),
    )


def _conv(of: Mapping[str, Any], name: str) -> ConvConfig:
    return ConvConfig(
        depth=of[f"{name}.cnn_depth"],
        stacks=of[f"{name}.res_depth"],
        layers=of[f"{name}.res_layers"],
        norm=of[f"{name}.res_norm"],
    )


def _mlp(of: Mapping[str, Any], name: str) -> MLPConfig:
    return MLPConfig(layers=of[f"{name}.layers"], units=of[f"{name}.units"])


def _optimizer(of: Mapping[str, Any], name: str) -> OptimizerConfig:
    return OptimizerConfig(
        learning_rate=of[f"{name}.lr"],
        eps=of[f"{name}.eps"],
        weight_decay=of[f"{name}.wd"],
        clip_norm=of[f"{name}.clip"],
    )


def deterministic(folder: Path, dtype: torch.dtype) -> Deterministic:
    """The set's deterministic mode: samples are modes, and the batch permutation is the recorded one."""
    noise = Deterministic(torch.tensor(options(folder)["fixed_batch_permutation"]))
    noise.dtype = dtype
    return noise


def batch_from(folder: Path) -> SequenceBatch:
    """The one batch that every recorded update sees, frames channels-last."""
    inputs = {key.removeprefix("inputs/"): value for key, value in arrays(folder, "inputs").items()}
    return SequenceBatch(
        np.ascontiguousarray(np.moveaxis(inputs["image"], 2, -1)),
        inputs["action"],
        inputs["reward"],
        inputs["is_first"].astype(np.bool_),
        inputs["is_terminal"].astype(np.bool_),
    )


def load_official(module: nn.Module, prefix: str, state: Mapping[str, Tensor]) -> None:
    """Load published parameters and buffers into ``module``, strictly.

    Args:
        prefix: what :func:`official_key` expects before the module's own keys, for example ``"bonus."``.
    """
    own = module.state_dict()
    module.load_state_dict(
        {key: own[key] if key in OWN_BUFFERS else state[official_key(prefix + key)] for key in own}, strict=True
    )


def named_state(module: nn.Module, prefix: str = "") -> Arrays:
    """Copies of parameters and buffers by published name."""
    return {
        official_key(prefix + key): to_array(value)
        for key, value in module.state_dict().items()
        if key not in OWN_BUFFERS
    }


def thin(array: Array) -> Array:
    """How the set stores large arrays: every (size // 128)th element of the flattened array."""
    return array if array.size <= 256 else array.reshape(-1)[:: array.size // 128]


def to_array(tensor: Tensor) -> Array:
    """A copy without gradient history."""
    return tensor.detach().numpy().copy()


def differences(ours: Mapping[str, Array], expected: Mapping[str, Array], tolerance: float) -> list[str]:
    """One line for each of our arrays that is not the expected one.

    Args:
        tolerance: largest difference allowed, relative to the largest absolute value of the expected array.
    """
    lines = []
    for key, own in ours.items():
        published = expected[key]
        if own.shape != published.shape:
            lines.append(f"{key}: shape {own.shape}, published {published.shape}")
            continue
        scale = np.abs(published).max(initial=0)
        difference = np.abs(own.astype(np.float64) - published).max(initial=0)
        if not difference <= tolerance * scale:
            lines.append(f"{key}: differs by {difference:.3g}, largest value {scale:.3g}")
    return lines
