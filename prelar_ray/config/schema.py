"""The typed tree of a whole run: one frozen model per component, a sentence and a unit per field.

Defaults are the ``paper`` preset (PreLAR, Table 1 and the published code's network sizes).
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, WithJsonSchema, model_validator

__all__ = [
    "BehaviourConfig",
    "BonusConfig",
    "CheckpointConfig",
    "CollectConfig",
    "Component",
    "ConvConfig",
    "EnvConfig",
    "EvaluationConfig",
    "FinetuneConfig",
    "HeadConfig",
    "LearnerConfig",
    "LossConfig",
    "MLPConfig",
    "OptimizerConfig",
    "PretrainConfig",
    "RLlibConfig",
    "RSSMConfig",
    "RecordConfig",
    "ReplayConfig",
    "RunConfig",
    "TelemetryConfig",
    "VideoConfig",
    "WorldModelConfig",
]

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


def _as_json(value: Any) -> Any:
    """Return nested sequences as lists: YAML is read with tuples, JSON with lists, and both mean the same.

    Raises:
        ValueError: a number that JSON does not know.
    """
    if isinstance(value, dict):
        return {key: _as_json(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value:g} is not finite; write a large number")
    return [_as_json(inner) for inner in value] if isinstance(value, list | tuple) else value


Settings = Annotated[dict[str, JsonValue], BeforeValidator(_as_json), WithJsonSchema({"type": "object"})]
"""Settings of somebody else's, by names that are checked where they are used."""

RLLIB = "rllib/"
"""What the names of methods begin with that are algorithms of Ray RLlib."""


class Component(BaseModel):
    """Base of all parts: frozen, no unknown keys, every field documented by the text below it."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)


class ConvConfig(Component):
    """A residual convolutional network between 64x64 images and vectors."""

    depth: PositiveInt = 48
    """Channels of the stack at 32x32; doubles with each further stack."""
    stacks: Annotated[int, Field(ge=1, le=4)] = 3
    """Residual stacks, each with one halving (encoder) or doubling (decoder) of the size."""
    layers: PositiveInt = 2
    """Residual layers per stack."""
    norm: Literal["batch", "none"] = "batch"
    """Normalisation inside residual layers: batch statistics while the world model trains, or none."""


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
    """Image encoder, image to embedding (E = depth * 2^(stacks-1) * 16 at three stacks)."""
    decoder: ConvConfig = ConvConfig()
    """Image decoder, feature to image."""
    rssm: RSSMConfig = RSSMConfig()
    """Latent dynamics."""
    dynamics: Literal["single", "stacked"] = "single"
    """Fine-tuning: go on with the pre-trained RSSM, or stack one with actions on top of it (APV)."""
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
    """What the inverse dynamics encoder sees: two frames concatenated by channel, or subtracted."""
    action_input: Literal["encoder", "padded", "raw"] = "encoder"
    """Fine-tuning: actions through the action encoder, padded with zeros to latent_action, or as they are."""
    inverse_dynamics: ConvConfig = ConvConfig()
    """Convolutions of the inverse dynamics encoder, frame pair to latent action."""
    inverse_dynamics_head: HeadConfig = HeadConfig()
    """Head of the inverse dynamics encoder."""
    action_encoder: HeadConfig = HeadConfig()
    """Action encoder, real action to latent action (fine-tuning)."""
    reward_head: MLPConfig = MLPConfig()
    """Reward and auxiliary reward heads."""


class LossConfig(Component):
    """World-model losses, Eq. (10), (14), (15)."""

    image_weight: NonNegativeFloat = 1.0
    """Weight of the image log-likelihood."""
    reward_weight: NonNegativeFloat = 1.0
    """Weight of the log-likelihood of reward plus bonus (fine-tuning)."""
    aux_reward_weight: NonNegativeFloat = 1.0
    """Weight of the log-likelihood of the plain reward (fine-tuning); 0 leaves its head out."""
    dynamics_kl_weight: NonNegativeFloat = 1.0
    """Weight beta of the dynamics KL."""
    kl_balance: Fraction = 0.8
    """Share of the dynamics KL that trains the prior; the rest trains the posterior."""
    free_nats: NonNegativeFloat = 0.0
    """Floor of the mean dynamics KL, nats."""
    action_kl_weight: NonNegativeFloat = 1.0
    """Weight beta_a of the latent-action KL (pre-training)."""
    action_prior_std: PositiveFloat = 1.0
    """Standard deviation of the latent action's prior; the published code computes with 1.2449."""
    consistency_weight: NonNegativeFloat = 1.0
    """Weight beta_r of the action-state consistency loss (pre-training)."""
    consistency_gradient: Literal["straight_through", "soft", "published"] = "straight_through"
    """Gradient of the consistency loss: smooth behind the published value, smooth both ways, or the published zero."""


