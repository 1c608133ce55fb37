"""Settings of learning: both phases, what they collect and replay, and the baselines of RLlib."""

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
    Settings,
)
from prelar_ray.config.model import MLPConfig, ScalarDistribution

__all__ = [
    "BehaviourConfig",
    "BonusConfig",
    "CollectConfig",
    "EvaluationConfig",
    "FinetuneConfig",
    "LearnerConfig",
    "OptimizerConfig",
    "PretrainConfig",
    "RLlibConfig",
    "RehearsalConfig",
    "ReplayConfig",
]

SLOWEST_CRITIC = 1_000
"""Updates by which a slow critic may lag behind; the published one is copied every 100."""


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


class BehaviourConfig(Component):
    """Actor-critic learning in imagination, Eq. (1)-(4), (16), (17)."""

    horizon: Annotated[int, Field(ge=2)] = 15
    """Imagined steps H."""
    discount: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Discount gamma per step."""
    discount_head: Literal["auto", "always", "never"] = "auto"
    """Multiply gamma by the learnt probability that the episode continues; auto: where the task can terminate."""
    return_lambda: Fraction = 0.95
    """Lambda of the lambda-return."""
    reward_momentum: Fraction = 1.0
    """Momentum of the running magnitude that divides imagined rewards; 1 leaves them as they are."""
    entropy_weight: NonNegativeFloat = 1e-4
    """Weight eta of the policy entropy."""
    return_normalisation: Literal["none", "percentiles"] = "none"
    """Actor's lambda-returns: as they are, or over the running range of their 5th to 95th percentile, at least 1."""
    return_momentum: Fraction = 0.99
    """Momentum of the running range of returns."""
    critic_target: Literal["paper", "published"] = "paper"
    """Critic's target: the lambda-return, or the published code's lambda-return with the entropy bonus added."""
    slow_critic_every: PositiveInt = 100
    """Updates between steps of the slow critic towards the critic."""
    slow_critic_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the way that such a step goes: 1 copies; 0.02 at every update averages over about 50 of them."""
    actor: MLPConfig = MLPConfig()
    """Actor network."""
    actor_min_std: PositiveFloat = 0.1
    """Smallest standard deviation of the policy before truncation; discrete actions have none."""
    critic: MLPConfig = MLPConfig()
    """Critic network."""
    critic_distribution: ScalarDistribution = "gaussian"
    """What the critic predicts: the mean of a unit Gaussian, or 255 bins in symlog space (two-hot)."""
    actor_optimizer: OptimizerConfig = OptimizerConfig(learning_rate=8e-5)
    """Optimiser of the actor."""
    critic_optimizer: OptimizerConfig = OptimizerConfig(learning_rate=8e-5)
    """Optimiser of the critic."""

    def learns_discount(self, terminates: bool) -> bool:
        """Whether there is a discount head, for a task whose episodes can terminate or cannot."""
        return self.discount_head == "always" or (self.discount_head == "auto" and terminates)

    @model_validator(mode="after")
    def _slow_critic_follows(self) -> BehaviourConfig:
        lag = self.slow_critic_every / self.slow_critic_fraction
        if lag > SLOWEST_CRITIC:
            raise ValueError(
                f"behaviour.slow_critic_every={self.slow_critic_every} with "
                f"behaviour.slow_critic_fraction={self.slow_critic_fraction:g} makes the slow critic lag "
                f"{lag:,.0f} updates behind the critic, so that returns hardly reach further than the horizon; "
                "a fraction goes with slow_critic_every=1"
            )
        return self


class PretrainConfig(Component):
    """Pre-training on action-free videos."""

    updates: PositiveInt = 600_000
    """Training length, updates."""
    batch_size: Annotated[int, Field(ge=2)] = 16
    """Segments B per update; at least 2, for the consistency loss compares rows."""
    segment_length: Annotated[int, Field(ge=2)] = 25
    """Frames T per segment."""
    stride: PositiveInt = 1
    """Steps k of a video between the frames of a clip, T of which span (T-1)k+1; fine-tune with env.action_repeat=k."""
    validation_share: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.05
    """Share of the episodes that training never sees and diagnostics use; 0 keeps none, then clips of any are used."""
    validation_every_updates: PositiveInt = 1_000
    """Updates between diagnostics on fixed clips of held-out episodes, one batch; each costs about an update or two."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimiser of all pre-training parameters."""

    @property
    def clip_span(self) -> int:
        """Frames of a video from the first to the last of a clip."""
        return (self.segment_length - 1) * self.stride + 1


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

    @model_validator(mode="after")
    def _queue_holds_the_neighbours(self) -> BonusConfig:
        if self.neighbours > self.queue:
            raise ValueError(
                f"finetune.bonus.neighbours={self.neighbours} exceeds finetune.bonus.queue={self.queue}; "
                "use a longer queue"
            )
        return self


