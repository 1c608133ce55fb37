"""Learners of ``test_ranks.py``: ``python -m tests.learning.rank_worker ADDRESS RANK SIZE OUT UPDATES``."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prelar_ray.errors import RanksDiverged
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.learning.ranks import ALONE, Ranks
from prelar_ray.models.noise import Deterministic
from prelar_ray.types import SequenceBatch
from tests.tiny import ACTION, ROBUST, tiny_batch, tiny_clips, tiny_config

ROWS = 4
WITHOUT_NORMS = tuple(f"world_model.{part}.norm=none" for part in ("encoder", "decoder", "inverse_dynamics"))
BOTH = ("pretrain", "finetune")
TIED = ("loss.tie_weight=2", "loss.tie_gradient=both", "loss.action_decoder_weight=3")
SYNCHRONISED = "learner.norm_statistics=synchronised"
SETTINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "without norms": (BOTH, WITHOUT_NORMS),
    # Floors between the KLs of the two halves of the first batch, in either phase.
    "free nats, pretrain": (("pretrain",), (*WITHOUT_NORMS, "loss.free_nats=0.152")),
    "free nats, finetune": (("finetune",), (*WITHOUT_NORMS, "loss.free_nats=0.035")),
    "synchronised": (BOTH, (SYNCHRONISED,)),
    "soft consistency": (("pretrain",), ("loss.consistency_gradient=soft", SYNCHRONISED)),
    "normalised reward": (("finetune",), ("behaviour.reward_momentum=0.5", SYNCHRONISED)),
    "learnt balance": (BOTH, ("loss.balance=learnt", SYNCHRONISED)),
    "returns over their range": (
        ("finetune",),
        (*WITHOUT_NORMS, "behaviour.return_normalisation=percentiles", "behaviour.return_momentum=0"),
    ),
    "robust": (BOTH, ROBUST),
    "tied": (
        ("finetune",),
        ("loss.tie_weight=2", "loss.tie_gradient=both", "loss.action_decoder_weight=3", SYNCHRONISED),
    ),
    "rehearsal": (("finetune",), ("finetune.rehearsal.share=0.5", SYNCHRONISED)),
    "contextwm": (BOTH, ("method=contextwm", "world_model.context.dropout=0", SYNCHRONISED)),
    "apv": (BOTH, ("method=apv", SYNCHRONISED)),
}
CASES = [(phase, name) for name, (phases, _) in SETTINGS.items() for phase in phases]
Learner = PretrainLearner | FinetuneLearner


def make(phase: str, overrides: tuple[str, ...], ranks: Ranks, deterministic: bool = True) -> Learner:
    """A learner in float64; deterministic ones swap latent actions within pairs of rows."""
    config = tiny_config(*overrides, f"learner.ranks={ranks.size}", "pretrain.batch_size=4", "finetune.batch_size=8")
    noise = None
    if deterministic:
        noise = Deterministic(torch.tensor([1, 0, 3, 2][: ROWS // ranks.size]))
        noise.dtype = torch.float64
    if phase == "pretrain":
        return PretrainLearner(config, noise, ranks)
    learner = FinetuneLearner(config, ACTION, noise, ranks)
    if learner.bonus and deterministic:
        learner.bonus.double()
    return learner


def update(learner: Learner, seed: int) -> None:
    """One update on this rank's rows of a batch."""
    ranks = learner.ranks
    rows = slice(ranks.rank * ROWS // ranks.size, (ranks.rank + 1) * ROWS // ranks.size)
    if isinstance(learner, PretrainLearner):
        learner.update(tiny_clips(seed, ROWS)[rows])
    else:
        batch = tiny_batch(seed, ROWS)
        clips = [tiny_clips(seed + 50, ROWS)[rows]] if learner.config.finetune.clip_rows else []
        learner.update(SequenceBatch(*(np.ascontiguousarray(x[rows]) for x in vars(batch).values())), *clips)


def gradients(learner: Learner) -> list[torch.Tensor]:
    """Gradients of the first update, as Adam's first moments hold them (clipped, scaled), by optimiser."""
    if isinstance(learner, PretrainLearner):
        optimizers = [learner.optimizer]
    else:
        behaviour = learner.behaviour
        optimizers = [learner.dynamics_optimizer, learner.optimizer]
        optimizers += [behaviour.actor_optimizer, behaviour.critic_optimizer]
    return [torch.cat([x["exp_avg"].flatten() for x in o.adam.state.values()]) for o in optimizers]


def trajectory(phase: str, overrides: tuple[str, ...], ranks: Ranks, updates: int) -> dict[str, Any]:
    """Gradients of the first of some updates, and the state after the last."""
    learner = make(phase, overrides, ranks)
    update(learner, 0)
    found: dict[str, Any] = {"gradients": gradients(learner)}
    for seed in range(1, updates):
        update(learner, seed)
    learner.check_ranks()
    return found | {"model": learner.model.state_dict(), "metrics": learner.metrics()}


def comparisons(ranks: Ranks, updates: int) -> dict[str, Any]:
    """Every case in every phase that it matters in."""
    return {f"{phase}, {name}": trajectory(phase, SETTINGS[name][1], ranks, updates) for phase, name in CASES}


def with_noise(phase: str, ranks: Ranks) -> dict[str, Any]:
    """Local statistics and noise: how far ranks agree, and whether they resume bit for bit."""
    learner = make(phase, (), ranks, deterministic=False)
    drawn = learner.noise.normal(3)
    update(learner, 0)
    state = deepcopy(learner.state_dict())
    update(learner, 1)
    learner.check_ranks()
    ended = deepcopy(learner.state_dict())
    resumed = make(phase, ("seed=1",), ranks, deterministic=False)
    resumed.load_state_dict(deepcopy(state))
    update(resumed, 1)
    found = {"drawn": drawn, "state": ended, "resumed": resumed.state_dict(), "saved": state}
    alone = make(phase, (), ALONE, deterministic=False)
    alone.load_state_dict(state)  # one rank resumes where two were
    update(alone, 1)
    if ranks.rank == 1:
        next(learner.model.parameters()).data[0] += 1e-6
    try:
        learner.check_ranks()
    except RanksDiverged as error:
        found["error"] = str(error)
    return found


def main() -> None:
    """Everything, in one process, because starting one takes longer."""
    address, rank, size, out, updates = sys.argv[1:]
    torch.set_num_threads(1)
    ranks = Ranks.join(address, int(rank), int(size), torch.device("cpu"), timeout=60)
    found = {
        "cases": comparisons(ranks, int(updates)),
        "noise": {phase: with_noise(phase, ranks) for phase in BOTH},
    }
    torch.save(found, Path(out) / f"{rank}.pt")
    ranks.leave()


if __name__ == "__main__":
    main()