class OptimizerConfig(Component):
    """Adam with coupled L2 and clipping on the global norm."""

    learning_rate: PositiveFloat = 3e-4
    """Step size."""
    eps: PositiveFloat = 1e-5
    """Adam's epsilon."""
    weight_decay: NonNegativeFloat = 1e-6
    """L2 coefficient, added to the gradient after clipping."""
    clip_norm: PositiveFloat = 100.0
    """Largest global gradient norm."""


class PretrainConfig(Component):
    """Pre-training on action-free videos."""

    updates: PositiveInt = 600_000
    """Training length, updates."""
    batch_size: Annotated[int, Field(ge=2)] = 16
    """Segments B per update; at least 2, for the consistency loss compares rows."""
    segment_length: Annotated[int, Field(ge=2)] = 25
    """Frames T per segment."""
    validation_share: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.05
    """Share of the episodes that training never sees and diagnostics use; 0 keeps none, then clips of any are used."""
    validation_every_updates: PositiveInt = 1_000
    """Updates between diagnostics on fixed clips of held-out episodes, one batch; each costs about an update or two."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimiser of all pre-training parameters."""


class BonusConfig(Component):
    """Video-based intrinsic bonus of APV."""

    input: Literal["embedding", "feature"] = "embedding"
    """What novelty is measured on: the image encoder's embedding, or the feature of the pre-trained RSSM (APV)."""
    weight: NonNegativeFloat = 1.0
    """Weight beta_int of the bonus in the reward that imagination uses; 0 switches it off."""
    window: PositiveInt = 5
    """Consecutive steps whose embeddings are averaged."""
    projection: PositiveInt = 128
    """Size of the fixed random projection."""
    queue: PositiveInt = 4096
    """Projections kept, first in first out."""
    neighbours: PositiveInt = 16
    """Nearest neighbours whose mean distance is the bonus."""
    momentum: Fraction = 0.99
    """Momentum of the running magnitude that normalises the bonus."""


class FinetuneConfig(Component):
    """Fine-tuning with environment interaction."""

    env_steps: PositiveInt = 250_000
    """Training length, environment steps (action repeat counted)."""
    random_steps: PositiveInt = 5_000
    """Environment steps with uniformly random actions before the first update."""
    env_steps_per_update: PositiveInt = 5
    """Replay ratio: environment steps per update after the random phase."""
    initial_updates: NonNegativeInt = 100
    """Updates on the random data before the policy acts."""
    freeze_pretrained: bool = True
    """Keep encoder and pre-trained RSSM as they are during the initial updates."""
    batch_size: PositiveInt = 50
    """Segments B per update."""
    segment_length: Annotated[int, Field(ge=2)] = 50
    """Steps T per segment."""
    dynamics_optimizer: OptimizerConfig = OptimizerConfig()
    """Optimiser of encoder and pre-trained RSSM."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimiser of everything else in the world model."""
    bonus: BonusConfig = BonusConfig()
    """Intrinsic bonus."""


class LearnerConfig(Component):
    """Learners that share every update."""

    cpus: NonNegativeFloat = 0.0
    """Logical CPUs of a rank on Ray; 0 takes one, or its share of a smaller cluster."""
    gpus: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    """GPUs of a rank on Ray, a fraction where runs share one; 0 takes a whole one where there are any."""
    ranks: PositiveInt = 1
    """Learner processes, each with an equal share of every batch and, where there are GPUs, a GPU of its own."""
    norm_statistics: Literal["local", "synchronised"] = "local"
    """Batch norm over a rank's own rows, or over those of all ranks, as one learner would (an exchange per layer)."""


