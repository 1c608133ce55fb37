"""Output of ``--dry-run``: configuration, parameters per part, memory."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from prelar_ray.config import RunConfig, to_yaml
from prelar_ray.envs import check_task
from prelar_ray.errors import PrelarError, RenderingError
from prelar_ray.kinds import Kind, kind_of
from prelar_ray.learning.behaviour import imagine
from prelar_ray.learning.frozen_model import FrozenModel
from prelar_ray.learning.intrinsic_bonus import IntrinsicBonus
from prelar_ray.learning.world_model_loss import Experience, finetune_loss, pretrain_loss
from prelar_ray.models.actor_critic import ActorCritic
from prelar_ray.models.layers import parameter_count
from prelar_ray.models.noise import Deterministic
from prelar_ray.models.observation import size_of
from prelar_ray.models.world_model import FinetuneWorldModel, PretrainWorldModel
from prelar_ray.replay.memory import GIB, step_bytes
from prelar_ray.storage.occupancy import check_out
from prelar_ray.storage.run_folder import RunFolder

__all__ = ["Summary", "check_run", "check_start", "check_tasks", "print_dry_run", "summarise"]

log = logging.getLogger(__name__)

TRAINING_STATE_BYTES = 16  # per parameter, float32: value, gradient, two moments of Adam


@dataclass(frozen=True)
class Summary:
    """Parameters by part, and bytes."""

    parameters: dict[str, dict[str, int]]  # phase -> part -> trainable parameters
    memory: dict[str, int]  # item -> bytes


def check_tasks(tasks: Mapping[str, str]) -> None:
    """Refuse tasks that do not exist, by dotted key; a machine that plans need not be one that renders.

    Raises:
        ConfigError: one is unknown.
    """
    for key, task in tasks.items():
        try:
            check_task(task, key)
        except RenderingError as error:
            log.warning("%s=%s is not checked: %s", key, task, error)


def check_run(kind: Kind, config: RunConfig, args: argparse.Namespace) -> None:
    """Refuse what a run with these arguments would refuse: its folder, and changes to the run in it.

    Raises:
        RunFolderError: the folder cannot be used, or there is no run to resume.
        CheckpointError, UsageError: the run to resume does not fit.
    """
    if args.out is None:
        return
    check_out(args.out, new=not args.resume)
    if args.resume:
        run = RunFolder.to_resume(args.out, kind.phase)
        run.accepts_changes = args.accept_changes
        kind.check_resume(config, run)


def check_start(kind: Kind, config: RunConfig, args: argparse.Namespace) -> None:
    """Refuse what can never work, before anything is created; a resume says first what the run was made with instead.

    Raises:
        PrelarError: see :meth:`Kind.check` and :func:`check_run`.
    """
    try:
        kind.check(config)
    except PrelarError:
        if args.resume:
            check_run(kind, config, args)
        raise


def print_dry_run(config: RunConfig) -> None:
    """Print the resolved configuration as YAML, then parameter counts and memory estimates, on standard output."""
    sys.stdout.write(to_yaml(config))
    console = Console(soft_wrap=True, highlight=False)
    if not kind_of(config, "finetune").own_networks:
        console.print(f"networks: those of {config.algorithm} in RLlib, as rllib.* says; they are not counted here")
        return
    summary = summarise(config)
    for phase, parts in summary.parameters.items():
        table = Table("part", title=f"parameters: {phase}", title_justify="left")
        table.add_column("parameters", justify="right")
        for name, count in parts.items():
            table.add_row(name.replace("_", " "), f"{count:,}")
        table.add_section()
        table.add_row("total", f"{sum(parts.values()):,}")
        console.print(table)
    table = Table("memory estimate", title="memory, float32", title_justify="left")
    table.add_column("GiB", justify="right")
    for name, size in summary.memory.items():
        table.add_row(name, f"{size / GIB:.2f}")
    console.print(table)


def summarise(config: RunConfig, action: int = 4) -> Summary:
    """Count parameters and estimate memory without allocating it: all tensors are on torch's meta device.

    Args:
        action: size A of the real action; it changes the counts by a few thousand.

    Activations are the tensors that autograd saves during one update of the full batch in float32.
    """
    with torch.device("meta"):
        from_scratch = config.world_model.latent_action_source == "none"
        pretrain = None if from_scratch else PretrainWorldModel.of_run(config)
        finetune = FinetuneWorldModel.of_run(config, action)
        parts = ActorCritic(finetune.rssm.feature, action, config.behaviour)
        size = size_of(finetune.encoder) if config.finetune.bonus.input == "embedding" else finetune.rssm.feature
        bonus = IntrinsicBonus(size, config.finetune.bonus)
        noise = Deterministic(torch.empty(config.pretrain.batch_size, dtype=torch.int64))

        def pretraining() -> Tensor:
            assert pretrain is not None
            shape = (config.pretrain.batch_size, config.pretrain.segment_length)
            return pretrain_loss(pretrain, config.loss, _image(config, shape), torch.empty(shape), noise).total

        def world_model() -> Tensor:
            shape = (config.finetune.batch_size, config.finetune.segment_length)
            rows, clips = config.finetune.replay_rows, config.finetune.clip_rows
            flags, actions = torch.empty(rows, shape[1]), torch.empty(rows, shape[1], action)
            # The bonus has no gradient, and its sorting is useless on the meta device.
            drawn = Deterministic(torch.empty(clips, dtype=torch.int64))
            vector = torch.empty(rows, shape[1], config.env.vector_size)
            experience = Experience(_image(config, shape), actions, flags, flags, flags, vector)
            return finetune_loss(finetune, config.loss, None, experience, drawn).total

        def behaviour() -> Tensor:
            start = finetune.rssm.initial(config.finetune.replay_rows * config.finetune.segment_length)
            imagined = FrozenModel(finetune, torch.float32)
            features = imagine(imagined, parts.actor, start, config.behaviour.horizon, noise).feature
            total: Tensor = imagined.reward(features).sum() + parts.slow_critic(features).sum()
            return total

        activations = {} if pretrain is None else {"pretrain": _saved_bytes(pretraining)}
        # World model and behaviour are updated one after the other, so the larger one counts.
        activations["finetune"] = max(_saved_bytes(world_model), _saved_bytes(behaviour))

    counts = {} if pretrain is None else {"pretrain": _parameters(pretrain)}
    counts["finetune"] = _parameters(finetune) | {
        name: parameter_count(getattr(parts, name)) for name in ("actor", "critic")
    }
    fixed = {"slow critic": sum(p.numel() for p in parts.slow_critic.parameters())}
    if config.finetune.bonus.weight:
        fixed["bonus projection"] = bonus.projection.numel()
    memory = {
        f"{phase}: parameters, gradients, Adam": TRAINING_STATE_BYTES * sum(part.values())
        for phase, part in counts.items()
    }
    memory |= {f"{phase}: activations of one update": value for phase, value in activations.items()}
    memory["replay at capacity"] = config.replay.capacity_steps * step_bytes(config)
    counts["finetune, not trained"] = fixed
    return Summary(counts, memory)


def _parameters(model: torch.nn.Module) -> dict[str, int]:
    return {name: parameter_count(module) for name, module in model.named_children()}


def _image(config: RunConfig, shape: tuple[int, int]) -> Tensor:
    return torch.empty(*shape, 3, config.env.image_size, config.env.image_size)


def _saved_bytes(forward: Callable[[], Tensor]) -> int:
    """Return the bytes that autograd keeps for the backward pass of ``forward``, each storage once."""
    saved: dict[Any, int] = {}
    keep: list[Tensor] = []  # keeps every storage alive, so that no identity is reused

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            saved[storage._cdata] = storage.nbytes()
            keep.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(saved.values())
