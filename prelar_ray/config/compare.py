"""Whether the networks of one configuration fit another: what a resume, an ``--init`` or an evaluation asks first.

Settings are compared, not tensors: a difference has a name to change, and equal shapes may still mean different things
(32 groups of 16 classes are as many numbers as 16 of 32).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prelar_ray.config.load import load_config, method_names
from prelar_ray.config.run import RunConfig

__all__ = ["INVERSE_DYNAMICS", "NETWORKS", "POLICY", "TAKEN_OVER", "differences", "same_pretraining"]

TAKEN_OVER = (
    *("world_model.encoder", "world_model.decoder"),
    *(f"world_model.rssm.{width}" for width in ("deter", "hidden", "stoch", "classes")),
    *("world_model.context.enabled", "world_model.context.heads", "world_model.latent_action"),
    *("world_model.latent_action_source", "world_model.latent_action_distribution"),
    *("world_model.inverse_dynamics_input", "world_model.inverse_dynamics_frames"),
)
"""Sections and settings behind the parts that fine-tuning takes over from pre-training."""

INVERSE_DYNAMICS = (
    *("world_model.inverse_dynamics", "world_model.inverse_dynamics_head"),
    "world_model.latent_action_classes",
)
"""Those behind the inverse dynamics encoder besides, where fine-tuning goes on with it."""

NETWORKS = {
    "pretrain": ("world_model", "loss.balance"),
    "finetune": (
        *("world_model", "behaviour.actor", "behaviour.critic", "behaviour.critic_distribution"),
        *("behaviour.return_normalisation", "loss.balance", "loss.aux_reward_weight"),
        *("finetune.bonus.weight", "finetune.bonus.input", "finetune.bonus.projection", "finetune.bonus.queue"),
        *("loss.tie_weight", "loss.action_decoder_weight", "finetune.rehearsal.share"),
    ),
}
"""Sections and settings behind all that a checkpoint of a phase holds."""

POLICY = ("world_model", "behaviour.actor")
"""Sections behind the networks that act."""

_PRETRAINING = (*TAKEN_OVER, "world_model.rssm.uniform_mix", "loss.action_kl_weight", "loss.consistency_weight")
_SWITCHES = {
    *("loss.aux_reward_weight", "finetune.bonus.weight"),
    *("loss.tie_weight", "loss.action_decoder_weight", "finetune.rehearsal.share"),
}  # at 0 a network is not there; else they are weights
_RATES = {"world_model.context.mask", "world_model.context.dropout"}  # no network has them in its shape


def differences(one: RunConfig, two: RunConfig, sections: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """Return both values of every setting below ``sections`` by which the networks of ``one`` and ``two`` differ."""
    values, others = dict(_flat(one.model_dump())), dict(_flat(two.model_dump()))
    asked = [path for path in values if any(f"{path}.".startswith(f"{section}.") for section in sections)]
    return {
        path: (values[path], others[path])
        for path in asked
        if path not in _RATES and _shaping(path, values[path]) != _shaping(path, others[path])
    }


def same_pretraining(one: str, two: str) -> bool:
    """Return whether two methods pre-train alike, so that each can fine-tune what the other pre-trained.

    Their files in ``methods/`` decide; a name that has none stands for itself alone.
    """
    if one == two or not {one, two} <= set(method_names()):
        return one == two
    before, after = (load_config(None, None, [f"method={name}"]) for name in (one, two))
    return not differences(before, after, _PRETRAINING)


def _shaping(path: str, value: Any) -> Any:
    return bool(value) if path in _SWITCHES else value


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
