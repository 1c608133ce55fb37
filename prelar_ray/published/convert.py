"""Conversion of published checkpoints to states of this package and back, bit for bit."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prelar_ray.checkpoint.store import Checkpoint
from prelar_ray.config import RunConfig, load_config, named_value, native_methods
from prelar_ray.errors import OfficialCheckpointError
from prelar_ray.learning.intrinsic_bonus import IntrinsicBonus
from prelar_ray.learning.running_magnitude import RunningMagnitude
from prelar_ray.models.actor_critic import ActorCritic
from prelar_ray.models.observation import size_of
from prelar_ray.models.world_model import FinetuneWorldModel, PretrainWorldModel
from prelar_ray.published.files import Published, read_published
from prelar_ray.published.names import LAYOUTS, official_key, own_key
from prelar_ray.published.widths import InferredSettings, Setting, infer_settings
from prelar_ray.types import IMAGE_SIZE

__all__ = ["Export", "Imported", "export_state", "import_published"]

ORIGIN = "published"
"""Counter of an imported checkpoint with its origin."""

_STRUCTURE = (
    "world_model.latent_action_source",
    "world_model.latent_action_distribution",
    "world_model.context.enabled",
    "world_model.dynamics",
    "world_model.action_input",
)
"""Settings in which the networks of methods differ."""

_UNPUBLISHED = {
    **{f"world_model.{part}.norm": "layer" for part in ("encoder", "decoder", "inverse_dynamics")},
    **{"world_model.reward_distribution": "two_hot", "behaviour.critic_distribution": "two_hot"},
}
"""Settings under which tensors have published names and other meanings, or shapes that no published network has."""

_BEHAVIOUR = ("actor", "critic", "slow_critic")
_FILLED = "bonus.filled"
_RESIDUAL_BIAS = re.compile(r".*\.stacks\.\d+\.\d+\.(conv1|conv2|skip\.0)\.bias")
_SHOWN = 5


@dataclass(frozen=True)
class Imported:
    """A published checkpoint in this package's form."""

    layout: str
    config: RunConfig
    inferred: InferredSettings  # settings that the tensors determine
    method_named: bool  # by the user, not inferred
    tensors: dict[str, Tensor]  # by name here, part first
    filled: tuple[str, ...]  # names here that the published layout does not have; they are zero
    published: Published

    @property
    def phase(self) -> str:
        """``pretrain`` or ``finetune``."""
        return "pretrain" if self.inferred.action is None else "finetune"

    @property
    def state(self) -> dict[str, Any]:
        """State for :meth:`CheckpointStore.save`, without optimisers and generators, which are not published."""
        state: dict[str, Any] = {"model": {}, "updates": 0}
        if self.phase == "finetune":
            state |= {"actor_critic": {}, "bonus": {}, "behaviour": {"reward_normaliser": {}}}
        for key, value in self.tensors.items():
            part, _, rest = key.partition(".")
            if part in _BEHAVIOUR:
                state["actor_critic"][key] = value
            elif part == "bonus":
                state["bonus"][rest] = value
            elif part == "reward_normaliser":
                state["behaviour"][part][rest] = value
            else:
                state["model"][key] = value
        return state

    @property
    def counters(self) -> dict[str, Any]:
        """Counters with the names that an export restores, and an empty set of seen videos."""
        origin = {"layout": self.layout, "aliases": [*self.published.aliases], "files": [*self.published.files]}
        return {ORIGIN: origin, "shards": {}}


@dataclass(frozen=True)
class Export:
    """A checkpoint under published names."""

    layout: str
    tensors: dict[str, Tensor]
    aliases: tuple[str, ...]  # published prefixes under which tensors are written a second time
    parts: bool  # whether each part gets its own file as well
    left_out: tuple[str, ...]  # names here that the published layout does not have


def import_published(path: Path, preset: str | None, file: Path | None, overrides: Sequence[str]) -> Imported:
    """Read a published checkpoint; its tensors determine names, phase, method and widths, the settings all else.

    Args:
        path: see :func:`prelar_ray.published.files.read_published`.
        preset, file, overrides: as :func:`prelar_ray.config.load_config` takes them.

    Raises:
        OfficialCheckpointError: it is not such a checkpoint, or a tensor is missing, unknown or of another shape or
            type; the named method does not fit.
        ConfigError: the settings are wrong, or contradict a shape.
    """
    base = load_config(preset, file, overrides)
    if base.env.image_size != IMAGE_SIZE:
        raise OfficialCheckpointError(
            f"{path}: env.image_size={base.env.image_size}: published checkpoints are of {IMAGE_SIZE}x{IMAGE_SIZE} "
            "images; leave that setting out"
        )
    published = read_published(path)
    layout = _recognise(published.tensors)
    tensors = _rename(path, published.tensors, layout)
    name = partial(_published_name, layout=layout, keys=tensors.keys())
    inferred = infer_settings(path, tensors, base, name, "wm.af_rssm." in published.aliases)
    settings = inferred.settings
    named = named_value("method", file, overrides)
    method = _fitting_method(path, settings, named)
    measured = {key: setting.value for key, setting in settings.items()}
    config = load_config(preset, file, [*overrides, f"method={method}"], measured=measured)
    _refuse_contradictions(path, config, settings)
    filled = _complete(path, tensors, _expected(config, inferred.action), name)
    return Imported(layout, config, inferred, named is not None, tensors, filled, published)


