"""A parity folder of other widths, recorded from this project itself.

It shows that no width is built into the checker, and nothing else: its numbers are ours on both sides.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.learning.optimizers import Optimizer
from prelar_ray.published.names import official_key
from tests.parity import cases, given
from tests.parity.folder import (
    ARRAY_FILES,
    FINETUNED,
    INPUT_SHAPES,
    PARTS,
    PRETRAINED,
    Array,
    Arrays,
    Entries,
    ParityFolder,
    sizes_of,
)
from tests.parity.options import run_config
from tests.parity.subjects import finetune_state, named_state

_CONV = {"cnn_depth": 2, "res_depth": 2, "res_layers": 1, "res_norm": "batch"}
_OPTIONS: dict[str, Any] = {
    **{f"{part}.{option}": value for part in ("encoder", "decoder", "vanet") for option, value in _CONV.items()},
    **{"rssm.embed_dim": 256, "rssm.hidden": 6, "rssm.deter": 6, "rssm.stoch": 3, "rssm.discrete": 5},
    **{"vanet.stoch": 5, "vanet.hidden_dim": 7, "action_encoder.deter": 5, "action_encoder.hidden_dim": 4},
    **{f"{head}.{size}": 21 for head, size in (("reward_head", "input_dim"), ("decoder", "cnn_input_dim"))},
    **{f"{head}.input_dim": 21 for head in ("actor", "critic")},
    **{"actor.units": 5, "actor.layers": 1, "critic.units": 6, "critic.layers": 2, "reward_head.units": 3},
    **{"k": 3, "beta": 0.5, "intr_seq_length": 3, "intr_reward_norm.momentum": 0.9, "queue_size": 9, "queue_dim": 4},
    **{
        "kl.balance": 0.7,
        "kl.free": 0.1,
        "loss_scales.kl": 0.5,
        "loss_scales.reward": 2.0,
        "loss_scales.aux_reward": 3.0,
    },
    **{"imag_horizon": 4, "discount": 0.9, "discount_lambda": 0.8, "actor_ent": 0.01, "slow_target_update": 2},
    **{"reward_norm.momentum": 0.95, "model_opt.lr": 1e-3, "enc_model_opt.lr": 2e-3, "model_opt.clip": 10},
}
_FREE_SIZES = dict(zip("nimhkxyzcbtrsgvpuf", (4, 3, 5, 4, 2, 3, 2, 2, 5, 3, 7, 1, 4, 6, 3, 2, 3, 4), strict=True))


def other_widths(public: ParityFolder) -> ParityFolder:
    """A folder that this project agrees with, of other widths and options than ``public``."""
    generator = np.random.default_rng(0)
    folder = replace(public, options=_options(public), noise=_Silence())
    folder = replace(folder, arrays={file: _placeholders(folder, file, generator) for file in ARRAY_FILES})
    folder = _with_checkpoints(folder)
    # Some arrays are computed from others of the same file, in a chain of four; e2e_finetune in one of two.
    for file in ("modules", "modules", "modules", "modules", "dists", "misc", "e2e_finetune", *ARRAY_FILES[4:]):
        arrays = Entries(f"{file}.npz", cases.ours(folder, file))
        folder = replace(folder, arrays={**folder.arrays, file: arrays})
    return folder


class _Silence(Entries):
    """No noise in any array of any file."""

    def __init__(self) -> None:
        super().__init__("noise.json", {})

    def __missing__(self, key: str) -> Any:
        return self if key.endswith(".npz") else {"vs_f64": 0.0}


def _options(public: ParityFolder) -> Entries:
    phases = {
        phase: Entries(phase, {key: _OPTIONS.get(key, value) for key, value in public.options[phase].items()})
        for phase in ("pretrain", "finetune")
    }
    sizes = {"batch": 2, "length": 6, "action_dim": 3, "embed_dim": 256, "feat_dim": 21, "action_repr_dim": 5}
    return Entries("config.json", {**public.options, **phases, **sizes, "fixed_batch_permutation": [1, 0]})


def _placeholders(folder: ParityFolder, file: str, generator: np.random.Generator) -> Entries:
    """Arrays of the right shape and kind wherever computation starts from one."""
    sizes = _FREE_SIZES | sizes_of(folder)
    shapes = {
        name: tuple(int(letter) if letter.isdigit() else sizes[letter] for letter in letters.split())
        for name, letters in INPUT_SHAPES[file].items()
    }
    if file == "misc":
        shapes |= {"lambda_return/lambda0.7": (1,), "enc_lr_schedule/pretrain2": (5,)}
    return Entries(f"{file}.npz", {name: _placeholder(name, shape, generator) for name, shape in shapes.items()})


def _placeholder(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    if name == "inputs/image":
        return generator.integers(0, 256, shape, dtype=np.uint8)
    if name.endswith(("is_first", "is_terminal")):
        flags = (generator.random(shape) < 0.2).astype(np.float32)
        flags[..., :1] = 1
        return flags
    if name.endswith("stoch"):
        return np.eye(shape[-1], dtype=np.float32)[generator.integers(0, shape[-1], shape[:-1])]
    if name.endswith("index"):
        return np.zeros(shape, np.int64)
    if name.startswith("frozen/"):
        moved = np.ones(shape)
        moved[:1, :2] = 0  # the first update leaves RSSM and encoder as they are
        return moved
    return generator.uniform(0.1, 0.9, shape).astype(np.float32)


def _with_checkpoints(folder: ParityFolder) -> ParityFolder:
    torch.manual_seed(0)
    first = PretrainLearner(run_config(folder, "pretrain"))
    second = FinetuneLearner(run_config(folder, "finetune"), folder.options["action_dim"])
    for module in (first.model, second.model, second.actor_critic):
        _perturb(module)
    states = {PRETRAINED: named_state(first.model), FINETUNED: finetune_state(second)}
    tensors = {file: _entries(file, state) for file, state in states.items()}
    folder = replace(
        folder,
        tensors=tensors,
        parameter_order=Entries(
            "param_order.json",
            {
                "pretrain/model": _names(first.model, first.optimizer),
                "finetune/enc_model": _names(second.model, second.dynamics_optimizer),
                "finetune/model": _names(second.model, second.optimizer),
                "finetune/actor": _names(second.actor_critic, second.behaviour.actor_optimizer),
                "finetune/critic": _names(second.actor_critic, second.behaviour.critic_optimizer),
            },
        ),
    )
    files = (PRETRAINED, *PARTS, FINETUNED)
    return replace(folder, tensors={file: _entries(file, given.tensors(folder, file)) for file in files})


@torch.no_grad()
def _perturb(module: nn.Module) -> None:
    """Biases, norms and running statistics that are not what they start as."""
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.add_(0.1 * torch.rand_like(value))


def _entries(file: str, state: Arrays) -> Entries:
    return Entries(file, {key: torch.from_numpy(value) for key, value in state.items()})


def _names(module: nn.Module, optimizer: Optimizer) -> list[str]:
    names = {parameter: official_key(name) for name, parameter in module.named_parameters()}
    return [names[parameter] for parameter in optimizer.parameters]
