"""Configurations and data as small as the parts allow, for tests that run whole updates."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from prelar_ray.config import RunConfig, load_config
from prelar_ray.types import Frames, SequenceBatch

ACTION = 2

_WIDTHS = (
    *("device=cpu", "precision=float32", "threads=1"),
    *(
        f"world_model.{part}.{width}"
        for part in ("encoder", "decoder", "inverse_dynamics")
        for width in ("depth=2", "layers=1", "stacks=2")
    ),
    *("world_model.rssm.deter=8", "world_model.rssm.hidden=8"),
    *("world_model.rssm.stoch=2", "world_model.rssm.classes=2", "world_model.latent_action=3"),
    *("world_model.inverse_dynamics_head.hidden=6", "world_model.action_encoder.hidden=6"),
    *("world_model.reward_head.layers=1", "world_model.reward_head.units=6"),
    *("behaviour.actor.layers=1", "behaviour.actor.units=6", "behaviour.critic.layers=1", "behaviour.critic.units=6"),
    *("behaviour.horizon=3", "pretrain.batch_size=3", "pretrain.segment_length=6"),
    *("finetune.batch_size=3", "finetune.segment_length=6", "finetune.initial_updates=0"),
    *("finetune.bonus.window=2", "finetune.bonus.projection=4", "finetune.bonus.queue=20"),
    "finetune.bonus.neighbours=3",
)

ROBUST = (
    *(f"world_model.{part}.norm=layer" for part in ("encoder", "decoder", "inverse_dynamics")),
    *("world_model.rssm.uniform_mix=0.01", "world_model.reward_distribution=two_hot"),
    *("behaviour.critic_distribution=two_hot", "behaviour.return_normalisation=percentiles"),
    *("behaviour.slow_critic_every=1", "behaviour.slow_critic_fraction=0.02"),
)
"""Everything that makes world model and critic robust to scales, which the published code has none of."""


def tiny_config(*overrides: str) -> RunConfig:
    """A run of a few thousand parameters; ``overrides`` as on the command line."""
    return load_config(None, None, [*_WIDTHS, *overrides])


def tiny_method(name: str, *overrides: str) -> RunConfig:
    """A run of a method."""
    return tiny_config(f"method={name}", *overrides)


def tiny_experience(config: RunConfig, seed: int) -> tuple[SequenceBatch] | tuple[SequenceBatch, Frames]:
    """What a fine-tuning learns from in one update; one that rehearses has clips beside :func:`tiny_batch`."""
    rows = config.finetune.clip_rows
    return (tiny_batch(seed), tiny_clips(seed, rows)) if rows else (tiny_batch(seed),)


def tiny_clips(seed: int, rows: int = 3, length: int = 6) -> Frames:
    """Frames of noise."""
    return np.random.default_rng(seed).integers(0, 256, (rows, length, 64, 64, 3), dtype=np.uint8)


def tiny_batch(seed: int, rows: int = 3, length: int = 6) -> SequenceBatch:
    """Experience of noise; the second row holds a reset in mid-sequence."""
    rng = np.random.default_rng(seed)
    is_first = np.zeros((rows, length), np.bool_)
    is_first[:, 0] = is_first[1:2, length // 2] = True
    action = rng.uniform(-1, 1, (rows, length, ACTION)).astype(np.float32)
    return SequenceBatch(
        tiny_clips(seed, rows, length),
        action * ~is_first[..., None],
        rng.normal(size=(rows, length)).astype(np.float32),
        is_first,
        np.zeros((rows, length), np.bool_),
    )


def inputs_of(batch: SequenceBatch, *clips: Frames) -> list[Tensor]:
    """What an update of fine-tuning computes with, of images and actions alone, and clips to rehearse."""
    arrays = batch.image, batch.action, batch.reward, batch.is_first, batch.is_terminal
    return [torch.from_numpy(np.array(x)) for x in (*arrays, *clips)]