def export_state(checkpoint: Checkpoint, layout: str | None = None) -> Export:
    """Return a checkpoint's tensors under published names; an imported checkpoint gets its original names.

    Args:
        layout: one of :data:`prelar_ray.published.names.LAYOUTS`; by default that of the import, or ``prelar``.

    Raises:
        OfficialCheckpointError: a tensor has no place in the layout; the published code lacks what a setting chooses.
    """
    _refuse_unpublished(checkpoint)
    origin = checkpoint.counters.get(ORIGIN, {})
    layout = layout or origin.get("layout", LAYOUTS[0])
    own = _flat(checkpoint.state)
    left_out = tuple(key for key in own if _has_no_place(key))
    tensors: dict[str, Tensor] = {}
    for key, value in own.items():
        where = f"{checkpoint.path}: {key} of shape {tuple(value.shape)}"
        if key in left_out:
            if key != _FILLED and value.any():
                raise OfficialCheckpointError(
                    f"{where} is not zero, and published residual layers without norms have no such bias"
                )
            continue
        try:
            tensors[_published_name(key, layout, own.keys())] = value
        except KeyError as error:
            raise OfficialCheckpointError(f"{where} has no place in the layout {layout}") from error
    aliases = origin.get("aliases")
    if aliases is None:
        aliases = _aliases(checkpoint)
    return Export(layout, tensors, tuple(aliases), checkpoint.phase == "pretrain", left_out)


def _refuse_unpublished(checkpoint: Checkpoint) -> None:
    chosen = [f"{key}={value}" for key, value in _UNPUBLISHED.items() if _at(checkpoint.config, key) == value]
    if checkpoint.config.world_model.rssm.uniform_mix:
        chosen.append(f"world_model.rssm.uniform_mix={checkpoint.config.world_model.rssm.uniform_mix:g}")
    if checkpoint.config.env.image_size != IMAGE_SIZE:
        chosen.append(f"env.image_size={checkpoint.config.env.image_size}")
    if chosen:
        raise OfficialCheckpointError(
            f"{checkpoint.path}: the published code has no {chosen[0]}; only checkpoints without it can be exported"
        )


# Names


def _recognise(tensors: Mapping[str, Tensor]) -> str:
    """Return the layout with most of the keys."""
    return max(LAYOUTS, key=lambda layout: sum(own_key(key, layout) is not None for key in tensors))


