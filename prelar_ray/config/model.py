"""Settings of the networks and of the world model's losses.

The defaults of all sections are the ``paper`` preset: PreLAR, Table 1 and the published code's network sizes.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from prelar_ray.config.component import (
    Component,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

__all__ = [
    "ContextConfig",
    "ConvConfig",
    "HeadConfig",
    "LossConfig",
    "MLPConfig",
    "RSSMConfig",
    "ScalarDistribution",
    "WorldModelConfig",
]

ScalarDistribution = Literal["gaussian", "two_hot"]


class ConvConfig(Component):
    """A residual convolutional network between images and vectors.

    At 128x128 (env.image_size) it has one stack more than ``stacks``, at 32x32 one less: its smallest feature maps stay
    as small.
    """

    depth: PositiveInt = 48
    """Channels of the stack at half the size of images; doubles with each further stack."""
    stacks: Annotated[int, Field(ge=1, le=4)] = 3
    """Residual stacks, each with one halving (encoder) or doubling (decoder) of the size; 128x128 has one more."""
    layers: PositiveInt = 2
    """Residual layers per stack."""
    norm: Literal["batch", "layer", "none"] = "batch"
    """Normalisation in residual layers: over the batch while the world model trains, channels per position, or none."""


class MLPConfig(Component):
    """Fully connected layers with ELU."""

    layers: PositiveInt = 4
    """Hidden layers."""
    units: PositiveInt = 400
    """Units per hidden layer."""


class RSSMConfig(Component):
    """Recurrent state-space model."""

    deter: PositiveInt = 1024
    """Deterministic state D, units of the GRU."""
    hidden: PositiveInt = 1024
    """Units of the input, prior and posterior layers."""
    stoch: PositiveInt = 32
    """Stochastic groups S."""
    classes: Annotated[int, Field(ge=2)] = 32
    """Classes K per stochastic group."""
    uniform_mix: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    """Share of the uniform distribution that is mixed into prior and posterior; 0 mixes none, 0.01 as DreamerV3."""


class HeadConfig(Component):
    """A layer of hidden units before a linear output, as in the inverse dynamics and action encoders."""

    hidden: PositiveInt = 1024
    """Units of the hidden layer."""


class ContextConfig(Component):
    """Context branch of ContextWM: the decoder attends to one frame of the sequence."""

    enabled: bool = False
    """Build the branch."""
    mask: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.75
    """Share of the context's positions that each decoded frame may not attend to."""
    heads: PositiveInt = 4
    """Attention heads; divides the decoder's channels."""
    dropout: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.1
    """Dropout of attention weights and of what they find."""


class WorldModelConfig(Component):
    """Networks of the world model; which of them a method uses is chosen here."""

    encoder: ConvConfig = ConvConfig()
    """Image encoder, image to embedding (E = depth * 2^(stacks-1) * 16 at three stacks, at 64x64)."""
    decoder: ConvConfig = ConvConfig()
    """Image decoder, feature to image."""
    rssm: RSSMConfig = RSSMConfig()
    """Latent dynamics."""
    dynamics: Literal["single", "stacked"] = "single"
    """Fine-tuning: continue with the pre-trained RSSM, or stack one with actions on top of it (APV)."""
    context: ContextConfig = ContextConfig()
    """Context branch of the decoder (ContextWM)."""
    latent_action: PositiveInt = 64
    """Size L of the action representation."""
    latent_action_source: Literal["inverse_dynamics", "zeros", "none"] = "inverse_dynamics"
    """Pre-training: latent actions inferred from frames, or zeros (action-free); none for methods without."""
    latent_action_distribution: Literal["gaussian", "deterministic", "categorical"] = "gaussian"
    """What the inverse dynamics encoder infers."""
    latent_action_classes: Annotated[int, Field(ge=2)] = 8
    """Classes per group of a categorical latent action; divides latent_action."""
    inverse_dynamics_input: Literal["pair", "difference"] = "pair"
    """What the inverse dynamics encoder sees, concatenated by channel: its frames, or each less the one before."""
    inverse_dynamics_frames: Annotated[int, Field(ge=2)] = 2
    """Frames n that the inverse dynamics encoder sees, up to the one that the latent action leads to."""
    inverse_dynamics_pooling: Literal["none", "sum"] = "none"
    """Its last feature map as it is, or what it has beyond that of a still picture, summed: what moved, not where."""
    action_input: Literal["encoder", "padded", "raw"] = "encoder"
    """Fine-tuning: actions through the action encoder, padded with zeros to latent_action, or as they are."""
    inverse_dynamics: ConvConfig = ConvConfig()
    """Convolutions of the inverse dynamics encoder, frame pair to latent action."""
    inverse_dynamics_head: HeadConfig = HeadConfig()
    """Head of the inverse dynamics encoder."""
    action_encoder: HeadConfig = HeadConfig()
    """Action encoder, real action to latent action, and its mirror, the action decoder (fine-tuning)."""
    reward_head: MLPConfig = MLPConfig()
    """Reward and auxiliary reward heads."""
    vector: MLPConfig = MLPConfig(layers=2, units=128)
    """Encoder of the vector, and the head that predicts it (fine-tuning with env.vector_key)."""
    reward_distribution: ScalarDistribution = "gaussian"
    """What the reward heads predict: the mean of a unit Gaussian, or 255 bins in symlog space (two-hot)."""

    @model_validator(mode="after")
    def _latent_action_splits_into_groups(self) -> WorldModelConfig:
        inferred = self.latent_action_source == "inverse_dynamics"
        categorical = inferred and self.latent_action_distribution == "categorical"
        if categorical and self.latent_action % self.latent_action_classes:
            raise ValueError(
                f"world_model.latent_action={self.latent_action} is not a multiple of "
                f"world_model.latent_action_classes={self.latent_action_classes}"
            )
        return self

    @model_validator(mode="after")
    def _a_still_picture_is_known(self) -> WorldModelConfig:
        if self.inverse_dynamics_pooling == "sum" and self.inverse_dynamics_input != "difference":
            raise ValueError(
                "world_model.inverse_dynamics_pooling=sum takes away the features of a still picture, which is known "
                "where frames are subtracted; set world_model.inverse_dynamics_input=difference"
            )
        return self

    @model_validator(mode="after")
    def _stacked_rssm_stands_on_an_action_free_one(self) -> WorldModelConfig:
        if self.dynamics == "stacked" and self.latent_action_source != "zeros":
            raise ValueError(
                "world_model.dynamics=stacked stands on an action-free RSSM; set world_model.latent_action_source=zeros"
            )
        return self

    @model_validator(mode="after")
    def _context_fits_the_decoder(self) -> WorldModelConfig:
        smallest = self.decoder.depth * (2 if self.decoder.stacks > 1 else 1)
        if self.context.enabled and smallest % self.context.heads:
            raise ValueError(
                f"world_model.context.heads={self.context.heads} does not divide the decoder's channels, multiples of "
                f"{smallest}; change it or world_model.decoder.depth"
            )
        if self.context.enabled and self.decoder != self.encoder:
            raise ValueError(
                "world_model.context.enabled=true: the decoder attends to feature maps of the encoder's sizes; "
                "make world_model.decoder equal to world_model.encoder"
            )
        return self