class RehearsalConfig(Component):
    """Rehearsal of the pre-training videos."""

    share: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    """Share of every batch that is clips of `video.path`, rounded to whole rows; 0: segments of replay alone."""


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
    rehearsal: RehearsalConfig = RehearsalConfig()
    """Rehearsal of the pre-training videos."""

    @property
    def clip_rows(self) -> int:
        """Rows of a batch that are clips of videos."""
        return round(self.rehearsal.share * self.batch_size)

    @property
    def replay_rows(self) -> int:
        """Rows of a batch that are segments of replay."""
        return self.batch_size - self.clip_rows

    @model_validator(mode="after")
    def _a_batch_holds_both_clips_and_segments(self) -> FinetuneConfig:
        share, rows = self.rehearsal.share, self.batch_size
        if share and not 0 < self.clip_rows < rows:
            raise ValueError(
                f"finetune.rehearsal.share={share:g} makes {self.clip_rows} of finetune.batch_size={rows} rows clips, "
                "and a batch needs both clips and segments of replay; use another share or a larger batch, or 0"
            )
        return self

    @model_validator(mode="after")
    def _segment_holds_the_window(self) -> FinetuneConfig:
        if self.bonus.window > self.segment_length:
            raise ValueError(
                f"finetune.bonus.window={self.bonus.window} is longer than "
                f"finetune.segment_length={self.segment_length}; shorten the window or lengthen the segment"
            )
        return self

    @model_validator(mode="after")
    def _policy_acts_after_the_random_phase(self) -> FinetuneConfig:
        if self.random_steps > self.env_steps:
            raise ValueError(
                f"finetune.random_steps={self.random_steps} exceeds finetune.env_steps={self.env_steps}; "
                "nothing would be left for the policy"
            )
        return self


class LearnerConfig(Component):
    """Learners that share every update."""

    cpus: NonNegativeFloat = 0.0
    """Logical CPUs of a rank on Ray; 0 takes one, or its share of a smaller cluster."""
    gpus: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    """GPUs of a rank on Ray, a fraction where runs share one; 0 takes a whole one where there are any."""
    ranks: PositiveInt = 1
    """Learner processes, each with an equal share of every batch and, where there are GPUs, a GPU of its own."""
    graph: Literal["auto", "always", "never"] = "auto"
    """On a GPU, launch every update as one CUDA graph: with one rank and no loss scale (float16); with ranks too, and
    ending the run where capturing fails; or never."""
    norm_statistics: Literal["local", "synchronised"] = "local"
    """Batch norm over a rank's own rows, or over those of all ranks, as one learner would (an exchange per layer)."""


class ReplayConfig(Component):
    """Shared replay buffer."""

    capacity_steps: PositiveInt = 1_000_000
    """Steps kept, in all shards; the oldest episodes leave first. One step takes 12 288 bytes and a few."""
    shards: PositiveInt = 1
    """Processes, on as many nodes as have memory for one, that hold an equal share of the episodes each."""
    tolerance_updates: PositiveInt = 64
    """Asynchronous mode: updates by which learning may lag behind collecting before collecting pauses."""
    prefetch: PositiveInt = 2
    """Asynchronous mode: batches on their way to a busy learner; a fast one gets those of its next call instead."""


