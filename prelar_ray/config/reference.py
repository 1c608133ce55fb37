"""Pages made from the defaults: the preset ``paper``, and the list of all settings.

``python -m prelar_ray.config.reference`` writes both after a setting was added or changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prelar_ray.config import yaml_text
from prelar_ray.config.component import Component
from prelar_ray.config.run import RunConfig

__all__ = ["PAPER", "SETTINGS", "SOURCES", "paper_preset", "settings_page"]

PAPER = Path(__file__).parent / "presets" / "paper.yaml"
SETTINGS = Path(__file__).parents[2] / "docs" / "settings.md"

SOURCES = {
    "precision": "published code: float16 with loss scaling",
    "world_model.encoder": "published code: 64x64x3 to 3072",
    "world_model.decoder": "published code: mirror of the encoder",
    "world_model.rssm": "published code: feature of 2048",
    "world_model.rssm.uniform_mix": "published code: none; DreamerV3: 0.01",
    "world_model.dynamics": "Algorithm 1, line 10: fine-tuning continues with the pre-trained RSSM",
    "world_model.context": "ContextWM's published values",
    "world_model.latent_action": "published code: representation size",
    "world_model.latent_action_source": "Eq. (11)",
    "world_model.latent_action_distribution": "Eq. (9)",
    "world_model.latent_action_classes": "not in the paper: for categorical latent actions only",
    "world_model.inverse_dynamics_input": "published code: concatenated by channel",
    "world_model.inverse_dynamics_frames": "Eq. (11)",
    "world_model.inverse_dynamics_pooling": "published code: none",
    "world_model.action_input": "Eq. (12)",
    "world_model.inverse_dynamics": "published code: the encoder's trunk on two frames",
    "world_model.inverse_dynamics_head": "published code",
    "world_model.action_encoder": "published code",
    "world_model.reward_head": "published code: reward and auxiliary reward",
    "loss.balance": "Eq. (10), (15): fixed weights; learnt ones are HarmonyDream's",
    "world_model.reward_distribution": "published code; two_hot is DreamerV3's",
    "loss.image_weight": "Eq. (10), (12)",
    "loss.reward_weight": "Eq. (15)",
    "loss.aux_reward_weight": "Eq. (15)",
    "loss.vector_weight": "not in the paper",
    "loss.dynamics_kl_weight": "Table 1: dynamics KL weight beta (both phases)",
    "loss.kl_balance": "published code",
    "loss.free_nats": "published code",
    "loss.action_kl_weight": "Table 1: action KL weight beta_a",
    "loss.action_kl_warmup_updates": "not in the paper: no warm-up",
    "loss.action_free_nats": "not in the paper: no floor",
    "loss.action_capacity": "not in the paper: no target",
    "loss.action_prior_std": "Eq. (5): standard normal prior; the published code computes with 1.2449",
    "loss.consistency_weight": "Table 1: action-state consistency loss weight beta_r",
    "loss.consistency_gradient": "the paper's intent; published is the code's zero gradient",
    "loss.tie_weight": "not in the paper",
    "loss.tie_gradient": "not in the paper",
    "loss.action_decoder_weight": "not in the paper",
    "behaviour.horizon": "Table 1: imagination horizon H",
    "behaviour.discount": "Table 1: discount gamma",
    "behaviour.return_lambda": "Table 1: lambda-target discount",
    "behaviour.discount_head": "DreamerV2, for tasks that terminate; those of the paper do not",
    "behaviour.reward_momentum": "published code: imagined rewards as they are",
    "behaviour.entropy_weight": "Table 1: entropy regularization eta",
    "behaviour.critic_target": "Eq. (2), (17)",
    "behaviour.return_normalisation": "Eq. (16): returns as they are; percentiles is DreamerV3's",
    "behaviour.return_momentum": "DreamerV3",
    "behaviour.slow_critic_every": "published code",
    "behaviour.slow_critic_fraction": "published code: hard copies; DreamerV3: 0.02 at every update",
    "behaviour.actor": "published code",
    "behaviour.actor_min_std": "published code",
    "behaviour.critic": "published code",
    "behaviour.critic_distribution": "Eq. (17); two_hot is DreamerV3's",
    "behaviour.actor_optimizer": "Table 1: actor optimizer Adam, learning rate; the rest: published code",
    "behaviour.critic_optimizer": "Table 1: critic optimizer Adam, learning rate; the rest: published code",
    "pretrain.updates": "Table 1: training iterations",
    "pretrain.batch_size": "Table 1: batch size (pre-training)",
    "pretrain.segment_length": "Table 1: video segment length T",
    "pretrain.stride": "not in the paper: successive frames",
    "pretrain.validation_share": "not in the paper: one episode in twenty to measure on",
    "pretrain.validation_every_updates": "not in the paper",
    "pretrain.optimizer": "Table 1: optimizer Adam, learning rate; the rest: published code",
    "finetune.env_steps": "not in Table 1: as long as the published Meta-World curves",
    "finetune.random_steps": "Table 1: random exploration",
    "finetune.env_steps_per_update": "Table 1: training frequency",
    "finetune.initial_updates": "published code",
    "finetune.freeze_pretrained": "published code: during the initial updates",
    "finetune.batch_size": "Table 1: batch size (fine-tuning)",
    "finetune.segment_length": "Table 1: trajectory segment length T",
    "finetune.dynamics_optimizer": "Table 1: world model optimizer Adam, learning rate; the rest: published code",
    "finetune.optimizer": "Table 1: world model optimizer Adam, learning rate; the rest: published code",
    "finetune.bonus": "APV's published values",
    "finetune.rehearsal": "not in the paper",
    "env": "Images are rescaled to [-0.5, 0.5] (Table 1: image preprocess), which is fixed in the code.",
    "env.image_size": "Table 1: image size",
    "env.action_repeat": "published code, Meta-World",
    "env.camera": "published code: corner in Meta-World, 0 in DeepMind Control",
    "replay.capacity_steps": "Table 1: replay buffer capacity",
    "evaluation.episodes": "Table 1: evaluation episode",
    "evaluation.every_env_steps": "published code",
}
"""Where a default comes from, by dotted path of a setting or of a section whose settings share it."""

_PAPER_HEADING = """\
# paper: the published experiment, every value stated.
#
# Purpose: reproduce PreLAR. "Table 1: ..." names the row of the paper's hyperparameter table; "published code" marks
#   sizes and settings that the table leaves to the code.
# Cost: world model of 28.7 M parameters in pre-training, 26.5 M in fine-tuning; made for a GPU of 24 GiB and for days.
#   The replay buffer grows to 12.3 GB at a million steps.
#
# This file is made from the defaults by `python -m prelar_ray.config.reference`; change those, and their sources there.
"""

_SETTINGS_HEADING = """\
# Settings

