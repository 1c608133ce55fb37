"""This project's modules and formulas under the names of the published arrays, each on recorded inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from prelar_ray.checkpoint.official import official_key
from prelar_ray.config.schema import OptimizerConfig
from prelar_ray.learning.consistency import action_distances, consistency_loss, state_distances
from prelar_ray.learning.intrinsic_bonus import IntrinsicBonus
from prelar_ray.learning.kl import action_kl, balanced_kl
from prelar_ray.learning.lambda_return import lambda_return
from prelar_ray.learning.optimizers import Optimizer
from prelar_ray.learning.running_magnitude import RunningMagnitude
from prelar_ray.models.actor_critic import ActorCritic
from prelar_ray.models.distributions import TruncatedNormal, categorical_entropy, sample_one_hot
from prelar_ray.models.image_decoder import image_log_prob
from prelar_ray.models.latent_action import GaussianAction
from prelar_ray.models.preprocess import preprocess_image
from prelar_ray.models.rssm import State
from prelar_ray.models.world_model import FinetuneWorldModel, PretrainWorldModel
from tests.parity.reference import (
    Arrays,
    arrays,
    batch_from,
    config_from,
    load_official,
    options,
    parameters,
    to_array,
)


class Recorded:
    """Tensors of one file by name."""

    def __init__(self, folder: Path, name: str) -> None:
        self._arrays = arrays(folder, name)

    def __call__(self, key: str) -> Tensor:
        return torch.from_numpy(self._arrays[key])


def modules(folder: Path) -> Arrays:
    """``modules.npz``."""
    given, recorded = Recorded(folder, "inputs"), Recorded(folder, "modules")
    image = preprocess_image(torch.from_numpy(batch_from(folder).image))
    result = {"encoder/image_preprocessed_mean": image.mean(dim=(-3, -2, -1))}
    for mode in ("train", "eval"):
        model = PretrainWorldModel(config_from(folder).world_model)
        load_official(model, "", parameters(folder, "pretrained"))
        model.train(mode == "train")
        result |= _convolutions(folder, model, image, recorded, mode)
    result |= _rssm(model, given, recorded)
    result |= _kl(recorded)
    result |= _consistency(folder, model, recorded)
    result |= _heads(folder, given)
    return {key: to_array(value) for key, value in result.items()}


def _convolutions(
    folder: Path, model: PretrainWorldModel, image: Tensor, recorded: Recorded, mode: str
) -> dict[str, Tensor]:
    latent = model.inverse_dynamics(image)
    kl = action_kl(latent, config_from(folder).loss.action_prior_std)
    feature = State(recorded("rssm/observe/post_stoch"), recorded("rssm/observe/post_deter"), image).feature
    decoded = model.decoder(feature)
    result = {
        f"encoder/{mode}/embed": model.encoder(image),
        f"vanet/{mode}/mean": latent.mean,
        f"vanet/{mode}/std": latent.std,
        f"vanet/{mode}/action_kl_value": kl,
        f"vanet/{mode}/action_kl_loss": kl.mean(),
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


def _rssm(model: PretrainWorldModel, given: Recorded, recorded: Recorded) -> dict[str, Tensor]:
    rssm = model.rssm
    step = {key: given(f"module_inputs/step/{key}") for key in ("stoch", "deter", "action", "embed", "is_first")}
    start = State(step["stoch"], step["deter"], step["stoch"])
    prior = rssm.prior_step(start, step["action"])
    rolled = rssm.imagine(start, given("module_inputs/imagine/action"))
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
        post, logits = rssm.observe(*(x.unsqueeze(1) for x in (step["embed"], step["action"], is_first)), state=start)
        result |= {
            f"rssm/obs_step/{name}/post_logit": post.logits[:, 0],
            f"rssm/obs_step/{name}/post_stoch": post.stoch[:, 0],
            f"rssm/obs_step/{name}/prior_logit": logits[:, 0],
            f"rssm/obs_step/{name}/deter": post.deter[:, 0],
        }
    embed, action = recorded("encoder/train/embed"), recorded("vanet/train/action_repr")
    is_first = given("inputs/is_first")
    post, logits = rssm.observe(embed, action, is_first)
    carried, _ = rssm.observe(embed[:, 3:], action[:, 3:], is_first[:, 3:], state=post.at((slice(None), 2)))
    return result | {
        "rssm/observe/post_stoch": post.stoch,
        "rssm/observe/prior_stoch": sample_one_hot(logits, None),
        "rssm/observe/post_deter": post.deter,
        "rssm/observe/prior_deter": post.deter,
        "rssm/observe/post_logit": post.logits,
        "rssm/observe/prior_logit": logits,
        "rssm/observe_carry/post_logit": carried.logits,
    }


def _kl(recorded: Recorded) -> dict[str, Tensor]:
    variants = {
        "default": {},
        "free1": {"free_nats": 1.0},
        "free_big": {"free_nats": 50.0},
        "free1_noavg": {"free_nats": 1.0, "free_average": False},
        "balance05_free1": {"balance": 0.5, "free_nats": 1.0},
        "forward": {"forward": True},
    }
    result = {
        "rssm/prior_entropy": categorical_entropy(recorded("rssm/observe/prior_logit")),
        "rssm/post_entropy": categorical_entropy(recorded("rssm/observe/post_logit")),
    }
    for name, arguments in variants.items():
        posterior = recorded("rssm/observe/post_logit").requires_grad_()
        prior = recorded("rssm/observe/prior_logit").requires_grad_()
        loss, value = balanced_kl(posterior, prior, **arguments)
        result |= {f"rssm/kl/{name}/loss": loss, f"rssm/kl/{name}/value": value}
        if name in ("default", "free1"):
            gradients = torch.autograd.grad(loss, (posterior, prior))
            result |= {
                f"rssm/kl/{name}/grad_post_logit": gradients[0],
                f"rssm/kl/{name}/grad_prior_logit": gradients[1],
            }
    return result


def _consistency(folder: Path, model: PretrainWorldModel, recorded: Recorded) -> dict[str, Tensor]:
    permutation = torch.tensor(options(folder)["fixed_batch_permutation"])
    posterior = State(*(recorded(f"rssm/observe/post_{part}") for part in ("stoch", "deter", "logit")))
    state = state_distances(
        model.rssm,
        posterior,
        recorded("rssm/observe/prior_logit"),
        recorded("vanet/train/action_repr"),
        permutation,
    )
    latent = GaussianAction(recorded("vanet/train/mean"), recorded("vanet/train/std"))
    action = action_distances(latent, permutation)
    return {
        "rank/permutation": permutation,
        "rank/prior_kl": state,
        "rank/action_kl": action,
        "rank/loss": consistency_loss(state, action, "published"),
    }


def _heads(folder: Path, given: Recorded) -> dict[str, Tensor]:
    config, action = config_from(folder), options(folder)["action_dim"]
    model = FinetuneWorldModel(config.world_model, action)
    parts = ActorCritic(model.rssm.feature, action, config.behaviour)
    for module in (model, parts):
        load_official(module, "", parameters(folder, "finetuned"))
    feature, target = given("module_inputs/heads/feat"), given("module_inputs/heads/target")
    result = {"heads/action_encoder/train_action": model.action_encoder(given("inputs/action"))}
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
        "heads/actor/entropy": policy.entropy(),
    }


def distributions(folder: Path) -> Arrays:
    """``dists.npz``."""
    recorded = Recorded(folder, "dists")
    p = recorded("truncnorm/p")

    def grid(dtype: torch.dtype) -> TruncatedNormal:
        loc, scale = (recorded(f"truncnorm/{name}").to(dtype).requires_grad_() for name in ("loc", "scale"))
        return TruncatedNormal(loc, scale)

    def icdf(policy: TruncatedNormal) -> Tensor:
        return policy.icdf(p.to(policy.loc.dtype).unsqueeze(-1).expand(-1, len(policy.loc)))

    def entropy(policy: TruncatedNormal) -> Tensor:
        return TruncatedNormal(policy.loc.unsqueeze(-1), policy.scale.unsqueeze(-1)).entropy()  # one dimension each

    result = {"truncnorm/mode": grid(torch.float32).mode}
    formulas: dict[str, Callable[[TruncatedNormal], Tensor]] = {"icdf": icdf, "entropy": entropy}
    for name, formula in formulas.items():
        policy = grid(torch.float32)
        value = formula(policy)
        result[f"truncnorm/{name}"] = value
        result[f"truncnorm/f64/{name}"] = formula(grid(torch.float64))
        rows = list(value.unbind(0)) if value.ndim == 2 else [value]
        for argument in ("loc", "scale"):
            given = getattr(policy, argument)
            gradients = [torch.autograd.grad(row.sum(), given, retain_graph=True)[0] for row in rows]
            result[f"truncnorm/{name}_grad_{argument}"] = torch.stack(gradients).reshape(value.shape)

    loc = recorded("truncnorm/sample_clip/loc").requires_grad_()
    sample = TruncatedNormal(loc, torch.full_like(loc, 0.3)).sample(None)
    weights = torch.arange(1.0, 4.0)
    result["truncnorm/sample_clip/sample"] = sample
    result["truncnorm/sample_clip/grad"] = torch.autograd.grad((weights * sample).sum(), loc)[0]
    return {key: to_array(value) for key, value in result.items()}


def formulas(folder: Path) -> Arrays:
    """``misc.npz``."""
    given = Recorded(folder, "inputs")
    result = _returns(given) | _normalisers(given) | _bonus(folder, given) | _frozen_learning_rates()
    return {key: to_array(value) for key, value in result.items()}


def _returns(given: Recorded) -> dict[str, Tensor]:
    reward, value, discount, bootstrap = (
        given(f"module_inputs/lambda/{name}") for name in ("reward", "value", "pcont", "bootstrap")
    )
    result = {
        f"lambda_return/lambda{mix}": lambda_return(reward, value, discount, bootstrap, mix) for mix in (0.95, 0.0, 1.0)
    }
    return result | {"lambda_return/scalar_pcont": lambda_return(reward, value, 0.99, bootstrap, 0.95)}


def _normalisers(given: Recorded) -> dict[str, Tensor]:
    normalisers = {
        "default": RunningMagnitude(0.99),
        "m09s05": RunningMagnitude(0.9, scale=0.5),
        "m1": RunningMagnitude(1.0),
    }
    result = {}
    for name, normaliser in normalisers.items():
        outputs, magnitudes = [], []
        for x in given("module_inputs/streamnorm/x"):
            outputs.append(normaliser(x))
            magnitudes.append(normaliser.magnitude.clone())
        result |= {
            f"streamnorm/{name}/out": torch.stack(outputs),
            f"streamnorm/{name}/mag": torch.stack(magnitudes),
        }
    return result


def _bonus(folder: Path, given: Recorded) -> dict[str, Tensor]:
    projection = given("module_inputs/intr/projection")
    bonus = IntrinsicBonus(len(projection), config_from(folder).finetune.bonus)
    bonus.projection.copy_(projection)
    result = {}
    calls = zip(given("module_inputs/intr/feat"), given("module_inputs/intr/reward"), strict=True)
    for i, (embed, reward) in enumerate(calls):
        normalised, raw = bonus(embed)
        valid = raw.shape[1]
        call = {
            "queue": bonus.queue.clone(),
            "queue_len": bonus.filled.clone(),
            "raw": raw,
            "normalised": normalised,
            "mag": bonus.normaliser.magnitude.clone(),
            "valid_len": torch.tensor(valid),
            "reward": reward[:, :valid] + normalised,
        }
        result |= {f"intr_bonus/call{i}/{name}": value for name, value in call.items()}
    return result


def _frozen_learning_rates() -> dict[str, Tensor]:
    result = {}
    for frozen in (1, 3):
        layer = nn.Linear(1, 1)
        optimizer = Optimizer([layer], OptimizerConfig(learning_rate=3e-4), frozen)
        rates = []
        for _ in range(7):
            layer(torch.ones(1)).sum().backward()
            optimizer.step()
            rates.append(optimizer.adam.param_groups[0]["lr"])
        result[f"enc_lr_schedule/pretrain{frozen}"] = torch.tensor(rates, dtype=torch.float64)
    return result