class BehaviourConfig(Component):
    """Actor-critic learning in imagination, Eq. (1)-(4), (16), (17)."""

    horizon: Annotated[int, Field(ge=2)] = 15
    """Imagined steps H."""
    discount: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Discount gamma per step."""
    return_lambda: Fraction = 0.95
    """Lambda of the lambda-return."""
    reward_momentum: Fraction = 1.0
    """Momentum of the running magnitude that divides imagined rewards; 1 leaves them as they are."""
    entropy_weight: NonNegativeFloat = 1e-4
    """Weight eta of the policy entropy."""
    critic_target: Literal["paper", "published"] = "paper"
    """Critic's target: the lambda-return, or the published code's lambda-return with the entropy bonus added."""
    slow_critic_every: PositiveInt = 100
    """Updates between hard copies of the critic into the slow critic."""
    actor: MLPConfig = MLPConfig()
    """Actor network."""
    actor_min_std: PositiveFloat = 0.1
    """Smallest standard deviation of the policy before truncation."""
    critic: MLPConfig = MLPConfig()
    """Critic network."""
    actor_optimizer: OptimizerConfig = OptimizerConfig(learning_rate=8e-5)
    """Optimiser of the actor."""
    critic_optimizer: OptimizerConfig = OptimizerConfig(learning_rate=8e-5)
    """Optimiser of the critic."""


class EnvConfig(Component):
    """The environment."""

    task: str = "metaworld/reach-v3"
    """Environment id: metaworld/TASK, dmc/DOMAIN-TASK or prelar/point-reach."""
    action_repeat: PositiveInt = 1
    """Environment steps per action."""
    camera: str = "default"
    """Camera by name or number; default is the published one: corner in Meta-World, 0 in DeepMind Control."""
    render_quality: Literal["full", "reduced", "fast"] = "full"
    """Rendering: full (the simulator's default), reduced (small shadow map), fast (no shadows, no multisampling)."""
    timeout: PositiveFloat = 60.0
    """Seconds after which a step, reset or making that does not return is a failure; the environment is made anew."""


class RecordConfig(Component):
    """Recording of videos without actions."""

    tasks: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "metaworld/drawer-close-v3",
        "metaworld/push-v3",
        "metaworld/window-open-v3",
        "metaworld/faucet-open-v3",
    )
    """Environment ids to record."""
    policy: Literal["expert", "random", "mixed"] = "expert"
    """Who acts: the scripted expert, uniform random actions, or both in turn."""
    noise: Fraction = 0.1
    """Share of the action range added to an expert's action as Gaussian noise."""
    episodes_per_task: PositiveInt = 50
    """Episodes per task."""
    frames_per_episode: Annotated[int, Field(ge=2)] = 200
    """Longest episode, frames."""
    shard_frames: PositiveInt = 10_000
    """Frames per shard; a shard is closed with the episode that reaches it."""


class VideoConfig(Component):
    """Reading of video stores for pre-training."""

    path: str = ""
    """Folder of the video store; `record` writes one."""
    verify: bool = True
    """Check every shard's checksum before training."""
    skip_bad: bool = False
    """Leave damaged shards out with a warning instead of stopping."""


class ReplayConfig(Component):
    """Shared replay buffer."""

    capacity_steps: PositiveInt = 1_000_000
    """Steps kept, in all shards; the oldest episodes leave first. One step takes 12 288 bytes and a few."""
    shards: PositiveInt = 1
    """Processes, on as many nodes as have room, that hold an equal share of the episodes each."""
    tolerance_updates: PositiveInt = 64
    """Asynchronous mode: updates by which learning may lag behind collecting before collecting pauses."""
    prefetch: PositiveInt = 2
    """Asynchronous mode: batches on their way to the learner while it is busy."""


class CollectConfig(Component):
    """Collection of experience."""

    collectors: PositiveInt = 1
    """Collector processes."""
    envs_per_collector: PositiveInt = 1
    """Environments per collector; policy inference is batched over them."""
    cpus: NonNegativeFloat = 0.0
    """Logical CPUs of a collector on Ray; 0 takes one, or its share of a smaller cluster."""
    gpus: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    """Share of a GPU that a collector's policy acts on, on Ray; 0 acts on the CPU."""
    synchronous: bool = False
    """Take turns: collect, then learn, with the replay ratio kept exactly."""
    request_steps: PositiveInt = 50
    """Agent steps per environment in one request to a collector (synchronous mode takes as many as one update owes)."""
    timeout: PositiveFloat = 300.0
    """Seconds after which a collector that does not answer at all is replaced by another, on Ray."""
    expl_noise: NonNegativeFloat = 0.0
    """Standard deviation of Gaussian noise added to training actions."""
    publish_every_updates: PositiveInt = 10
    """Asynchronous mode: updates between publications of new weights (synchronous mode publishes every turn)."""
    max_age_updates: PositiveInt = 200
    """Asynchronous mode: the learner waits for a collector that acts with weights older than this, updates."""


