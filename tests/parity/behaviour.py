"""This project's behaviour updates under the names of ``ac/`` and ``ac_iso/`` in ``e2e_finetune*.npz``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from prelar_ray.learning import behaviour
from prelar_ray.learning.behaviour import BehaviourLearner
from prelar_ray.learning.learner import FinetuneLearner
from prelar_ray.learning.running_magnitude import RunningMagnitude
from prelar_ray.models.actor_critic import Actor
from prelar_ray.models.layers import MLP
from prelar_ray.models.rssm import State
from tests.parity.folder import Arrays, ParityFolder
from tests.parity.recording import Recording
from tests.parity.subjects import to_arrays

BEHAVIOUR_FUNCTIONS: tuple[tuple[Any, str], ...] = (
    *((part, "__call__") for part in (MLP, RunningMagnitude)),
    (Actor, "apply_gathered"),
    (behaviour, "imagine"),
    (behaviour, "lambda_return"),
    (BehaviourLearner, "_weights"),
)
"""What :func:`behaviour_part` needs to have watched."""


def behaviour_part(seen: Recording, metrics: Mapping[str, Tensor], subject: FinetuneLearner, prefix: str) -> Arrays:
    """The first behaviour update."""
    rssm, config, parts = subject.model.rssm, subject.behaviour.config, subject.actor_critic
    imagination = seen.results("imagine")[0]
    horizon = len(imagination.entropy)
    policies = [policy for policy, _ in seen.results("apply_gathered", parts.actor)[: horizon - 1]]
    one_hot = imagination.feature[..., : rssm.size].unflatten(-1, (rssm.stoch, rssm.classes))
    reward = seen.results("__call__", subject.behaviour.reward_normaliser)[0]
    returned = seen.calls["lambda_return"][0]
    target, discount = returned.result, torch.full_like(reward, returned.args[2])
    weight = seen.results("_weights")[0].expand_as(target)
    entropy = imagination.entropy[:-1]
    result = {
        "bn_training_flag": torch.tensor(subject.model.training),
        "imag/action": imagination.action,
        "imag/deter": imagination.feature[..., rssm.size :],
        "imag/index": one_hot.argmax(-1),
        "imag/reward": reward,
        "imag/discount": discount,
        "imag/weight": torch.cat([weight, weight[-1:] * discount[-1:]]),  # no loss reads the weight of the last state
        "value_slow": seen.results("__call__", parts.slow_critic)[0],
        "value": seen.results("__call__", parts.critic)[0],
        "target": target,
        # With behaviour.critic_target=published; `critic_loss` and its gradient show that it is what is regressed on.
        "target_seen_by_critic": torch.cat([target[:1], target[1:] + config.entropy_weight * entropy]),
        "policy_loc": torch.stack([policy.loc for policy in policies]),
        "policy_scale": torch.stack([policy.scale for policy in policies]),
        "entropy": entropy,
        "entropy_mean": metrics["behaviour/entropy"],
        "actor_loss": metrics["behaviour/actor_loss"],
        "critic_loss": metrics["behaviour/critic_loss"],
    }
    return to_arrays(result, prefix)


def recorded_start(folder: ParityFolder) -> State:
    """States from which imagination starts in ``e2e_finetune.npz``, float32."""
    index, deter, logits = (folder.tensor("e2e_finetune", f"wm/post_{part}") for part in ("index", "deter", "logit"))
    stoch = functional.one_hot(index.long(), logits.shape[-1]).to(deter.dtype)
    return State(stoch, deter, logits).flatten()
