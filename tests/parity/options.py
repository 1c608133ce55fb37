"""Configuration of the run that a parity folder records, from its ``config.json`` alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from pydantic import ValidationError
from torch import nn

from prelar_ray.config import (
    BehaviourConfig,
    BonusConfig,
    ConvConfig,
    FinetuneConfig,
    HeadConfig,
    LearnerConfig,
    LossConfig,
    MLPConfig,
    OptimizerConfig,
    PretrainConfig,
    RSSMConfig,
    RunConfig,
    WorldModelConfig,
)
from prelar_ray.models.resnet import residual_encoder_size
from prelar_ray.types import IMAGE_SIZE
from tests.parity.folder import ParityError, ParityFolder

# Published options without a setting here, with the only values that this project computes. Options that are absent
# here and below do not enter what a folder records (for example the Gaussian part of a categorical state).
_FIXED: dict[str, tuple[Any, ...]] = {
    "precision": (32,),
    "rssm.action_free": (False,),
    "rssm.ensemble": (1,),
    "rssm.act": ("elu",),
    "rssm.norm": ("none",),
    **{
        f"{part}.{option}": (value,)
        for part in ("encoder", "decoder", "vanet")
        for option, value in {"mlp_keys": "$^", "cnn_keys": "image", "act": "elu", "norm": "none"}.items()
    },
    **{f"{part}.res_norm": ("batch", "none") for part in ("encoder", "decoder", "vanet")},
    "encoder_type": ("resnet",),
    "decoder_type": ("resnet",),
    "vanet.discrete": (0,),
    "vanet.std_act": ("sigmoid2",),
    "vanet.va_method": ("concate",),
    "vanet.type_": ("stoch",),
    "action_encoder.act": ("elu",),
    "action_encoder.type_": ("deter",),
    "action_encoder.twl": (1,),
    **{f"{part}.act": ("elu",) for part in ("reward_head", "actor", "critic")},
    **{f"{part}.norm": ("none",) for part in ("reward_head", "actor", "critic")},
    "reward_head.dist": ("mse",),
    "critic.dist": ("mse",),
    "actor.dist": ("auto", "trunc_normal"),
    "kl.forward": (False,),
    "kl.free_avg": (True,),
    "rank_loss": ("sign",),
    "loss_scales.af_kl": (0.0,),
    **{f"{part}_opt.opt": ("adam",) for part in ("model", "enc_model", "actor", "critic")},
    "grad_heads": (["decoder"], ["decoder", "reward"]),
    "clip_rewards": ("identity",),
    "pred_discount": (False,),
    "finetune_rssm": (False,),
    "enc_lr_type": ("full",),
    "use_feat": (False,),
    "beta_type": ("abs",),
    "intr_reward_norm.scale": (1.0,),
    "intr_reward_norm.eps": (1e-8,),
    "intr_reward_norm.init": (1.0,),
    "reward_norm.scale": (1.0,),
    "reward_norm.eps": (1e-8,),
    "imag_batch": (-1,),
    "actor_grad": ("auto", "dynamics"),
    "slow_target": (True,),
    "slow_target_fraction": (1,),
    "expl_behavior": ("greedy",),
    "expl_noise": (0.0,),
    "eval_noise": (0.0,),
    "eval_state_mean": (False,),
}


def run_config(folder: ParityFolder, phase: str) -> RunConfig:
    """The configuration under which the folder's ``pretrain`` or ``finetune`` arrays were recorded.

    Raises:
        ParityError: names the option that is missing, not supported by this project, or contradicts another.
    """
    options = folder.options[phase]
    for key, allowed in _FIXED.items():
        if key in options and options[key] not in allowed:
            supported = " or ".join(map(repr, allowed))
            raise ParityError(f"config.json: {phase}: {key}={options[key]!r} is not supported, only {supported}")
    try:
        config = (_pretrain if phase == "pretrain" else _finetune)(folder)
    except ValidationError as error:
        mistake = error.errors()[0]
        place = ".".join(map(str, mistake["loc"])) or error.title
        raise ParityError(f"config.json: {phase}: not supported: {place}: {mistake['msg']}") from error
    _check_derived(folder, phase, config)
    return config


def _pretrain(folder: ParityFolder) -> RunConfig:
    options = folder.options["pretrain"]
    return RunConfig(
        device=cast(Literal["cpu", "cuda"], torch.get_default_device().type),
        compile=False,
        learner=LearnerConfig(graph="never"),
        precision="float32",
        threads=1,
        world_model=WorldModelConfig(
            **_shared(options),
            latent_action=options["vanet.stoch"],
            inverse_dynamics=_conv(options, "vanet"),
            inverse_dynamics_head=HeadConfig(hidden=options["vanet.hidden_dim"]),
        ),
        loss=_loss(options),
        pretrain=PretrainConfig(
            batch_size=folder.options["batch"],
            segment_length=folder.options["length"],
            optimizer=_optimizer(options, "model_opt"),
        ),
    )


def _finetune(folder: ParityFolder) -> RunConfig:
    options = folder.options["finetune"]
    if not options["beta"] > 0:
        raise ParityError(f"config.json: finetune: beta={options['beta']} is not supported, only positive values")
    return RunConfig(
        device=cast(Literal["cpu", "cuda"], torch.get_default_device().type),
        compile=False,
        learner=LearnerConfig(graph="never"),
        precision="float32",
        threads=1,
        world_model=WorldModelConfig(
            **_shared(options),
            latent_action=options["action_encoder.deter"],
            action_encoder=HeadConfig(hidden=options["action_encoder.hidden_dim"]),
            reward_head=_mlp(options, "reward_head"),
        ),
        loss=_loss(options),
        behaviour=BehaviourConfig(
            horizon=options["imag_horizon"],
            discount=options["discount"],
            return_lambda=options["discount_lambda"],
            reward_momentum=options["reward_norm.momentum"],
            entropy_weight=options["actor_ent"],
            critic_target="published",
            slow_critic_every=options["slow_target_update"],
            actor=_mlp(options, "actor"),
            actor_min_std=options["actor.min_std"],
            critic=_mlp(options, "critic"),
            actor_optimizer=_optimizer(options, "actor_opt"),
            critic_optimizer=_optimizer(options, "critic_opt"),
        ),
        finetune=FinetuneConfig(
            batch_size=folder.options["batch"],
            segment_length=folder.options["length"],
            initial_updates=0,  # enc_lr_type "full"
            dynamics_optimizer=_optimizer(options, "enc_model_opt"),
            optimizer=_optimizer(options, "model_opt"),
            bonus=BonusConfig(
                weight=options["beta"],
                window=options["intr_seq_length"],
                projection=options["queue_dim"],
                queue=options["queue_size"],
                neighbours=options["k"],
                momentum=options["intr_reward_norm.momentum"],
            ),
        ),
    )


def _shared(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "encoder": _conv(options, "encoder"),
        "decoder": _conv(options, "decoder"),
        "rssm": RSSMConfig(
            deter=options["rssm.deter"],
            hidden=options["rssm.hidden"],
            stoch=options["rssm.stoch"],
            classes=options["rssm.discrete"],
        ),
    }


def _loss(options: Mapping[str, Any]) -> LossConfig:
    return LossConfig(
        image_weight=_scale(options, "image"),
        reward_weight=_scale(options, "reward"),
        aux_reward_weight=_scale(options, "aux_reward"),
        dynamics_kl_weight=_scale(options, "kl"),
        kl_balance=options["kl.balance"],
        free_nats=options["kl.free"],
        action_kl_weight=_scale(options, "va_kl"),
        action_prior_std=2 / (1 + math.exp(-0.5)),  # a standard deviation of 1 passed through 2 * sigmoid(x / 2)
        consistency_weight=_scale(options, "rank"),
        consistency_gradient="published",
    )


def _scale(options: Mapping[str, Any], term: str) -> float:
    """Weight of a loss term; the published code counts a term without one as 1."""
    weight: float = options.get(f"loss_scales.{term}", 1.0)
    return weight


def _conv(options: Mapping[str, Any], name: str) -> ConvConfig:
    return ConvConfig(
        depth=options[f"{name}.cnn_depth"],
        stacks=options[f"{name}.res_depth"],
        layers=options[f"{name}.res_layers"],
        norm=options[f"{name}.res_norm"],
    )


def _mlp(options: Mapping[str, Any], name: str) -> MLPConfig:
    return MLPConfig(layers=options[f"{name}.layers"], units=options[f"{name}.units"])


def _optimizer(options: Mapping[str, Any], name: str) -> OptimizerConfig:
    return OptimizerConfig(
        learning_rate=options[f"{name}.lr"],
        eps=options[f"{name}.eps"],
        weight_decay=options[f"{name}.wd"],
        clip_norm=options[f"{name}.clip"],
    )


def _check_derived(folder: ParityFolder, phase: str, config: RunConfig) -> None:
    """Sizes that config.json states although they follow from others."""
    model, norm = config.world_model, nn.BatchNorm2d(1)
    feature = model.rssm.stoch * model.rssm.classes + model.rssm.deter
    follows = {
        f"{phase}: rssm.embed_dim": residual_encoder_size(model.encoder),
        **{f"{phase}: {part}.input_dim": feature for part in ("reward_head", "actor", "critic")},
        f"{phase}: decoder.cnn_input_dim": feature,
        "feat_dim": feature,
        "embed_dim": residual_encoder_size(model.encoder),
        "action_repr_dim": model.latent_action,
        "image": [3, IMAGE_SIZE, IMAGE_SIZE],
        "e2e_batch_norm": {"eps": norm.eps, "momentum": norm.momentum},
    }
    stated = folder.options | {f"{phase}: {key}": value for key, value in folder.options[phase].items()}
    for key, value in follows.items():
        if key in stated and stated[key] != value:
            raise ParityError(f"config.json: {key}={stated[key]} is not supported: the other options give {value}")