class CollectConfig(Component):
    """Collection of experience."""

    collectors: PositiveInt = 1
    """Collector processes."""
    envs_per_collector: PositiveInt = 1
    """Environments per collector; policy inference is batched over them."""
    workers: NonNegativeInt = 0
    """Processes of a collector that step its environments; 0 steps them in its own, one after another."""
    cpus: NonNegativeFloat = 0.0
    """Logical CPUs of a collector on Ray; 0 takes one for each of its workers, at least one, or its share of that."""
    gpus: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    """Share of a GPU that a collector's policy acts on, on Ray; 0 acts on the CPU."""
    synchronous: bool = False
    """Take turns: collect, then learn, with the replay ratio kept exactly."""
    request_steps: PositiveInt = 50
    """Agent steps per environment in one request to a collector (synchronous mode: as many as one update needs)."""
    timeout: PositiveFloat = 300.0
    """Seconds after which a collector that does not answer at all is replaced by another, on Ray."""
    expl_noise: NonNegativeFloat = 0.0
    """Standard deviation of Gaussian noise added to training actions, which have to be continuous."""
    publish_every_updates: PositiveInt = 10
    """Asynchronous mode: updates between publications of new weights (synchronous mode publishes every turn)."""
    max_age_updates: PositiveInt = 200
    """Asynchronous mode: the learner waits for a collector that acts with weights older than this, updates."""

    @property
    def busy_processes(self) -> int:
        """Processes of a collector that compute at once: it waits while its workers step, and they while it acts."""
        return max(1, self.workers)

    @model_validator(mode="after")
    def _every_worker_has_an_environment(self) -> CollectConfig:
        if self.workers > self.envs_per_collector:
            raise ValueError(
                f"collect.workers={self.workers} is above collect.envs_per_collector={self.envs_per_collector}; a "
                f"worker without an environment does nothing: use at most {self.envs_per_collector}, or more "
                "environments"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_published_before_they_are_too_old(self) -> CollectConfig:
        if self.max_age_updates < self.publish_every_updates:
            raise ValueError(
                f"collect.max_age_updates={self.max_age_updates} is below "
                f"collect.publish_every_updates={self.publish_every_updates}; weights would be too old before "
                "the next are published"
            )
        return self


class EvaluationConfig(Component):
    """Evaluation of the policy."""

    episodes: PositiveInt = 10
    """Episodes per evaluation."""
    every_env_steps: PositiveInt = 10_000
    """Environment steps between evaluations. None is made before the first update; the last weights are evaluated at
    the end of a run, also where none is due."""
    envs: PositiveInt = 1
    """Environments stepped together during evaluation."""
    workers: NonNegativeInt = 0
    """Processes of the evaluator that step its environments; 0 steps them in its own, one after another."""
    gpus: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    """Share of a GPU that the evaluator's policy acts on, on Ray; 0 acts on the CPU."""
    timeout: PositiveFloat = 3_600.0
    """Seconds after which an evaluation is left out and the evaluator replaced by another, on Ray."""

    @property
    def busy_processes(self) -> int:
        """Processes of the evaluator that compute at once: it waits while its workers step, and they while it acts."""
        return max(1, self.workers)

    @model_validator(mode="after")
    def _every_worker_has_an_environment(self) -> EvaluationConfig:
        if self.workers > self.envs:
            raise ValueError(
                f"evaluation.workers={self.workers} is above evaluation.envs={self.envs}; a worker without an "
                f"environment does nothing: use at most {self.envs}, or more environments"
            )
        return self


class RLlibConfig(Component):
    """A baseline: an algorithm of Ray RLlib, chosen by `method: rllib/NAME`."""

    training: Settings = Field(default={})
    """Keywords of the algorithm's `AlgorithmConfig.training()`; those left out have RLlib's defaults."""
    model: Settings = Field(default={})
    """Fields of RLlib's `DefaultModelConfig`: networks of algorithms that bring none of their own."""
    env_runners: NonNegativeInt = 0
    """Processes that step `collect.envs_per_collector` environments each; 0 steps them in the algorithm's own."""
    reward_scale: PositiveFloat = 1.0
    """Factor of the rewards that the algorithm learns from, on top of env.reward_scale; returns are without it."""