class EvaluationConfig(Component):
    """Evaluation of the policy."""

    episodes: PositiveInt = 10
    """Episodes per evaluation."""
    every_env_steps: PositiveInt = 10_000
    """Environment steps between evaluations."""
    envs: PositiveInt = 1
    """Environments stepped together during evaluation."""
    timeout: PositiveFloat = 3_600.0
    """Seconds after which an evaluation is left out and the evaluator replaced by another, on Ray."""


class RLlibConfig(Component):
    """A baseline: an algorithm of Ray RLlib, chosen by `method: rllib/NAME`."""

    training: Settings = {}
    """Keywords of the algorithm's `AlgorithmConfig.training()`; those left out have RLlib's defaults."""
    model: Settings = {}
    """Fields of RLlib's `DefaultModelConfig`: networks of algorithms that bring none of their own."""
    env_runners: NonNegativeInt = 0
    """Processes that step `collect.envs_per_collector` environments each; 0 steps them in the algorithm's own."""
    reward_scale: PositiveFloat = 1.0
    """Factor of the rewards that the algorithm learns from; returns are told without it."""


class CheckpointConfig(Component):
    """Checkpoints."""

    every_updates: PositiveInt = 1_000
    """Updates between checkpoints."""
    keep_last: Annotated[int, Field(ge=1)] = 3
    """Newest checkpoints kept; the best by evaluation return stays beside them."""
    mirror: str = ""
    """Address, of any kind that pyarrow.fs knows (s3://bucket/runs), below which a copy of the run folder is kept."""


class TelemetryConfig(Component):
    """Logging."""

    every_updates: PositiveInt = 50
    """Updates between log lines; metrics leave the device then."""