class LossConfig(Component):
    """World-model losses, Eq. (10), (14), (15)."""

    balance: Literal["none", "learnt"] = "none"
    """Factor on top of the weights of image, reward and dynamics losses: none, or learnt for each (HarmonyDream)."""
    image_weight: NonNegativeFloat = 1.0
    """Weight of the image log-likelihood."""
    reward_weight: NonNegativeFloat = 1.0
    """Weight of the log-likelihood of reward plus bonus (fine-tuning)."""
    aux_reward_weight: NonNegativeFloat = 1.0
    """Weight of the log-likelihood of the plain reward (fine-tuning); 0 leaves its head out."""
    discount_weight: PositiveFloat = 1.0
    """Weight of the log-likelihood of continuing (fine-tuning, with the head of behaviour.discount_head)."""
    vector_weight: NonNegativeFloat = 1.0
    """Weight of the log-likelihood of the vector (fine-tuning with env.vector_key)."""
    dynamics_kl_weight: NonNegativeFloat = 1.0
    """Weight beta of the dynamics KL."""
    kl_balance: Fraction = 0.8
    """Share of the dynamics KL that trains the prior; the rest trains the posterior."""
    free_nats: NonNegativeFloat = 0.0
    """Floor of the mean dynamics KL, nats."""
    action_kl_weight: NonNegativeFloat = 1.0
    """Weight beta_a of the latent-action KL (pre-training, rehearsal)."""
    action_kl_warmup_updates: NonNegativeInt = 0
    """Updates in which beta_a rises linearly from 0 to its value; 0 uses it from the start."""
    action_free_nats: NonNegativeFloat = 0.0
    """Floor of the mean latent-action KL, nats per pair of frames: below it the latent action costs nothing."""
    action_capacity: NonNegativeFloat = 0.0
    """Nats per pair of frames that the mean latent-action KL is drawn to, from above and below; 0 is off."""
    action_prior_std: PositiveFloat = 1.0
    """Standard deviation of the latent action's prior; the published code computes with 1.2449."""
    consistency_weight: NonNegativeFloat = 1.0
    """Weight beta_r of the action-state consistency loss (pre-training, rehearsal)."""
    consistency_gradient: Literal["straight_through", "soft", "published"] = "straight_through"
    """Gradient of the consistency loss: smooth behind the published value, smooth both ways, or the published zero."""
    tie_weight: NonNegativeFloat = 0.0
    """Weight of the tie of the action encoder to the latent action inferred from frames (fine-tuning); 0: no tie."""
    tie_gradient: Literal["action_encoder", "both"] = "action_encoder"
    """What the tie trains: the action encoder alone, or the inverse dynamics encoder too."""
    action_decoder_weight: NonNegativeFloat = 0.0
    """Weight of the real action decoded from the inferred latent action (fine-tuning); 0 leaves the decoder out."""

    @model_validator(mode="after")
    def _action_kl_has_one_bound(self) -> LossConfig:
        if self.action_free_nats and self.action_capacity:
            raise ValueError(
                f"loss.action_free_nats={self.action_free_nats:g} and loss.action_capacity={self.action_capacity:g} "
                "both say how many nats the latent action may have; set one of them to 0"
            )
        return self