Every setting of a configuration, by the dotted key that YAML files and the command line take:
`prelar-ray finetune --preset small finetune.batch_size=32 ...`. Defaults are the values of the preset `paper`; the last
column says where the paper (PreLAR's supplementary, Table 1; equations) or the published code gives them. A source in
the row of a section is that of all its settings. `prelar-ray COMMAND --dry-run` prints all values of a run.

This page is made from the configuration by `python -m prelar_ray.config.reference`; change the text there.
"""

_KINDS = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "string": "text",
    "array": "list",
    "object": "mapping",
}
_SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def paper_preset() -> str:
    """Return the text of ``presets/paper.yaml``: every default, with its source as a comment."""
    return _PAPER_HEADING + "\n" + "\n".join(_yaml_lines(RunConfig())) + "\n"


def settings_page() -> str:
    """Return the text of ``docs/settings.md``."""
    config = RunConfig()
    lines = _heading("The run itself", "")
    for name, value in config:
        if not isinstance(value, Component):
            lines += _rows(config, name)
    for name, value in config:
        if isinstance(value, Component):
            lines += _heading(name, f"{RunConfig.model_fields[name].description} {SOURCES.get(name, '')}".strip())
            for inner in type(value).model_fields:
                lines += _rows(value, inner, f"{name}.")
    return _SETTINGS_HEADING + "\n".join(lines) + "\n"


def _yaml_lines(section: Component, path: str = "") -> Iterator[str]:
    """Yield the lines of a section; a part whose settings have no source of their own takes one line if it fits."""
    indent = "  " * path.count(".")
    for name, value in section:
        here = path + name
        if isinstance(value, Component) and not path:
            yield ""
        if isinstance(value, Component) and not _fits_a_line(value, here):
            yield _with_source(f"{indent}{name}:", here)
            yield from _yaml_lines(value, f"{here}.")
        else:
            yield _with_source(f"{indent}{name}: {_inline(value)}", here)


def _fits_a_line(section: Component, path: str) -> bool:
    has_sources = any(known.startswith(f"{path}.") for known in SOURCES)
    return not has_sources and len(f"{path}: {_inline(section)}") <= 120


def _with_source(line: str, path: str) -> str:
    """Return a line with the source of its value as a comment: behind it, or above it where it would be too long."""
    if path not in SOURCES:
        return line
    behind = f"{line}  # {SOURCES[path]}"
    indent = line[: len(line) - len(line.lstrip())]
    return behind if len(behind) <= 120 else f"{indent}# {SOURCES[path]}\n{line}"


def _heading(title: str, text: str) -> list[str]:
    """Return the lines of a heading, its text if there is one, and the head of the table below it."""
    columns = ["key", "default", "allowed", "meaning", "source"]
    paragraphs = ["", f"## {title}", *(["", text] if text else []), ""]
    return [*paragraphs, f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]


def _rows(section: Component, name: str, path: str = "") -> Iterator[str]:
    """Yield the row of a setting, or of a section and of all settings in it."""
    key, value, field = path + name, getattr(section, name), type(section).model_fields[name]
    is_section = isinstance(value, Component)
    default = "" if is_section else f"`{_inline(value)}`"
    allowed = "" if is_section else _allowed(type(section).model_json_schema()["properties"][name])
    meaning = " ".join((field.description or "").split())  # a line break would end the row
    yield f"| `{key}` | {default} | {allowed} | {meaning} | {SOURCES.get(key, '')} |"
    if isinstance(value, Component):
        for inner in type(value).model_fields:
            yield from _rows(value, inner, f"{key}.")


def _inline(value: Any) -> str:
    """Return a value or section as YAML on one line, large counts with ``_`` between thousands."""
    if type(value) is int and value >= 10_000:
        return f"{value:_}"
    return yaml_text.inline(value.model_dump() if isinstance(value, Component) else value)


def _allowed(schema: dict[str, Any]) -> str:
    """Return in words what the JSON schema of a setting allows."""
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if "anyOf" in schema:
        return ", ".join(map(_allowed, schema["anyOf"]))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "$ref" in schema:  # a section that stands in the place of a value
        return _KINDS["object"]
    kind = _KINDS[schema["type"]]
    bounds = [f"{sign} {schema[bound]:g}" for bound, sign in _SIGNS.items() if bound in schema]
    return f"{kind} {', '.join(bounds)}".strip()


if __name__ == "__main__":
    PAPER.write_text(paper_preset(), encoding="utf-8")
    SETTINGS.write_text(settings_page(), encoding="utf-8")