class RunConfig(Component):
    """A whole run."""

    method: str = "prelar"
    """Name of the method, a choice of parts; see `prelar_ray/config/methods`. It labels runs in reports."""
    seed: NonNegativeInt = 0
    """Seed from which every role derives its own."""
    cluster: str = "auto"
    """Where roles run: none (one process), auto (a Ray on this machine), or the address of a Ray cluster."""
    dashboard: bool = True
    """Start Ray's dashboard with cluster=auto."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the learner; auto takes a GPU where one is."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the learner's networks; auto: bfloat16 where the hardware multiplies it, else float32."""
    compile: bool = False
    """Run the learner's networks through torch.compile: minutes at the first update, faster after it."""
    threads: NonNegativeInt = 0
    """CPU threads of the learner; 0 takes all cores, on Ray those that the collectors leave free."""
    world_model: WorldModelConfig = WorldModelConfig()
    """Networks."""
    loss: LossConfig = LossConfig()
    """World-model losses."""
    behaviour: BehaviourConfig = BehaviourConfig()
    """Actor-critic."""
    pretrain: PretrainConfig = PretrainConfig()
    """Pre-training."""
    finetune: FinetuneConfig = FinetuneConfig()
    """Fine-tuning."""
    learner: LearnerConfig = LearnerConfig()
    """Learners that share updates."""
    env: EnvConfig = EnvConfig()
    """Environment."""
    record: RecordConfig = RecordConfig()
    """Recording."""
    video: VideoConfig = VideoConfig()
    """Video stores."""
    replay: ReplayConfig = ReplayConfig()
    """Replay buffer."""
    collect: CollectConfig = CollectConfig()
    """Collectors."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Evaluation."""
    rllib: RLlibConfig = RLlibConfig()
    """Baselines of Ray RLlib."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Checkpoints."""
    telemetry: TelemetryConfig = TelemetryConfig()
    """Logging."""

    @property
    def algorithm(self) -> str:
        """Name of the RLlib algorithm that the method is; empty for the methods of this package."""
        return self.method.removeprefix(RLLIB) if self.method.startswith(RLLIB) else ""

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        self._consistent_parts()
        tune, bonus = self.finetune, self.finetune.bonus
        if bonus.window > tune.segment_length:
            raise ValueError(
                f"finetune.bonus.window={bonus.window} is longer than finetune.segment_length={tune.segment_length}; "
                "shorten the window or lengthen the segment"
            )
        if bonus.neighbours > bonus.queue:
            raise ValueError(
                f"finetune.bonus.neighbours={bonus.neighbours} exceeds finetune.bonus.queue={bonus.queue}; "
                "use a longer queue"
            )
        if tune.random_steps > tune.env_steps:
            raise ValueError(
                f"finetune.random_steps={tune.random_steps} exceeds finetune.env_steps={tune.env_steps}; "
                "nothing would be left for the policy"
            )
        if self.replay.capacity_steps < tune.random_steps:
            raise ValueError(
                f"replay.capacity_steps={self.replay.capacity_steps} is below "
                f"finetune.random_steps={tune.random_steps}; the random phase would not fit"
            )
        ranks = self.learner.ranks
        for phase, rows in (("pretrain", self.pretrain.batch_size), ("finetune", tune.batch_size)):
            if rows % ranks:
                above = rows - rows % ranks + ranks
                raise ValueError(
                    f"{phase}.batch_size={rows} is not a multiple of learner.ranks={ranks}, and each rank takes an "
                    f"equal share; use {max(above - ranks, ranks)} or {above}"
                )
        if self.pretrain.batch_size < 2 * ranks:
            raise ValueError(
                f"learner.ranks={ranks}: pretrain.batch_size={self.pretrain.batch_size} leaves a rank one segment, and "
                "the consistency loss swaps latent actions between two; use fewer ranks or a larger batch"
            )
        if ranks > 1 and self.cluster == "none":
            raise ValueError(f"learner.ranks={ranks}: ranks are processes of a Ray cluster; use cluster=auto")
        if self.algorithm and ranks > 1:
            raise ValueError(f"learner.ranks={ranks}: {self.algorithm} of RLlib learns in one process; set it to 1")
        if self.algorithm and self.cluster == "none":
            raise ValueError(f"cluster=none: {self.algorithm} of RLlib needs Ray; use cluster=auto")
        if self.collect.max_age_updates < self.collect.publish_every_updates:
            raise ValueError(
                f"collect.max_age_updates={self.collect.max_age_updates} is below "
                f"collect.publish_every_updates={self.collect.publish_every_updates}; weights would be too old before "
                "the next are published"
            )
        if tune.env_steps_per_update % self.env.action_repeat:
            raise ValueError(
                f"finetune.env_steps_per_update={tune.env_steps_per_update} is not a multiple of "
                f"env.action_repeat={self.env.action_repeat}; the replay ratio could not be kept exactly"
            )
        return self

    def _consistent_parts(self) -> None:
        model, loss = self.world_model, self.loss
        inferred = model.latent_action_source == "inverse_dynamics"
        distribution = model.latent_action_distribution
        if inferred and distribution == "categorical" and model.latent_action % model.latent_action_classes:
            raise ValueError(
                f"world_model.latent_action={model.latent_action} is not a multiple of "
                f"world_model.latent_action_classes={model.latent_action_classes}"
            )
        if inferred and distribution == "deterministic" and loss.action_kl_weight:
            raise ValueError(
                f"loss.action_kl_weight={loss.action_kl_weight:g}: a deterministic latent action has no KL; "
                "set it to 0, or choose another world_model.latent_action_distribution"
            )
        if model.dynamics == "stacked" and model.latent_action_source != "zeros":
            raise ValueError(
                "world_model.dynamics=stacked stands on an action-free RSSM; set world_model.latent_action_source=zeros"
            )
        smallest = model.decoder.depth * (2 if model.decoder.stacks > 1 else 1)
        if model.context.enabled and smallest % model.context.heads:
            raise ValueError(
                f"world_model.context.heads={model.context.heads} does not divide the decoder's channels, multiples of "
                f"{smallest}; change it or world_model.decoder.depth"
            )
        if model.context.enabled and model.decoder != model.encoder:
            raise ValueError(
                "world_model.context.enabled=true: the decoder attends to feature maps of the encoder's sizes; "
                "make world_model.decoder equal to world_model.encoder"
            )
