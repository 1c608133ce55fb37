"""This project's updates under the names of the published arrays.

Everything runs through the learners, whose inner functions are watched, not repeated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from prelar_ray.acting.policy import ActingNoise, Policy, PolicyState
from prelar_ray.checkpoint.official import official_key
from prelar_ray.learning import behaviour, learner, world_model_loss
from prelar_ray.learning.behaviour import BehaviourLearner
from prelar_ray.learning.intrinsic_bonus import IntrinsicBonus
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.learning.running_magnitude import RunningMagnitude
from prelar_ray.models.actor_critic import Actor
from prelar_ray.models.layers import MLP
from prelar_ray.models.rssm import RSSM, State
from prelar_ray.models.world_model import FinetuneWorldModel
from tests.parity.recording import Recording, recording
from tests.parity.reference import (
    Arrays,
    arrays,
    batch_from,
    config_from,
    deterministic,
    load_official,
    named_state,
    options,
    parameters,
    thin,
    to_array,
)


def pretraining(folder: Path, dtype: torch.dtype, updates: int) -> Arrays:
    """Successive pre-training updates on the recorded batch."""
    subject = PretrainLearner(config_from(folder), deterministic(folder, dtype))
    load_official(subject.model, "", parameters(folder, "pretrained"))
    batch = batch_from(folder)
    # Clips of a video store never hold a reset after their first frame; the recorded batch does.
    is_first = torch.from_numpy(batch.is_first).to(dtype)
    original = learner.pretrain_loss

    def with_resets(model: Any, config: Any, image: Any, is_first_of_clips: Any, noise: Any) -> Any:
        return original(model, config, image, is_first, noise)

    after: Arrays = {}
    with (
        mock.patch.object(learner, "pretrain_loss", with_resets),
        recording((RSSM, "observe"), *_loss_functions()) as seen,
    ):
        for _ in range(updates):
            subject.update(batch.image)
            after = after or named_state(subject.model)

    first = seen.calls["observe"][0]
    embed = first.args[1]
    posterior, _ = first.result
    metrics = seen.metrics[0]
    names = {
        "total": "loss/total",
        "kl": "loss/dynamics_kl",
        "va_kl": "loss/action_kl",
        "rank": "loss/consistency",
        "image": "loss/image",
        "grad_norm": "grad_norm/world_model",
    }
    result = _trajectory(seen, names)
    result |= _arrays({f"loss/{name}": metrics[ours] for name, ours in names.items() if name != "grad_norm"})
    result |= _observed(seen, "", "image_log_prob")
    result |= _arrays(
        {
            "metric/model_kl": seen.results("balanced_kl")[0][1].mean(),
            "metric/action_kl": metrics["loss/action_kl"],
            "metric/prior_ent": metrics["model/prior_entropy"],
            "metric/post_ent": metrics["model/posterior_entropy"],
            "metric/embed_norm": embed.square().mean(),
            "metric/embed_mean": embed.mean(),
            "metric/embed_std": embed.std(),
            "metric/deter_norm": posterior.deter.square().mean(),
            "carry/deter": posterior.deter[:, -1],
            "carry/logit": posterior.logits[:, -1],
        }
    )
    gradients = _gradients(seen, subject.model)
    result |= {f"grad/{key}": thin(value) for key, value in gradients.items()}
    result |= _norms(gradients, _order(folder, "pretrain/model"), "", "model")
    return result | _after(after, "after", dtype)


def finetuning(folder: Path, dtype: torch.dtype, updates: int) -> Arrays:
    """Successive fine-tuning updates, world model then behaviour, on the recorded batch."""
    subject = finetune_learner(folder, dtype)
    batch = batch_from(folder)
    model, parts = subject.model, subject.actor_critic
    after: Arrays = {}
    norms: dict[str, list[Tensor]] = {"trajectory/l2/critic": [], "trajectory/l2/target_critic": []}
    watched = [
        *[(RSSM, "observe"), (IntrinsicBonus, "forward")],
        *[*_loss_functions(), *_behaviour_functions()],
    ]
    with recording(*watched) as seen:
        for _ in range(updates):
            subject.update(batch)
            after = after or finetune_state(subject)
            norms["trajectory/l2/critic"].append(_norm(parts.critic.parameters()))
            norms["trajectory/l2/target_critic"].append(_norm(parts.slow_critic.parameters()))

    names = {
        "wm/kl_loss": "loss/dynamics_kl",
        "wm/image_loss": "loss/image",
        "wm/reward_loss": "loss/reward",
        "wm/aux_reward_loss": "loss/aux_reward",
        "wm/model_loss": "loss/total",
        "wm/intr_mag": "bonus/scale",
        "wm/enc_model_grad_norm": "grad_norm/dynamics",
        "wm/model_grad_norm": "grad_norm/heads",
        "behavior/actor_loss": "behaviour/actor_loss",
        "behavior/critic_loss": "behaviour/critic_loss",
        "behavior/actor_grad_norm": "grad_norm/actor",
        "behavior/critic_grad_norm": "grad_norm/critic",
        "behavior/actor_entropy": "behaviour/entropy",
        "behavior/critic_target": "behaviour/target",
        "behavior/critic": "behaviour/value",
    }
    result = _trajectory(seen, names)
    result |= _arrays({key: torch.stack(values) for key, values in norms.items()})
    result |= _world_model_part(seen, batch.reward, model.reward)
    result |= _behaviour_part(folder, seen, "ac/", seen.metrics[0], model, subject.behaviour)
    means = {
        "critic_slow": seen.results("__call__", parts.slow_critic),
        "reward_mean": seen.results("__call__", model.reward)[1::2],  # every first call is the world-model loss
    }
    result |= _arrays(
        {f"trajectory/behavior/{name}": torch.stack([x.mean() for x in values]) for name, values in means.items()}
    )

    gradients = _gradients(seen, model)
    result |= {f"wm/grad/{key}": thin(value) for key, value in gradients.items()}
    for group in ("enc_model", "model"):
        result |= _norms(gradients, _order(folder, f"finetune/{group}"), "wm/", group)

    world_model = {key: value for key, value in after.items() if key.startswith("wm.")}
    result |= _after(world_model, "wm/after", dtype)
    return result | _after({key: after[key] for key in after.keys() - world_model.keys()}, "ac/after", dtype)


def behaviour_alone(folder: Path, dtype: torch.dtype) -> Arrays:
    """One behaviour update from recorded start states through the world model as published."""
    subject = finetune_learner(folder, dtype)
    recorded = arrays(folder, "e2e_finetune")
    index, deter = torch.from_numpy(recorded["wm/post_index"]), torch.from_numpy(recorded["wm/post_deter"])
    rssm = subject.model.rssm
    stoch = functional.one_hot(index, rssm.classes).to(dtype)
    start = State(stoch, deter.to(dtype), torch.from_numpy(recorded["wm/post_logit"]).to(dtype)).flatten()
    with recording(*_behaviour_functions()) as seen:
        metrics = subject.behaviour.update(subject.model, start, subject.noise)
    result = _behaviour_part(folder, seen, "ac_iso/", metrics, subject.model, subject.behaviour)
    return result | _after(_behaviour_state(subject.behaviour), "ac_iso/after", dtype)


def frozen_start(folder: Path, dtype: torch.dtype, updates: int) -> Arrays:
    """Updates of which the first two keep encoder and RSSM as they are."""
    subject = finetune_learner(folder, dtype, initial_updates=2)
    model = subject.model
    parts: list[nn.Module] = [model.rssm, model.encoder, model.action_encoder, model.decoder]
    moved = []
    with recording() as seen:
        for _ in range(updates):
            before = [[p.detach().clone() for p in part.parameters()] for part in parts]
            subject.update(batch_from(folder))
            moved.append(
                [
                    max(float((p.detach() - q).abs().max()) for p, q in zip(part.parameters(), old, strict=True))
                    for part, old in zip(parts, before, strict=True)
                ]
            )
    losses = torch.stack([metrics["loss/total"] for metrics in seen.metrics])
    return {"frozen/max_abs_update": np.array(moved), "frozen/model_loss": to_array(losses)}


def policy(folder: Path, dtype: torch.dtype) -> Arrays:
    """The acting policy over a few steps; in deterministic mode its evaluation and training actions agree."""
    subject = Policy(config_from(folder), options(folder)["action_dim"]).to(dtype)
    weights = finetune_learner(folder, dtype).policy_weights()
    subject.load_weights(weights, 0)
    is_first = arrays(folder, "inputs")["module_inputs/policy/is_first"].astype(np.bool_)
    rows, steps = is_first.shape
    image = batch_from(folder).image[:rows, :steps]
    state = subject.initial(rows)
    state = PolicyState(state.latent, state.action.to(dtype))
    states = []
    for t in range(steps):
        _, state = subject.act(image[:, t], is_first[:, t], state, ActingNoise(None, None))
        states.append(state)
    result = _arrays(
        {
            "action": torch.stack([state.action for state in states], dim=1),
            "post_logit": torch.stack([state.latent.logits for state in states], dim=1),
            "deter": torch.stack([state.latent.deter for state in states], dim=1),
        }
    )
    return {f"policy/{mode}/{key}": value for mode in ("eval", "train") for key, value in result.items()}


def finetune_learner(folder: Path, dtype: torch.dtype = torch.float32, initial_updates: int = 0) -> FinetuneLearner:
    """A learner with the published parameters."""
    config = config_from(folder)
    tune = config.finetune.model_copy(update={"initial_updates": initial_updates})
    config = config.model_copy(update={"finetune": tune})
    subject = FinetuneLearner(config, options(folder)["action_dim"], deterministic(folder, dtype))
    state = parameters(folder, "finetuned")
    load_official(subject.model, "", state)
    load_official(subject.actor_critic, "", state)
    assert subject.bonus is not None
    if dtype == torch.float64:
        subject.bonus.double()
    load_official(subject.bonus, "bonus.", state)
    return subject


def finetune_state(subject: FinetuneLearner) -> Arrays:
    assert subject.bonus is not None
    return named_state(subject.model) | named_state(subject.bonus, "bonus.") | _behaviour_state(subject.behaviour)


def _loss_functions() -> list[tuple[Any, str]]:
    return [(world_model_loss, "balanced_kl"), (world_model_loss, "image_log_prob")]


def _behaviour_functions() -> list[tuple[Any, str]]:
    calls = [(part, "__call__") for part in (MLP, Actor, RunningMagnitude)]
    return [*calls, (behaviour, "imagine"), (behaviour, "lambda_return")]


def _arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    return {key: to_array(value) for key, value in tensors.items()}


def _trajectory(seen: Recording, names: Mapping[str, str]) -> Arrays:
    return _arrays({f"trajectory/{name}": torch.stack([m[ours] for m in seen.metrics]) for name, ours in names.items()})


def _observed(seen: Recording, prefix: str, log_prob_image: str) -> Arrays:
    """What the first update saw of the latent states."""
    first = seen.calls["observe"][0]
    posterior, prior = first.result
    _, kl = seen.results("balanced_kl")[0]
    return _arrays(
        {
            f"{prefix}embed": first.args[1],
            f"{prefix}post_logit": posterior.logits,
            f"{prefix}prior_logit": prior,
            f"{prefix}post_deter": posterior.deter,
            f"{prefix}prior_deter": posterior.deter,  # one step of the GRU serves both
            f"{prefix}post_index": posterior.stoch.argmax(-1),
            f"{prefix}kl_value": kl,
            f"{prefix}{log_prob_image}": seen.results("image_log_prob")[0],
        }
    )


def _world_model_part(seen: Recording, reward: Any, head: MLP) -> Arrays:
    metrics = seen.metrics[0]
    intrinsic, raw = seen.results("forward")[0]
    plain = torch.from_numpy(reward).to(raw.dtype)
    target = plain[:, : raw.shape[1]] + intrinsic
    predicted = seen.results("__call__", head)[0]
    names = {"kl": "dynamics_kl", "image": "image", "reward": "reward", "aux_reward": "aux_reward", "total": "total"}
    tensors = {f"wm/loss/{name}": metrics[f"loss/{ours}"] for name, ours in names.items()}
    tensors |= {
        "wm/metric/model_kl": seen.results("balanced_kl")[0][1].mean(),
        "wm/metric/prior_ent": metrics["model/prior_entropy"],
        "wm/metric/post_ent": metrics["model/posterior_entropy"],
        "wm/metric/reward_target_mean": target.mean(),
        "wm/metric/reward_target_std": target.std(),
        "wm/metric/reward_predict_mean": predicted.mean(),
        "wm/metric/reward_predict_std": predicted.std(),
        "wm/metric/intr_mean": raw.mean(),
        "wm/metric/intr_std": raw.std(),
        "wm/metric/intr_normed_mean": metrics["bonus/mean"],
        "wm/metric/intr_normed_std": intrinsic.std(),
        "wm/metric/plain_reward_mean": plain.mean(),
        "wm/metric/intr_mag": metrics["bonus/scale"],
        "wm/intr/raw": raw,
        "wm/intr/normalised": intrinsic,
        "wm/intr/reward_target": target,
        "wm/log_prob_reward": -0.5 * (predicted - target).square(),
    }
    return _arrays(tensors) | _observed(seen, "wm/", "log_prob_image")


def _behaviour_part(
    folder: Path,
    seen: Recording,
    prefix: str,
    metrics: Mapping[str, Tensor],
    model: FinetuneWorldModel,
    subject: BehaviourLearner,
) -> Arrays:
    """The first behaviour update."""
    rssm, parts = model.rssm, subject.parts
    imagination = seen.results("imagine")[0]
    horizon = len(imagination.entropy)
    policies = seen.results("__call__", parts.actor)[: horizon - 1]
    one_hot = imagination.feature[..., : rssm.size].unflatten(-1, (rssm.stoch, rssm.classes))
    tensors = {
        "bn_training_flag": torch.tensor(model.training),
        "imag/action": imagination.action,
        "imag/deter": imagination.feature[..., rssm.size :],
        "imag/index": one_hot.argmax(-1),
        "imag/reward": seen.results("__call__", subject.reward_normaliser)[0],
        "value_slow": seen.results("__call__", parts.slow_critic)[0],
        "value": seen.results("__call__", parts.critic)[0],
        "target": seen.results("lambda_return")[0],
        "policy_loc": torch.stack([policy.loc for policy in policies]),
        "policy_scale": torch.stack([policy.scale for policy in policies]),
        "entropy": imagination.entropy[:-1],
        "entropy_mean": metrics["behaviour/entropy"],
        "actor_loss": metrics["behaviour/actor_loss"],
        "critic_loss": metrics["behaviour/critic_loss"],
    }
    result = {f"{prefix}{key}": to_array(value) for key, value in tensors.items()}
    gradients = _gradients(seen, parts)
    result |= {f"{prefix}grad/{key}": thin(value) for key, value in gradients.items()}
    for group in ("actor", "critic"):
        result |= _norms(gradients, _order(folder, f"finetune/{group}"), prefix, group)
    return result


def _behaviour_state(subject: BehaviourLearner) -> Arrays:
    return named_state(subject.parts) | {"_task_behavior.rewnorm.mag": to_array(subject.reward_normaliser.magnitude)}


def _gradients(seen: Recording, module: nn.Module) -> Arrays:
    """Gradients by published name."""
    return {
        official_key(name): to_array(seen.gradients[parameter])
        for name, parameter in module.named_parameters()
        if parameter in seen.gradients
    }


def _order(folder: Path, group: str) -> list[str]:
    order: list[str] = json.loads((folder / "param_order.json").read_bytes())[group]
    return order


def _norms(gradients: Arrays, order: list[str], prefix: str, group: str) -> Arrays:
    """Gradient norms of one optimiser: of all its parameters, by module, by parameter."""
    norms = {key: np.linalg.norm(gradients[key]) for key in order}
    total = partial(np.linalg.norm, axis=0)
    result = {
        f"{prefix}grad_norm_total/{group}": total(list(norms.values())),
        f"{prefix}grad_norm_param/{group}": np.array(list(norms.values())),
    }
    modules = {_module(key) for key in order}
    for module in modules:
        result[f"{prefix}grad_norm_module/{group}/{module}"] = total(
            [norm for key, norm in norms.items() if _module(key) == module]
        )
    return result


def _module(key: str) -> str:
    """``wm.heads.reward._mlp_nn...`` -> ``heads.reward``."""
    parts = key.split(".")[1:]
    return ".".join(parts[:2]) if parts[0] == "heads" else parts[0]


def _after(state: Arrays, prefix: str, dtype: torch.dtype) -> Arrays:
    """State after the first update; the float64 files hold large arrays subsampled."""
    return {f"{prefix}/{key}": thin(value) if dtype == torch.float64 else value for key, value in sorted(state.items())}


def _norm(tensors: Any) -> Tensor:
    return torch.stack([tensor.detach().norm() for tensor in tensors]).norm()
