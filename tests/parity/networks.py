"""This project's side of ``modules.npz``: each network and loss term on recorded inputs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prelar_ray.learning.consistency import action_distances, consistency_loss, state_distances
from prelar_ray.learning.kl import action_kl, balanced_kl
from prelar_ray.learning.world_model_loss import pretrain_loss
from prelar_ray.models.distributions import categorical_entropy, sample_one_hot
from prelar_ray.models.image_decoder import image_log_prob
from prelar_ray.models.latent_action import GaussianAction
from prelar_ray.models.noise import Deterministic
from prelar_ray.models.preprocess import preprocess_image
from prelar_ray.models.rssm import State
from prelar_ray.models.world_model import PretrainWorldModel
from prelar_ray.published.names import official_key
from tests.parity.folder import Arrays, ParityFolder, to_tensor
from tests.parity.options import run_config
from tests.parity.subjects import batch, deterministic, finetune_learner, pretrain_learner, to_arrays


def networks(folder: ParityFolder) -> Arrays:
    """``modules.npz``."""
    image = preprocess_image(to_tensor(batch(folder).image))
    result = {"encoder/image_preprocessed_mean": image.mean(dim=(-3, -2, -1))}
    for mode in ("train", "eval"):
        model = pretrain_learner(folder).model.train(mode == "train")
        result |= _convolutions(folder, model, image, mode)
    result |= _rssm(folder, model)
    result |= _kl(folder)
    result |= _consistency(folder, model, image)
    return to_arrays(result | _heads(folder))


def _convolutions(folder: ParityFolder, model: PretrainWorldModel, image: Tensor, mode: str) -> dict[str, Tensor]:
    raw: list[Tensor] = []
    hook = model.inverse_dynamics.out.register_forward_hook(lambda module, inputs, output: raw.append(output))
    latent = model.inverse_dynamics(image)
    hook.remove()
    prior_std = run_config(folder, "pretrain").loss.action_prior_std
    kl = action_kl(latent, prior_std)
    decoded = model.decoder(_posterior(folder).feature)
    result = {
        f"encoder/{mode}/embed": model.encoder(image),
        f"vanet/{mode}/mean": latent.mean,
        f"vanet/{mode}/std_raw": raw[0].chunk(2, dim=-1)[1].reshape(latent.std.shape),
        f"vanet/{mode}/std": latent.std,
        f"vanet/{mode}/action_repr": F.pad(latent.sample(Deterministic()), (0, 0, 1, 0)),
        f"vanet/{mode}/action_kl_value": kl,
        f"vanet/{mode}/action_kl_loss": kl.mean(),
        f"vanet/{mode}/action_kl_per_dim": latent.kl(prior_std),
        f"vanet/{mode}/action_kl_true_standard_normal": action_kl(latent),
        f"decoder/{mode}/mean_sub": decoded[..., ::3, ::3],
        f"decoder/{mode}/mean_channel_avg": decoded.mean(dim=(-2, -1)),
        f"decoder/{mode}/log_prob": image_log_prob(decoded, image),
    }
    if mode == "train":
        for part, theirs in (("encoder", "wm.encoder."), ("decoder", "wm.heads.decoder.")):
            for key, value in getattr(model, part).state_dict().items():
                if "running" in key:
                    name = official_key(f"{part}.{key}").removeprefix(theirs)
                    result[f"{part}/train/bn_after/{name}"] = value
    return result


def _posterior(folder: ParityFolder) -> State:
    """Recorded states, so that an error upstream does not show again."""
    return State(*(folder.tensor("modules", f"rssm/observe/post_{part}") for part in ("stoch", "deter", "logit")))


def _rssm(folder: ParityFolder, model: PretrainWorldModel) -> dict[str, Tensor]:
    rssm = model.rssm
    names = ("stoch", "deter", "action", "embed", "is_first")
    step = {name: folder.tensor("inputs", f"module_inputs/step/{name}") for name in names}
    start = State(step["stoch"], step["deter"], step["stoch"])
    prior = rssm.prior_step(start, step["action"])
    rolled = rssm.imagine(start, folder.tensor("inputs", "module_inputs/imagine/action"))
    result = {
        "rssm/img_step/deter": prior.deter,
        "rssm/img_step/logit": prior.logits,
        "rssm/img_step/stoch": prior.stoch,
        "rssm/get_feat": start.feature,
        "rssm/imagine/stoch": rolled.stoch,
        "rssm/imagine/deter": rolled.deter,
        "rssm/imagine/logit": rolled.logits,
    }
    for name, is_first in (("nofirst", torch.zeros_like(step["is_first"])), ("first", step["is_first"])):
        embed, action, first = (x.unsqueeze(1) for x in (step["embed"], step["action"], is_first))
        post, logits = rssm.observe(embed, action, first, start)
        result |= {
            f"rssm/obs_step/{name}/post_logit": post.logits[:, 0],
            f"rssm/obs_step/{name}/post_stoch": post.stoch[:, 0],
            f"rssm/obs_step/{name}/prior_logit": logits[:, 0],
            f"rssm/obs_step/{name}/deter": post.deter[:, 0],
        }
    embed, action = (folder.tensor("modules", key) for key in ("encoder/train/embed", "vanet/train/action_repr"))
    is_first = folder.tensor("inputs", "inputs/is_first")
    post, logits = rssm.observe(embed, action, is_first)
    # The second half of the same roll, carried on from the state before it.
    late = slice(embed.shape[1] - folder.arrays["modules"]["rssm/observe_carry/post_logit"].shape[1], None)
    carried, _ = rssm.observe(
        embed[:, late], action[:, late], is_first[:, late], post.at((slice(None), late.start - 1))
    )
    return result | {
        "rssm/observe/post_stoch": post.stoch,
        "rssm/observe/prior_stoch": sample_one_hot(logits, None),
        "rssm/observe/post_deter": post.deter,
        "rssm/observe/prior_deter": post.deter,
        "rssm/observe/post_logit": post.logits,
        "rssm/observe/prior_logit": logits,
        "rssm/observe_carry/post_logit": carried.logits,
    }


def _kl(folder: ParityFolder) -> dict[str, Tensor]:
    loss_config = run_config(folder, "pretrain").loss
    default: dict[str, Any] = {"balance": loss_config.kl_balance, "free_nats": loss_config.free_nats}
    variants: dict[str, dict[str, Any]] = {
        "default": {},
        "free1": {"free_nats": 1.0},
        "free_big": {"free_nats": 50.0},
        "free1_noavg": {"free_nats": 1.0, "free_average": False},
        "balance05_free1": {"balance": 0.5, "free_nats": 1.0},
        "forward": {"forward": True},
    }
    logits = [folder.tensor("modules", f"rssm/observe/{name}_logit") for name in ("post", "prior")]
    result = {
        "rssm/post_entropy": categorical_entropy(logits[0]),
        "rssm/prior_entropy": categorical_entropy(logits[1]),
    }
    for name, arguments in variants.items():
        posterior, prior = (x.clone().requires_grad_() for x in logits)
        loss, value = balanced_kl(posterior, prior, **(default | arguments))
        result |= {f"rssm/kl/{name}/loss": loss, f"rssm/kl/{name}/value": value}
        if name in ("default", "free1"):
            gradients = torch.autograd.grad(loss, (posterior, prior))
            result |= {
                f"rssm/kl/{name}/grad_post_logit": gradients[0],
                f"rssm/kl/{name}/grad_prior_logit": gradients[1],
            }
    return result


def _consistency(folder: ParityFolder, model: PretrainWorldModel, image: Tensor) -> dict[str, Tensor]:
    noise = deterministic(folder, torch.float32)
    permutation = noise.derangement(len(image))
    state = state_distances(
        model.rssm,
        _posterior(folder),
        folder.tensor("modules", "rssm/observe/prior_logit"),
        folder.tensor("modules", "vanet/train/action_repr"),
        permutation,
    )
    latent = GaussianAction(*(folder.tensor("modules", f"vanet/train/{part}") for part in ("mean", "std")))
    action = action_distances(latent, permutation)

    # The whole training loss with all other weights at zero: what is left is this term's gradient.
    config = run_config(folder, "pretrain").loss
    alone = config.model_copy(update={"image_weight": 0.0, "dynamics_kl_weight": 0.0, "action_kl_weight": 0.0})
    loss = pretrain_loss(model, alone, image, folder.tensor("inputs", "inputs/is_first"), noise)
    parameters = dict(model.named_parameters())
    gradients = dict(zip(parameters, torch.autograd.grad(loss.total, list(parameters.values())), strict=True))
    sums = {key: gradient.abs().sum() for key, gradient in gradients.items()}
    return {
        "rank/permutation": permutation,
        "rank/prior_kl": state,
        "rank/action_kl": action,
        "rank/loss": consistency_loss(state, action, "published"),
        "rank/grad_l1_va_encoder": torch.stack([v for k, v in sums.items() if k.startswith("inverse_dynamics.")]).sum(),
        "rank/grad_l1_all": torch.stack(list(sums.values())).sum(),
        # How far the recording is from a flipped sign. A difference of recorded numbers, because that of ours would
        # be mostly rounding; the numbers themselves are compared above.
        "rank/min_gap_prior_kl": _smallest_gap(folder.tensor("modules", "rank/prior_kl")),
        "rank/min_gap_action_kl": _smallest_gap(folder.tensor("modules", "rank/action_kl")),
    }


def _smallest_gap(values: Tensor) -> Tensor:
    return values.sort().values.diff().min()


def _heads(folder: ParityFolder) -> dict[str, Tensor]:
    learner = finetune_learner(folder)
    model, parts = learner.model, learner.actor_critic
    names = ("feat", "target", "action")
    feature, target, action = (folder.tensor("inputs", f"module_inputs/heads/{name}") for name in names)
    result = {"heads/action_encoder/train_action": model.action_encoder(folder.tensor("inputs", "inputs/action"))}
    heads: dict[str, nn.Module] = {
        "reward": model.reward,
        "aux_reward": model.aux_reward,
        "critic": parts.critic,
        "target_critic": parts.slow_critic,
    }
    for name, head in heads.items():
        result[f"heads/{name}/mean"] = head(feature)
        result[f"heads/{name}/log_prob"] = -0.5 * (target - head(feature)).square()
    policy = parts.actor(feature)
    return result | {
        "heads/actor/loc": policy.loc,
        "heads/actor/scale": policy.scale,
        "heads/actor/mode": policy.mode,
        "heads/actor/mean": policy.mean,
        "heads/actor/entropy": policy.entropy(),
        "heads/actor/log_prob": policy.log_prob(action),
    }
