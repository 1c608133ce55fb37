"""Whether the networks of one configuration fit another: what a resume, an ``--init`` or an evaluation asks first.

And whether both are of one experiment, which a resume asks too.

Settings are compared, not tensors: a difference has a name to change, and equal shapes may still mean different things
(32 groups of 16 classes are as many numbers as 16 of 32).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prelar_ray.config.load import load_config, method_names
from prelar_ray.config.run import RunConfig

__all__ = [
    "IDENTITY",
    "INVERSE_DYNAMICS",
    "NETWORKS",
    "POLICY",
    "REHEARSED",
    "TAKEN_OVER",
    "all_differences",
    "differences",
    "identifies",
    "same_pretraining",
]

IDENTITY = {"pretrain": ("seed", "pretrain.stride"), "finetune": ("seed", "env")}
"""Sections and settings that make a run of a phase the experiment that it is: beside them the method, and of
pre-training the videos, by content. The rest are numbers to tune, which may change on the way."""

TAKEN_OVER = (
    *("world_model.encoder", "world_model.decoder"),
    *(f"world_model.rssm.{width}" for width in ("deter", "hidden", "stoch", "classes")),
    *("world_model.context.enabled", "world_model.context.heads", "world_model.latent_action"),
    *("world_model.latent_action_source", "world_model.latent_action_distribution"),
    *("world_model.inverse_dynamics_input", "world_model.inverse_dynamics_frames"),
    "env.image_size",
)
"""Sections and settings behind the parts that fine-tuning takes over from pre-training."""

INVERSE_DYNAMICS = (
    *("world_model.inverse_dynamics", "world_model.inverse_dynamics_head"),
    *("world_model.inverse_dynamics_pooling", "world_model.latent_action_classes"),
)
"""Those behind the inverse dynamics encoder besides, where fine-tuning continues to train it."""

REHEARSED = ("pretrain.stride",)
"""Settings behind the clips that fine-tuning rehearses, which are those of pre-training."""

NETWORKS = {
    "pretrain": ("world_model", "loss.balance", "env.image_size"),
    "finetune": (
        *("world_model", "behaviour.actor", "behaviour.critic", "behaviour.critic_distribution"),
        *("behaviour.return_normalisation", "loss.balance", "loss.aux_reward_weight"),
        *("finetune.bonus.weight", "finetune.bonus.input", "finetune.bonus.projection", "finetune.bonus.queue"),
        *("loss.tie_weight", "loss.action_decoder_weight", "finetune.rehearsal.share"),
        *("env.image_size", "env.vector_size"),
    ),
}
"""Sections and settings behind all that a checkpoint of a phase holds."""

POLICY = ("world_model", "behaviour.actor", "env.image_size", "env.vector_size")
"""Sections behind the networks that act."""

_PRETRAINING = (
    *(*TAKEN_OVER, *INVERSE_DYNAMICS, "world_model.rssm.uniform_mix"),
    *("loss.action_kl_weight", "loss.consistency_weight"),
)
_SWITCHES = {
    *("loss.aux_reward_weight", "finetune.bonus.weight"),
    *("loss.tie_weight", "loss.action_decoder_weight", "finetune.rehearsal.share"),
}  # at 0 a network is not there; else they are weights
_RATES = {"world_model.context.mask", "world_model.context.dropout"}  # no network has them in its shape
_PATIENCE = {"env.timeout"}  # what is waited for, not what is measured


def differences(one: RunConfig, two: RunConfig, sections: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """Return both values of every setting below ``sections`` by which the networks of ``one`` and ``two`` differ.

    Or by which their experiments differ, for the sections of :data:`IDENTITY`.
    """
    return {
        path: (before, after)
        for path, (before, after) in all_differences(one, two).items()
        if _is_below(path, sections)
        and path not in _RATES | _PATIENCE
        and _shaping(path, before) != _shaping(path, after)
    }


def all_differences(one: RunConfig, two: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Return both values of every setting in which two configurations differ, JSON-able; None where one has none."""
    values, others = (dict(_flat(config.model_dump(mode="json"))) for config in (one, two))
    keys = dict.fromkeys([*values, *others])
    return {key: (values.get(key), others.get(key)) for key in keys if values.get(key) != others.get(key)}


def identifies(path: str, phase: str) -> bool:
    """Return whether a setting, or the ``videos``, is part of what makes a run of a phase the experiment that it is."""
    return path == "videos" or (_is_below(path, IDENTITY.get(phase, ())) and path not in _PATIENCE)


def same_pretraining(one: str, two: str) -> bool:
    """Return whether two methods pre-train alike, so that each can fine-tune what the other pre-trained.

    Their files in ``methods/`` decide; a name that has none stands for itself alone.
    """
    if one == two or not {one, two} <= set(method_names()):
        return one == two
    before, after = (load_config(None, None, [f"method={name}"]) for name in (one, two))
    return not differences(before, after, _PRETRAINING)


def _is_below(path: str, sections: Sequence[str]) -> bool:
    return any(f"{path}.".startswith(f"{section}.") for section in sections)


def _shaping(path: str, value: Any) -> Any:
    return bool(value) if path in _SWITCHES else value


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
