"""Settings that the tensors of a published checkpoint determine: its parts and their widths."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from prelar_ray.config import RunConfig
from prelar_ray.errors import OfficialCheckpointError
from prelar_ray.types import IMAGE_SIZE

__all__ = ["InferredSettings", "Setting", "infer_settings"]

MOST_STACKS = 4


@dataclass(frozen=True)
class Setting:
    """A value of the configuration, and the tensor that determines it."""

    value: Any
    source: str  # a published key with its shape, or the keys that are absent


@dataclass(frozen=True)
class InferredSettings:
    """Settings that the shapes of a checkpoint determine."""

    settings: dict[str, Setting]  # by dotted path
    action: int | None  # size A of real actions; None for a pre-trained model, which has none


class _Reading(NamedTuple):
    """A number in a shape: ``(shape[axis] - offset) / divisor``."""

    key: str
    axis: int
    divisor: int = 1
    offset: int = 0


def infer_settings(
    path: Path, tensors: Mapping[str, Tensor], base: RunConfig, published: Callable[[str], str], one_rssm: bool
) -> InferredSettings:
    """Infer the parts of a checkpoint and their widths from names and shapes.

    Every width is the most frequent answer of several shapes, so that a single wrong shape is later reported by name.

    Args:
        path: the checkpoint, for messages.
        tensors: tensors by name here.
        base: settings that shapes do not determine: classes, weights of losses.
        published: returns the published name of a tensor.
        one_rssm: whether the two names for an RSSM in the checkpoint mean the same one.

    Raises:
        OfficialCheckpointError: a required tensor is missing or has an impossible shape; names it.
    """
    inference = _Inference(path, tensors, base, published, one_rssm)
    return InferredSettings(inference.settings, inference.action)


class _Inference:
    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, Tensor],
        base: RunConfig,
        published: Callable[[str], str],
        one_rssm: bool,
    ) -> None:
        self.path, self.tensors, self.base, self.published = path, tensors, base, published
        self.settings: dict[str, Setting] = {}
        self.action: int | None = None
        self.lower = "rssm.below" if any(key.startswith("rssm.below.") for key in tensors) else "rssm"
        self.upper = "rssm.above" if self.lower == "rssm.below" else "rssm"
        self._context()
        channels, stacks = self._convolutions("encoder", "encoder.trunk")
        self._decoder()
        self._rssm()
        embed = _Reading(f"{self.lower}.posterior.weight", 1, offset=self._value("rssm.deter"))
        self._check_image_size(embed, channels, stacks)
        if self._first("actor."):
            self._finetuned(one_rssm, channels * self._side(stacks) ** 2)
        else:
            self._pretrained()

    # Parts of both phases

    def _context(self) -> None:
        found = self._first("context_encoder.", "decoder.attentions.")
        source = self._shown(found) if found else "no cross attention"
        self._set("world_model.context.enabled", found is not None, source)

    def _convolutions(self, part: str, trunk: str) -> tuple[int, int]:
        """Infer an encoder; return the channels of its last stack, and the number of stacks."""
        depth = self._vote(
            f"world_model.{part}.depth",
            _Reading(f"{trunk}.conv_in.weight", 0),
            _Reading(f"{trunk}.conv_in.bias", 0),
            _Reading(f"{trunk}.stacks.0.0.conv1.weight", 1),
            _Reading(f"{trunk}.stacks.0.0.conv1.weight", 0),
        )
        stacks = self._residual(part, trunk)
        return depth * 2 ** (stacks - 1), stacks

    def _decoder(self) -> None:
        stacks = self._residual("decoder", "decoder")
        side = self._side(stacks)
        channels, source = self._most_frequent(
            _Reading("decoder.stacks.0.0.conv1.weight", 1),
            _Reading("decoder.stacks.0.1.conv1.weight", 1),
            _Reading("decoder.linear_in.bias", 0, side**2),
        )
        self._set("world_model.decoder.depth", max(1, channels // 2 ** (stacks - 1)), source)
        self._check_image_size(_Reading("decoder.linear_in.weight", 0), channels, stacks)

    def _residual(self, part: str, trunk: str) -> int:
        """Infer stacks, layers and norm of residual convolutions; return the number of stacks."""
        pattern = re.compile(rf"{re.escape(trunk)}\.stacks\.(\d+)\.(\d+)\..+")
        numbers = [(int(m[1]), int(m[2]), key) for key in self.tensors if (m := pattern.fullmatch(key))]
        if not numbers:
            raise self._lacks(f"{trunk}.stacks.0.0.conv1.weight")
        stack, _, key = max(numbers)
        if stack + 1 > MOST_STACKS:
            raise OfficialCheckpointError(
                f"{self.path}: {self._shown(key)} belongs to more residual stacks than the {MOST_STACKS} that images "
                f"of {IMAGE_SIZE}x{IMAGE_SIZE} allow"
            )
        self._set(f"world_model.{part}.stacks", stack + 1, self._shown(key))
        _, layer, key = max(numbers, key=lambda number: number[1])
        self._set(f"world_model.{part}.layers", layer + 1, self._shown(key))
        norm = next((key for *_, key in numbers if ".norm1." in key), None)
        source = self._shown(norm) if norm else "no norms in its residual layers"
        self._set(f"world_model.{part}.norm", "batch" if norm else "none", source)
        return stack + 1

    def _rssm(self) -> None:
        lower = self.lower
        self._vote(
            "world_model.rssm.deter",
            _Reading(f"{lower}.cell.norm.weight", 0, 3),
            _Reading(f"{lower}.cell.norm.bias", 0, 3),
            _Reading(f"{lower}.cell.linear.weight", 0, 3),
            _Reading(f"{lower}.prior.0.weight", 1),
        )
        self._vote(
            "world_model.rssm.hidden",
            _Reading(f"{lower}.input.weight", 0),
            _Reading(f"{lower}.input.bias", 0),
            _Reading(f"{lower}.posterior.weight", 0),
            _Reading(f"{lower}.prior.0.weight", 0),
        )
        self.size, source = self._most_frequent(
            _Reading(f"{lower}.posterior_logits.weight", 0),
            _Reading(f"{lower}.posterior_logits.bias", 0),
            _Reading(f"{lower}.prior.2.weight", 0),
        )
        classes = self.base.world_model.rssm.classes
        if self.size % classes:
            likely = math.isqrt(self.size) if math.isqrt(self.size) ** 2 == self.size else 2
            raise OfficialCheckpointError(
                f"{self.path}: {source}: {self.size} logits are not groups of world_model.rssm.classes={classes}, and "
                f"shapes do not tell the size of a group; say it, for example world_model.rssm.classes={likely}"
            )
        self._set("world_model.rssm.stoch", self.size // classes, f"{source}, in groups of {classes} classes")

    # Pre-training

    def _pretrained(self) -> None:
        key = "world_model.latent_action"
        width, source = self._most_frequent(_Reading("rssm.input.weight", 1))
        found = self._first("inverse_dynamics.")
        if found is None:
            self._set("world_model.latent_action_source", "zeros", f"no {self._family('inverse_dynamics.')}")
            self._set(key, self._inputs_left(width, source, 1), source)
            return
        self._set("world_model.latent_action_source", "inverse_dynamics", self._shown(found))
        channels, stacks = self._convolutions("inverse_dynamics", "inverse_dynamics.trunk")
        self._check_image_size(_Reading("inverse_dynamics.hidden.weight", 1), channels, stacks)
        self._vote(
            "world_model.inverse_dynamics_head.hidden",
            _Reading("inverse_dynamics.hidden.weight", 0),
            _Reading("inverse_dynamics.hidden.bias", 0),
            _Reading("inverse_dynamics.out.weight", 1),
        )
        frames, shown = self._most_frequent(_Reading("inverse_dynamics.trunk.conv_in.weight", 1, 3))
        self._set("world_model.inverse_dynamics_input", "difference" if frames == 1 else "pair", shown)
        if frames > 2:
            self._set("world_model.inverse_dynamics_frames", frames, shown)
        numbers, shown = self._most_frequent(
            _Reading("inverse_dynamics.out.weight", 0), _Reading("inverse_dynamics.out.bias", 0)
        )
        if numbers == width - self.size:
            self._set(key, numbers, source)
            if self.base.world_model.latent_action_distribution != "categorical":  # a categorical one has the same size
                self._set("world_model.latent_action_distribution", "deterministic", shown)
        else:
            self._set(key, numbers // 2, shown)
            self._set("world_model.latent_action_distribution", "gaussian", shown)

    # Fine-tuning

    def _finetuned(self, one_rssm: bool, embed: int) -> None:
        below = self._first("rssm.below.")
        source = self._shown(below) if below else "one RSSM"
        self._set("world_model.dynamics", "stacked" if below else "single", source)
        self._action(one_rssm)
        self._mlp("world_model.reward_head", "reward")
        self._mlp("behaviour.actor", "actor")
        self._mlp("behaviour.critic", "critic")
        self._weight("loss.aux_reward_weight", "aux_reward.", self.base.loss.aux_reward_weight)
        if self._weight("finetune.bonus.weight", "bonus.", self.base.finetune.bonus.weight):
            projection = _Reading("bonus.projection", 1)
            self._vote("finetune.bonus.projection", projection, _Reading("bonus.queue", 1))
            self._vote("finetune.bonus.queue", _Reading("bonus.queue", 0))
            rows, source = self._most_frequent(_Reading("bonus.projection", 0))
            inputs = {"embedding": embed, "feature": self.size + self._value("rssm.deter")}
            if [rows == number for number in inputs.values()].count(True) == 1:
                name = next(name for name, number in inputs.items() if number == rows)
                self._set("finetune.bonus.input", name, source)

    def _action(self, one_rssm: bool) -> None:
        """Infer the action input of the RSSM: encoded, padded with zeros, or raw."""
        width, source = self._most_frequent(_Reading(f"{self.upper}.input.weight", 1))
        self.action, shown = self._most_frequent(
            _Reading("actor.mean.weight", 0), _Reading("actor.mean.bias", 0), _Reading("actor.std.weight", 0)
        )
        found = self._first("action_encoder.")
        if found is not None:
            self._set("world_model.action_input", "encoder", self._shown(found))
            self._vote(
                "world_model.action_encoder.hidden",
                _Reading("action_encoder.hidden.weight", 0),
                _Reading("action_encoder.hidden.bias", 0),
                _Reading("action_encoder.out.weight", 1),
            )
            self._vote(
                "world_model.latent_action",
                _Reading("action_encoder.out.weight", 0),
                _Reading("action_encoder.out.bias", 0),
                _Reading(f"{self.upper}.input.weight", 1, offset=self.size),
            )
        elif self.lower == "rssm" and not one_rssm:
            if width - self.size != self.action:
                raise OfficialCheckpointError(
                    f"{self.path}: {source} takes {width} numbers, {self.size} of them the stochastic state; that "
                    f"leaves {width - self.size} for actions, of which {shown} has {self.action}"
                )
            self._set("world_model.action_input", "raw", f"{source} and {shown}")
        else:
            self._set("world_model.action_input", "padded", source)
            self._set("world_model.latent_action", self._inputs_left(width, source, self.action), source)

    def _inputs_left(self, width: int, source: str, least: int) -> int:
        """Return the inputs of the RSSM besides its stochastic state."""
        if width - self.size < least:
            raise OfficialCheckpointError(
                f"{self.path}: {source} takes {width} numbers, {self.size} of them the stochastic state; that leaves "
                f"fewer than the {least} of an action"
            )
        return width - self.size

    def _mlp(self, section: str, name: str) -> None:
        pattern = re.compile(rf"{name}\.hidden\.(\d+)\..+")
        numbers = [(int(match[1]) // 2, key) for key in self.tensors if (match := pattern.fullmatch(key))]
        if not numbers:
            raise self._lacks(f"{name}.hidden.0.weight")
        last, key = max(numbers)
        self._set(f"{section}.layers", last + 1, self._shown(key))
        self._vote(
            f"{section}.units",
            _Reading(f"{name}.hidden.0.weight", 0),
            _Reading(f"{name}.hidden.0.bias", 0),
            _Reading(f"{name}.{'mean' if name == 'actor' else 'out'}.weight", 1),
        )

    def _weight(self, path: str, part: str, base: float) -> bool:
        """Set the weight of a loss or bonus: its own or the published 1 if present, else 0; return whether present."""
        found = self._first(part)
        weight = (base or 1.0) if found else 0.0
        self._set(path, weight, self._shown(found) if found else f"no {self._family(part)}")
        return found is not None

    # Reading

    def _set(self, path: str, value: Any, source: str) -> None:
        self.settings[path] = Setting(value, source)

    def _value(self, path: str) -> int:
        value: int = self.settings[f"world_model.{path}"].value
        return value

    def _vote(self, path: str, *readings: _Reading) -> int:
        value, source = self._most_frequent(*readings)
        self._set(path, value, source)
        return value

    def _most_frequent(self, *readings: _Reading) -> tuple[int, str]:
        """Return the most frequent number (the first of equally frequent ones), and a tensor that shows it."""
        votes: dict[_Reading, int] = {}
        for reading in readings:
            tensor = self.tensors.get(reading.key)
            if tensor is None or tensor.ndim <= reading.axis:
                continue
            number, rest = divmod(tensor.shape[reading.axis] - reading.offset, reading.divisor)
            if number > 0 and not rest:
                votes[reading] = number
        if not votes:
            present = next((reading.key for reading in readings if reading.key in self.tensors), None)
            if present is None:
                raise self._lacks(readings[0].key)
            raise OfficialCheckpointError(f"{self.path}: {self._shown(present)}, which it cannot have")
        value = Counter(votes.values()).most_common(1)[0][0]
        return value, self._shown(next(reading.key for reading, number in votes.items() if number == value))

    def _check_image_size(self, reading: _Reading, channels: int, stacks: int) -> None:
        """Refuse networks for another image size, which shows in the size of their last feature map times channels."""
        numbers, _ = self._most_frequent(reading)
        positions = numbers // channels
        side = math.isqrt(positions)
        if numbers == channels * self._side(stacks) ** 2 or positions * channels != numbers or side**2 != positions:
            return  # as expected, or no size explains it: then the shape is wrong, which is reported later
        pixels = side * 2 ** (stacks + 1)
        raise OfficialCheckpointError(
            f"{self.path}: {self._shown(reading.key)} is made for images of {pixels}x{pixels}; published "
            f"checkpoints are imported at {IMAGE_SIZE}x{IMAGE_SIZE}"
        )

    @staticmethod
    def _side(stacks: int) -> int:
        """Return the side of the smallest feature maps, pixels."""
        return int(IMAGE_SIZE // 2 ** (stacks + 1))

    def _first(self, *prefixes: str) -> str | None:
        return next((key for key in self.tensors if key.startswith(prefixes)), None)

    def _family(self, part: str) -> str:
        example = {"inverse_dynamics.": "hidden.weight", "bonus.": "queue", "aux_reward.": "out.weight"}[part]
        return self._published(part + example)

    def _published(self, key: str) -> str:
        try:
            return self.published(key)
        except KeyError:  # a part that this layout does not have
            return key

    def _shown(self, key: str) -> str:
        return f"{self._published(key)} of shape {tuple(self.tensors[key].shape)}"

    def _lacks(self, key: str) -> OfficialCheckpointError:
        return OfficialCheckpointError(f"{self.path}: lacks {self._published(key)}, which tells a width")
