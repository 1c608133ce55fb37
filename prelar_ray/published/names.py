"""Names of tensors in published checkpoints and in this package.

The two repositories have different layouts: ``prelar`` is that of PreLAR and its baselines, ``contextwm`` that of
ContextWM and APV in PyTorch. The names here start with the part: a child of the world model, ``actor``, ``critic``,
``slow_critic``, ``bonus`` or ``reward_normaliser``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

__all__ = ["ALIASES", "LAYOUTS", "PART_FILES", "official_key", "own_key"]

LAYOUTS = ("prelar", "contextwm")

ALIASES = {"_expl_behavior.": "_task_behavior.", "wm.af_rssm.": "wm.rssm."}
"""Prefixes under which the published agents hold tensors a second time, and their original prefixes."""

PART_FILES = {
    "rssm_variables.pt": "wm.rssm.",
    "va_encoder_variables.pt": "wm.va_encoder.",
    "encoder_variables.pt": "wm.encoder.",
    "decoder_variables.pt": "wm.heads.decoder.",
}
"""Files that published pre-training writes beside ``variables.pt``, and the prefix that their keys lack."""


class _Row(NamedTuple):
    """Templates of one name here and in each layout; None if the layout has no such tensor.

    ``{i}`` and ``{j}`` stand for a number, ``{p}`` for a word, ``{h}`` for a hidden layer, whose number here is twice
    the published one, because activations are counted as well.
    """

    own: str
    prelar: str | None
    contextwm: str | None


def official_key(key: str, layout: str = "prelar", normed: bool = True) -> str:
    """Return the published name of a parameter or buffer, for example of ``rssm.input.weight``.

    Args:
        layout: one of :data:`LAYOUTS`.
        normed: whether the residual layer of a convolution has norms, which changes the published names.

    Raises:
        KeyError: the layout has no such tensor.
    """
    for own, theirs in _patterns(layout):
        if (match := own.pattern.fullmatch(key)) and (normed or not theirs.template.endswith("res_block.3.{p}")):
            return theirs.fill(match.groupdict(), halve=True)
    raise KeyError(key)


def own_key(key: str, layout: str) -> str | None:
    """Return the name here of a published tensor, or None.

    The two RSSMs of a stacked model are named ``rssm.below`` and ``rssm``.
    """
    for own, theirs in _patterns(layout):
        if match := theirs.pattern.fullmatch(key):
            return own.fill(match.groupdict(), halve=False)
    return None


class _Template(NamedTuple):
    template: str
    pattern: re.Pattern[str]

    @classmethod
    def compile(cls, template: str) -> _Template:
        pattern = re.escape(template)
        for name, what in {"i": r"\d+", "j": r"\d+", "h": r"\d+", "p": r"\w+"}.items():
            pattern = pattern.replace(rf"\{{{name}\}}", f"(?P<{name}>{what})")
        return cls(template, re.compile(pattern))

    def fill(self, values: dict[str, str], halve: bool) -> str:
        if "h" in values:
            number = int(values["h"])
            values = values | {"h": str(number // 2 if halve else number * 2)}
        return self.template.format(**values)


@cache
def _patterns(layout: str) -> tuple[tuple[_Template, _Template], ...]:
    column = _Row._fields.index(layout)
    return tuple(
        (_Template.compile(row.own), _Template.compile(theirs))
        for row in _rows()
        if (theirs := row[column]) is not None
    )


def _rows() -> Iterator[_Row]:
    encoder, decoder = ("wm.encoder._cnn_net", "wm.encoder"), ("wm.heads.decoder._cnn_nn", "wm.heads.decoder")
    yield _Row("encoder.trunk.conv_in.{p}", "wm.encoder._cnn_net.convin.{p}", "wm.encoder.convin.{p}")
    yield from _stacks("encoder.trunk.stacks.{i}.{j}", *(f"{name}.res{{i}}" for name in encoder))
    yield _Row("context_encoder.trunk.conv_in.{p}", "wm.encoder._deco_net.convin.0.{p}", "wm.encoder.cond_convin.{p}")
    context = ("wm.encoder._deco_net.res{i}", "wm.encoder.cond_res{i}")
    yield from _stacks("context_encoder.trunk.stacks.{i}.{j}", *context)

    pair = "wm.va_encoder.va_encoder._cnn_net"
    yield _Row("inverse_dynamics.trunk.conv_in.{p}", f"{pair}.convin.{{p}}", None)
    yield from _stacks("inverse_dynamics.trunk.stacks.{i}.{j}", f"{pair}.res{{i}}", None)
    yield _Row("inverse_dynamics.hidden.{p}", "wm.va_encoder.action_in.0.{p}", None)
    yield _Row("inverse_dynamics.out.{p}", "wm.va_encoder.action_in.2.{p}", None)

    yield from _rssm("rssm", "wm.rssm")
    yield from _rssm("rssm.above", "wm.rssm")  # stacked on the pre-trained one in fine-tuning
    yield from _rssm("rssm.below", "wm.af_rssm")

    yield _Row("decoder.linear_in.{p}", "wm.heads.decoder.convin.0.{p}", "wm.heads.decoder.convin.{p}")
    stacks = tuple(f"{name}.res{{i}}" for name in decoder)
    yield from _stacks("decoder.stacks.{i}.{j}", *stacks)
    yield from _attention("decoder.attentions.{i}_{j}", *stacks)
    yield _Row("decoder.conv_out.{p}", "wm.heads.decoder.convout.{p}", "wm.heads.decoder.convout.{p}")

    yield _Row("action_encoder.hidden.{p}", "wm.action_encoder._encoder.0.{p}", None)
    yield _Row("action_encoder.out.{p}", "wm.action_encoder._encoder.2.{p}", None)

    yield from _mlp("reward", "wm.heads.reward", out="out")
    yield from _mlp("aux_reward", "wm.heads.aux_reward", out="out")
    yield from _mlp("actor", "_task_behavior.actor", out="mean", std="std")
    yield from _mlp("critic", "_task_behavior.critic", out="out")
    yield from _mlp("slow_critic", "_task_behavior._target_critic", out="out")

    yield from _same("bonus.projection", "wm.intr_bonus.random_projection_matrix")
    yield from _same("bonus.queue", "wm.intr_bonus.queue")
    yield from _same("bonus.normaliser.magnitude", "wm.intr_bonus.intr_rewnorm.mag")
    yield from _same("reward_normaliser.magnitude", "_task_behavior.rewnorm.mag")


def _stacks(own: str, prelar: str, contextwm: str | None) -> Iterator[_Row]:
    layers = {
        "conv1": "res_block.0",
        "norm1": "res_block.1",
        "conv2": "res_block.3",
        "norm2": "res_block.4",
        "skip.0": "identity.0",
        "skip.1": "identity.1",
    }
    for layer, theirs in [*layers.items(), ("conv2", "res_block.2")]:  # the last without norms
        inner = f".stack.{{j}}.{theirs}.{{p}}"
        yield _Row(f"{own}.{layer}.{{p}}", prelar + inner, None if contextwm is None else contextwm + inner)


def _attention(own: str, prelar: str, contextwm: str) -> Iterator[_Row]:
    tensors = {
        "query_position": "q_pos_emb",
        "key_position": "kv_pos_emb",
        "attention.{p}": "cross_attention.att.{p}",
        "attention.out_proj.{p}": "cross_attention.att.out_proj.{p}",
        "norm.{p}": "norm_cross_att.{p}",
    }
    for name, theirs in tensors.items():
        yield _Row(f"{own}.{name}", f"{prelar}.stack.{{j}}.{theirs}", f"{contextwm}.stack.{{j}}.{theirs}")


def _rssm(own: str, theirs: str) -> Iterator[_Row]:
    layers = {
        "input": ("_img_in.0", "img_in"),
        "cell.linear": ("_cell._layer", "_cell._layer"),
        "cell.norm": ("_cell._norm", "_cell._norm"),
        "prior.0": ("_ensemble_out_layers.0.img_out_0", "img_out_0"),
        "prior.2": ("_ensemble_out_layers.0.img_out_head_0", "img_dist_0"),
        "posterior": ("_obs_out.0", "obs_out"),
        "posterior_logits": ("_obs_out.obs_out_head", "obs_dist"),
    }
    for layer, (prelar, contextwm) in layers.items():
        yield _Row(f"{own}.{layer}.{{p}}", f"{theirs}.{prelar}.{{p}}", f"{theirs}.{contextwm}.{{p}}")


def _mlp(own: str, theirs: str, out: str, std: str | None = None) -> Iterator[_Row]:
    yield _Row(f"{own}.hidden.{{h}}.{{p}}", f"{theirs}._mlp_nn.dense_{{h}}.{{p}}", f"{theirs}.dense{{h}}.{{p}}")
    yield _Row(f"{own}.{out}.{{p}}", f"{theirs}._out_dist._out_nn.{{p}}", f"{theirs}.out.out.{{p}}")
    if std:
        yield _Row(f"{own}.{std}.{{p}}", f"{theirs}._out_dist._std_nn.{{p}}", f"{theirs}.out.std.{{p}}")


def _same(own: str, theirs: str) -> Iterator[_Row]:
    yield _Row(own, theirs, theirs)