def _rename(path: Path, tensors: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    names = {key: own_key(key, layout) for key in tensors}
    unknown = [f"{key} of shape {tuple(tensors[key].shape)}" for key, own in names.items() if own is None]
    if unknown:
        raise OfficialCheckpointError(f"{path}: {_listed('holds', unknown)}; no network here has it (layout {layout})")
    stacked = any(own and own.startswith("rssm.below.") for own in names.values())
    renamed: dict[str, Tensor] = {}
    for key, own in names.items():
        assert own is not None
        if stacked and own.startswith("rssm.") and not own.startswith("rssm.below."):
            own = "rssm.above." + own.removeprefix("rssm.")
        if own in renamed:
            shape = tuple(tensors[key].shape)
            raise OfficialCheckpointError(f"{path}: {key} of shape {shape} is there under another name too")
        renamed[own] = tensors[key]
    return renamed


def _published_name(key: str, layout: str, keys: Any) -> str:
    """Return the published name of a tensor; ``keys``, all names, tell whether its residual layer has norms."""
    layer, convolution, _ = key.partition(".conv2.")
    return official_key(key, layout, normed=not convolution or f"{layer}.norm1.weight" in keys)


def _has_no_place(key: str) -> bool:
    """Whether no layout has the tensor: the fill of the bonus queue, biases of residual layers without norms."""
    return key == _FILLED or _RESIDUAL_BIAS.fullmatch(key) is not None


# Method and settings


def _fitting_method(path: Path, settings: Mapping[str, Setting], named: str | None) -> str:
    """Return the named method, or the first with these networks.

    Raises:
        OfficialCheckpointError: the named method has other networks, or no method has these.
    """
    known = {name: load_config(None, None, [f"method={name}"]) for name in native_methods()}
    wrong = {
        name: [key for key in _STRUCTURE if key in settings and settings[key].value != _at(config, key)]
        for name, config in known.items()
    }
    fitting = [name for name, keys in wrong.items() if not keys]
    if named is not None and wrong[named]:
        key = wrong[named][0]
        fits = f"; it fits {' and '.join(fitting)}" if fitting else ""
        raise OfficialCheckpointError(
            f"{path}: method={named} has {key}={_at(known[named], key)}, the checkpoint {settings[key].value} "
            f"({settings[key].source}){fits}"
        )
    if named is not None:
        return named
    if not fitting:
        told = [f"{key}={settings[key].value} ({settings[key].source})" for key in _STRUCTURE if key in settings]
        raise OfficialCheckpointError(f"{path}: fits no method of this package: {', '.join(told)}")
    bonus = settings.get("finetune.bonus.weight")
    if bonus is None:
        return fitting[0]
    return min(fitting, key=lambda name: (known[name].finetune.bonus.weight > 0) != (bonus.value > 0))


def _refuse_contradictions(path: Path, config: RunConfig, settings: Mapping[str, Setting]) -> None:
    for key, setting in settings.items():
        if _at(config, key) != setting.value:
            raise OfficialCheckpointError(
                f"{path}: {key}={_at(config, key)} contradicts {setting.source}, which makes it {setting.value}; "
                "leave that setting out"
            )


def _at(config: RunConfig, path: str) -> Any:
    value: Any = config
    for key in path.split("."):
        value = getattr(value, key)
    return value


# Tensors


def _expected(config: RunConfig, action: int | None) -> dict[str, Tensor]:
    """Return the tensors of this configuration's networks by name, without values."""
    with torch.device("meta"):
        if action is None:
            return dict(PretrainWorldModel.of_run(config).state_dict())
        model = FinetuneWorldModel.of_run(config, action)
        expected = model.state_dict() | ActorCritic(model.rssm.feature, action, config.behaviour).state_dict()
        normaliser = RunningMagnitude(config.behaviour.reward_momentum).state_dict()
        expected |= {f"reward_normaliser.{key}": value for key, value in normaliser.items()}
        if config.finetune.bonus.weight > 0:
            size = size_of(model.encoder) if config.finetune.bonus.input == "embedding" else model.rssm.feature
            bonus = IntrinsicBonus(size, config.finetune.bonus).state_dict()
            expected |= {f"bonus.{key}": value for key, value in bonus.items()}
    return expected


def _complete(
    path: Path, tensors: dict[str, Tensor], expected: Mapping[str, Tensor], name: Callable[[str], str]
) -> tuple[str, ...]:
    """Check that the tensors are the expected ones, and add zeros for those that the published layout lacks.

    Raises:
        OfficialCheckpointError: names keys and shapes.
    """
    unknown = [f"{name(key)} of shape {tuple(value.shape)}" for key, value in tensors.items() if key not in expected]
    filled = tuple(key for key in expected if key not in tensors and _has_no_place(key))
    missing = [
        f"{name(key)}, expected of shape {tuple(value.shape)}"
        for key, value in expected.items()
        if key not in tensors and key not in filled
    ]
    wrong = [
        f"{name(key)} of shape {tuple(tensors[key].shape)} {str(tensors[key].dtype).removeprefix('torch.')}, "
        f"expected {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
        for key, value in expected.items()
        if key in tensors and (tensors[key].shape, tensors[key].dtype) != (value.shape, value.dtype)
    ]
    mistakes = [
        _listed(verb, keys) for verb, keys in (("has", wrong), ("lacks", missing), ("also holds", unknown)) if keys
    ]
    if mistakes:
        raise OfficialCheckpointError(f"{path}: {'; '.join(mistakes)}")
    for key in filled:
        tensors[key] = torch.zeros(expected[key].shape, dtype=expected[key].dtype)
    return filled


def _listed(verb: str, items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{verb} {'; '.join(items[:_SHOWN])}{more}"


def _flat(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the published tensors of a checkpoint, by name with the part first."""
    tensors: dict[str, Tensor] = {**state["model"], **state.get("actor_critic", {})}
    tensors |= {f"bonus.{key}": value for key, value in state.get("bonus", {}).items()}
    normaliser = state.get("behaviour", {}).get("reward_normaliser", {})
    return tensors | {f"reward_normaliser.{key}": value for key, value in normaliser.items()}


def _aliases(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the prefixes under which the published agent of this method holds tensors a second time."""
    if checkpoint.phase == "pretrain":
        return ()
    model = checkpoint.config.world_model
    one_rssm = model.dynamics == "single" and model.latent_action_source != "none"
    return ("_expl_behavior.", "wm.af_rssm.") if one_rssm else ("_expl_behavior.",)
