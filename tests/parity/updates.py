"""This project's updates under the names of ``e2e_*.npz``.

Everything runs through the learners, whose inner functions are watched, not repeated. Large arrays come in their own
shape, whatever a file holds of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from prelar_ray.acting.policy import ActingNoise, Policy, PolicyState
from prelar_ray.learning import learner, world_model_loss
from prelar_ray.learning.intrinsic_bonus import IntrinsicBonus
from prelar_ray.learning.learner import FinetuneLearner
from prelar_ray.learning.world_model_loss import pretrain_loss
from prelar_ray.models.rssm import RSSM
from prelar_ray.published.names import official_key
from tests.parity.behaviour import BEHAVIOUR_FUNCTIONS, behaviour_part, recorded_start
from tests.parity.folder import Array, Arrays, Entries, ParityError, ParityFolder, to_tensor
from tests.parity.options import run_config
from tests.parity.recording import Recording, recording
from tests.parity.subjects import (
    batch,
    finetune_learner,
    finetune_state,
    named_state,
    pretrain_learner,
    to_array,
    to_arrays,
)

_LOSS_FUNCTIONS = ((RSSM, "observe"), (world_model_loss, "balanced_kl"), (world_model_loss, "image_log_prob"))

# Name of each optimiser, with its name in ``param_order.json``.
_PRETRAIN_OPTIMIZERS = {"model": "pretrain/model"}
_MODEL_OPTIMIZERS = {"enc_model": "finetune/enc_model", "model": "finetune/model"}
_BEHAVIOUR_OPTIMIZERS = {"actor": "finetune/actor", "critic": "finetune/critic"}


def pretraining(folder: ParityFolder, dtype: torch.dtype, updates: int) -> Arrays:
    """Successive pre-training updates on the recorded batch."""
    subject = pretrain_learner(folder, dtype)
    given = batch(folder)
    # Clips of a video store never hold a reset after their first frame; the recorded batch does.
    is_first = to_tensor(given.is_first).to(dtype)
    original = pretrain_loss

    def with_resets(model: Any, config: Any, image: Any, is_first_of_clips: Any, *others: Any) -> Any:
        return original(model, config, image, is_first, *others)

    after: Arrays = {}
    with mock.patch.object(learner, "pretrain_loss", with_resets), recording(*_LOSS_FUNCTIONS) as seen:
        for _ in range(updates):
            subject.update(given.image)
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
    result |= to_arrays({name: metrics[ours] for name, ours in names.items() if name != "grad_norm"}, "loss/")
    result |= _observed(seen, "", "image_log_prob")
    result |= to_arrays(
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
    result |= _gradients(folder, seen, subject.model, "", _PRETRAIN_OPTIMIZERS)
    return result | {f"after/{key}": value for key, value in after.items()}


def finetuning(folder: ParityFolder, dtype: torch.dtype, updates: int) -> Arrays:
    """Successive fine-tuning updates, world model then behaviour, on the recorded batch."""
    subject = finetune_learner(folder, dtype)
    given = batch(folder)
    model, parts = subject.model, subject.actor_critic
    after: Arrays = {}
    norms: dict[str, list[Tensor]] = {"l2/critic": [], "l2/target_critic": []}
    with recording(*_LOSS_FUNCTIONS, (IntrinsicBonus, "forward"), *BEHAVIOUR_FUNCTIONS) as seen:
        for _ in range(updates):
            subject.update(given)
            after = after or finetune_state(subject)
            norms["l2/critic"].append(_norm(parts.critic.parameters()))
            norms["l2/target_critic"].append(_norm(parts.slow_critic.parameters()))

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
    means = {
        "behavior/critic_slow": seen.results("__call__", parts.slow_critic),
        "behavior/reward_mean": seen.results("__call__", subject.behaviour.model.reward),
    }
    result = _trajectory(seen, names)
    result |= to_arrays({name: torch.stack(values) for name, values in norms.items()}, "trajectory/")
    result |= to_arrays({k: torch.stack([x.mean() for x in values]) for k, values in means.items()}, "trajectory/")
    result |= _world_model_part(seen, subject, to_tensor(given.reward).to(dtype))
    result |= _gradients(folder, seen, model, "wm/", _MODEL_OPTIMIZERS)
    result |= behaviour_part(seen, seen.metrics[0], subject, "ac/")
    result |= _gradients(folder, seen, parts, "ac/", _BEHAVIOUR_OPTIMIZERS)
    return result | {f"{'wm' if key.startswith('wm.') else 'ac'}/after/{key}": value for key, value in after.items()}


def behaviour_alone(folder: ParityFolder, prefix: str, state: Entries) -> Arrays:
    """One behaviour update in float32 from recorded start states, through a model with the parameters in ``state``."""
    subject = finetune_learner(folder, state=state)
    with recording(*BEHAVIOUR_FUNCTIONS) as seen:
        metrics = subject.behaviour.update(recorded_start(folder), subject.noise)
        subject.behaviour.advance()
    after = {key: value for key, value in finetune_state(subject).items() if not key.startswith("wm.")}
    return {
        **behaviour_part(seen, metrics, subject, prefix),
        **_gradients(folder, seen, subject.actor_critic, prefix, _BEHAVIOUR_OPTIMIZERS),
        **{f"{prefix}after/{key}": value for key, value in after.items()},
    }


def frozen_start(folder: ParityFolder, dtype: torch.dtype, file: str) -> Arrays:
    """Updates of which the first keep encoder and RSSM as they are; as many of either kind as were recorded."""
    recorded = folder.arrays[file]["frozen/max_abs_update"]  # (update, [rssm, encoder, action encoder, decoder])
    subject = finetune_learner(folder, dtype, initial_updates=int((recorded[:, 0] == 0).sum()))
    model = subject.model
    parts: list[nn.Module] = [model.rssm, model.encoder, model.action_encoder, model.decoder]
    moved = []
    with recording() as seen:
        for _ in recorded:
            before = [[p.detach().clone() for p in part.parameters()] for part in parts]
            subject.update(batch(folder))
            moved.append(
                [
                    max(float((p.detach() - q).abs().max()) for p, q in zip(part.parameters(), old, strict=True))
                    for part, old in zip(parts, before, strict=True)
                ]
            )
    losses = torch.stack([metrics["loss/total"] for metrics in seen.metrics])
    return {"frozen/max_abs_update": np.array(moved), "frozen/model_loss": to_array(losses)}


def policy(folder: ParityFolder, dtype: torch.dtype) -> Arrays:
    """The acting policy over a few steps; in deterministic mode its evaluation and training actions agree."""
    subject = Policy(run_config(folder, "finetune"), folder.options["action_dim"]).to(dtype)
    subject.load_weights(finetune_learner(folder, dtype).policy_weights(), 0)
    is_first = folder.arrays["inputs"]["module_inputs/policy/is_first"].astype(np.bool_)
    rows, steps = is_first.shape
    image = batch(folder).image[:rows, :steps]
    state = subject.initial(rows)
    state = PolicyState(state.latent, state.action.to(dtype))
    states = []
    for t in range(steps):
        _, state = subject.act(image[:, t], is_first[:, t], state, ActingNoise(None, None))
        states.append(state.map(torch.clone))  # a GPU's next step overwrites it
    result = {
        "action": torch.stack([state.action for state in states], dim=1),
        "post_logit": torch.stack([state.latent.logits for state in states], dim=1),
        "deter": torch.stack([state.latent.deter for state in states], dim=1),
    }
    return to_arrays(result, "policy/eval/") | to_arrays(result, "policy/train/")


def _gradients(
    folder: ParityFolder, seen: Recording, module: nn.Module, prefix: str, groups: Mapping[str, str]
) -> Arrays:
    """Gradients before clipping and their norms: of all parameters of an optimiser, by module, by parameter."""
    found = {
        official_key(name): to_array(seen.gradients[parameter])
        for name, parameter in module.named_parameters()
        if parameter in seen.gradients
    }
    result = {f"{prefix}grad/{key}": value for key, value in found.items()}
    orders = {group: folder.parameter_order[listed] for group, listed in groups.items()}
    if odd := found.keys() ^ set(chain.from_iterable(orders.values())):
        raise ParityError(f"param_order.json: {min(odd)} is optimised here or in {list(groups.values())}, not in both")
    for group, order in orders.items():
        norms = {key: np.linalg.norm(found[key]) for key in order}
        result[f"{prefix}grad_norm_total/{group}"] = _total(norms.values())
        result[f"{prefix}grad_norm_param/{group}"] = np.array(list(norms.values()))
        for part in {_module(key) for key in order}:
            of_part = [norm for key, norm in norms.items() if _module(key) == part]
            result[f"{prefix}grad_norm_module/{group}/{part}"] = _total(of_part)
    return result


def _total(norms: Iterable[Any]) -> Array:
    return np.asarray(np.linalg.norm(list(norms)))


def _module(key: str) -> str:
    """``wm.heads.reward._mlp_nn...`` -> ``heads.reward``."""
    parts = key.split(".")[1:]
    return ".".join(parts[:2]) if parts[0] == "heads" else parts[0]


def _trajectory(seen: Recording, names: Mapping[str, str]) -> Arrays:
    series = {name: torch.stack([metrics[ours] for metrics in seen.metrics]) for name, ours in names.items()}
    return to_arrays(series, "trajectory/")


def _observed(seen: Recording, prefix: str, log_prob_image: str) -> Arrays:
    """What the first update saw of the latent states."""
    first = seen.calls["observe"][0]
    posterior, prior = first.result
    result = {
        "embed": first.args[1],
        "post_logit": posterior.logits,
        "prior_logit": prior,
        "post_deter": posterior.deter,
        "prior_deter": posterior.deter,  # one step of the GRU serves both
        "post_index": posterior.stoch.argmax(-1),
        "kl_value": seen.results("balanced_kl")[0][1],
        log_prob_image: seen.results("image_log_prob")[0],
    }
    return to_arrays(result, prefix)


def _world_model_part(seen: Recording, subject: FinetuneLearner, plain: Tensor) -> Arrays:
    assert subject.bonus is not None
    metrics = seen.metrics[0]
    intrinsic, raw = seen.results("forward")[0]
    normalised = seen.results("__call__", subject.bonus.normaliser)[0]
    target = plain[:, : raw.shape[1]] + intrinsic
    predicted = seen.results("__call__", subject.model.reward)[0]
    names = {"kl": "dynamics_kl", "image": "image", "reward": "reward", "aux_reward": "aux_reward", "total": "total"}
    result = {f"loss/{name}": metrics[f"loss/{ours}"] for name, ours in names.items()}
    result |= {
        "metric/model_kl": seen.results("balanced_kl")[0][1].mean(),
        "metric/prior_ent": metrics["model/prior_entropy"],
        "metric/post_ent": metrics["model/posterior_entropy"],
        "metric/reward_target_mean": target.mean(),
        "metric/reward_target_std": target.std(),
        "metric/reward_predict_mean": predicted.mean(),
        "metric/reward_predict_std": predicted.std(),
        "metric/intr_mean": raw.mean(),
        "metric/intr_std": raw.std(),
        "metric/intr_normed_mean": normalised.mean(),
        "metric/intr_normed_std": normalised.std(),
        "metric/plain_reward_mean": plain.mean(),
        "metric/intr_mag": metrics["bonus/scale"],
        "intr/raw": raw,
        "intr/normalised": normalised,
        "intr/reward_target": target,
        "log_prob_reward": -0.5 * (predicted - target).square(),
    }
    return to_arrays(result, "wm/") | _observed(seen, "wm/", "log_prob_image")


def _norm(tensors: Iterable[Tensor]) -> Tensor:
    squares = [tensor.detach().square().sum() for tensor in tensors]
    return torch.stack(squares).sum().sqrt()
