"""A whole run: every section, and the rules between sections."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from prelar_ray.config.camera import Camera
from prelar_ray.config.component import (
    Component,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Settings,
)
from prelar_ray.config.model import LossConfig, WorldModelConfig
from prelar_ray.config.output import CheckpointConfig, TelemetryConfig
from prelar_ray.config.training import (
    BehaviourConfig,
    CollectConfig,
    EvaluationConfig,
    FinetuneConfig,
    LearnerConfig,
    PretrainConfig,
    ReplayConfig,
    RLlibConfig,
)
from prelar_ray.fitting import Fit
from prelar_ray.types import IMAGE_SIZE, ObservedSize

__all__ = [
    "RLLIB",
    "EnvConfig",
    "RecordConfig",
    "RunConfig",
    "VideoConfig",
]

RLLIB = "rllib/"
"""What the names of methods begin with that are algorithms of Ray RLlib."""


class EnvConfig(Component):
    """The environment."""

    task: str = "metaworld/reach-v3"
    """Environment id: metaworld/TASK, dmc/DOMAIN-TASK, prelar/point-reach, prelar/arena-TASK, gym/ID or gym/MODULE:ID
    of gymnasium, or FAMILY/TASK of another package."""
    image_size: ObservedSize = IMAGE_SIZE
    """Height and width of frames, pixels: of the environment, of recorded videos and of those to pre-train on. At 128
    networks have one residual stack more, and frames take four times the memory; at 32 one less, and a quarter. 0: no
    frames are drawn, and the vector of vector_key is all that is observed (fine-tuning from scratch)."""
    kwargs: Settings = Field(default={})
    """Keywords for the environment (gym/...)."""
    image_key: str = ""
    """Image in the observations (gym/...), observation for all of it; empty: the only one, or else what it renders."""
    vector_key: str = ""
    """Low-dimensional observation beside the image, or alone with image_size=0: a Box in the observations (gym/...),
    observation for all of it; in Meta-World proprioception (hand, gripper) or observation; in DeepMind Control a key of
    the suite's observations, or observation for all of them. Empty: none."""
    vector_size: NonNegativeInt = 0
    """Numbers V of the vector that vector_key names; a wrong one is answered with the right one."""
    fit: Fit = "squeeze"
    """Images of another size to image_size (gym/...): squeeze, crop to the centre, or pad with black."""
    success_key: str = ""
    """Key of info that says success (gym/...); empty: success or is_success where there is one."""
    time_limit: NonNegativeInt = 0
    """Longest episode, environment steps (gym/...); 0: that of the registered id."""
    action_repeat: PositiveInt = 1
    """Environment steps per action."""
    reward_scale: PositiveFloat = 1.0
    """Factor of the rewards that are learnt from; returns are reported without it."""
    camera: Camera = "default"
    """Camera by name or number; default is the published one: corner in Meta-World, 0 in DeepMind Control. In
    Meta-World also corner2-moved, as in MWM; or a pose {position: [x, y, z], look_at: [x, y, z], fov: degrees}, or with
    quaternion: [w, x, y, z] instead of look_at (Meta-World, DeepMind Control)."""
    render_quality: Literal["full", "reduced", "fast"] = "full"
    """Rendering: full (the simulator's default), reduced (small shadow map), fast (no shadows, no multisampling)."""
    timeout: PositiveFloat = 60.0
    """Seconds after which a step, reset or making that does not return is a failure; the environment is made again."""

    @model_validator(mode="after")
    def _a_size_is_of_a_vector(self) -> Self:
        if self.vector_size and not self.vector_key:
            raise ValueError(f"env.vector_size={self.vector_size}: of which vector? name it with env.vector_key")
        return self

    @model_validator(mode="after")
    def _something_is_observed(self) -> Self:
        if not self.image_size and not self.vector_key:
            raise ValueError(
                "env.image_size=0: without images a vector has to be observed; name it with env.vector_key "
                "(observation: all of it), or use env.image_size=64"
            )
        if not self.image_size and self.image_key:
            raise ValueError(f"env.image_key={self.image_key}: env.image_size=0 observes no images; leave it empty")
        return self


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
    workers: NonNegativeInt = 0
    """Processes that record, or tasks of the Ray that `cluster` gives the address of; 0: one per CPU core, up to 16."""


class VideoConfig(Component):
    """Reading of video stores for pre-training."""

    path: str | tuple[str, ...] = ""
    """Video store, or several: folders, as `record` and `prepare` write them, or addresses of pyarrow.fs (s3://...)."""
    weighting: Literal["episodes", "frames"] = "episodes"
    """What is equally likely as a clip: episodes that are long enough, or their starts."""
    weights: tuple[NonNegativeFloat, ...] = ()
    """How much each of several stores counts; none: as what it holds does."""
    verify: bool = True
    """Check every shard's checksum before training, once: again only if the shard changes."""
    skip_bad: bool = False
    """Leave damaged shards out with a warning instead of stopping."""
    cache: str = ""
    """Folder for local copies of stores at an address; empty: prelar_ray/videos in the user's cache folder."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The stores, none if none are given."""
        given = (self.path,) if isinstance(self.path, str) else self.path
        return tuple(path for path in given if path)

    @property
    def name(self) -> str:
        """The stores as one text, for messages."""
        return ", ".join(self.paths)

    @model_validator(mode="after")
    def _stores_are_different(self) -> Self:
        twice = [path for position, path in enumerate(self.paths) if path in self.paths[:position]]
        if twice:
            raise ValueError(f"video.path: {twice[0]} is named twice; use weights to let it count more")
        return self

    @model_validator(mode="after")
    def _weights_are_of_stores(self) -> Self:
        if self.weights and (len(self.weights) != len(self.paths) or not any(self.weights)):
            raise ValueError(f"video.weights: expected one for each of {len(self.paths)} stores in path, and not all 0")
        return self


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
    compile: bool | Literal["auto"] = "auto"
    """Run the learner's networks through torch.compile; auto: on a GPU, and without it where compiling fails."""
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

    @property
    def finetunes_inverse_dynamics(self) -> bool:
        """Whether fine-tuning continues to train the inverse dynamics encoder of pre-training."""
        return any(self._uses_of_inverse_dynamics.values())

    @property
    def _uses_of_inverse_dynamics(self) -> dict[str, float]:
        """Settings that need it in fine-tuning, with their values: those above 0 do."""
        return {
            "loss.tie_weight": self.loss.tie_weight,
            "loss.action_decoder_weight": self.loss.action_decoder_weight,
            "finetune.rehearsal.share": self.finetune.rehearsal.share,
        }

    @model_validator(mode="after")
    def _finetuning_infers_latent_actions_where_it_uses_them(self) -> RunConfig:
        needed = {"latent_action_source": "inverse_dynamics", "action_input": "encoder"}
        for key, value in self._uses_of_inverse_dynamics.items():
            for part, kind in needed.items():
                found = getattr(self.world_model, part)
                if value and found != kind:
                    raise ValueError(
                        f"{key}={value:g}: fine-tuning has no latent actions inferred from frames and encoded from "
                        f"actions with world_model.{part}={found}; use world_model.{part}={kind}, or {key}=0"
                    )
        return self

    @model_validator(mode="after")
    def _deterministic_latent_action_has_no_kl(self) -> RunConfig:
        model, weight = self.world_model, self.loss.action_kl_weight
        inferred = model.latent_action_source == "inverse_dynamics"
        if inferred and model.latent_action_distribution == "deterministic" and weight:
            raise ValueError(
                f"loss.action_kl_weight={weight:g}: a deterministic latent action has no KL; "
                "set it to 0, or choose another world_model.latent_action_distribution"
            )
        return self

    @model_validator(mode="after")
    def _replay_holds_the_random_phase(self) -> RunConfig:
        capacity, random_steps = self.replay.capacity_steps, self.finetune.random_steps
        if capacity < random_steps:
            raise ValueError(
                f"replay.capacity_steps={capacity} is below finetune.random_steps={random_steps}; "
                "the random phase would not fit"
            )
        return self

    @model_validator(mode="after")
    def _ranks_share_every_batch(self) -> RunConfig:
        ranks = self.learner.ranks
        for phase, rows in (("pretrain", self.pretrain.batch_size), ("finetune", self.finetune.batch_size)):
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
        return self

    @model_validator(mode="after")
    def _ranks_share_the_clips_of_every_batch(self) -> RunConfig:
        ranks, rows, share = self.learner.ranks, self.finetune.clip_rows, self.finetune.rehearsal.share
        clips = (
            f"finetune.rehearsal.share={share:g} makes {rows} of finetune.batch_size={self.finetune.batch_size} rows"
        )
        if rows % ranks:
            raise ValueError(
                f"{clips} clips, not a multiple of learner.ranks={ranks}, and each rank takes an equal share; use "
                "another share or batch size"
            )
        if rows and rows < 2 * ranks and self.loss.consistency_weight:
            raise ValueError(
                f"{clips} clips, which leaves a rank one, and the consistency loss swaps latent actions between two; "
                "use a larger share or batch, or loss.consistency_weight=0"
            )
        return self

    @model_validator(mode="after")
    def _processes_have_a_cluster(self) -> RunConfig:
        ranks = self.learner.ranks
        if ranks > 1 and self.cluster == "none":
            raise ValueError(f"learner.ranks={ranks}: ranks are processes of a Ray cluster; use cluster=auto")
        if self.algorithm and ranks > 1:
            raise ValueError(f"learner.ranks={ranks}: {self.algorithm} of RLlib learns in one process; set it to 1")
        if self.algorithm and self.cluster == "none":
            raise ValueError(f"cluster=none: {self.algorithm} of RLlib needs Ray; use cluster=auto")
        if self.algorithm and self.collect.workers:
            raise ValueError(
                f"collect.workers={self.collect.workers}: {self.algorithm} of RLlib steps environments in the "
                "processes that rllib.env_runners says; set it to 0"
            )
        if self.algorithm and self.evaluation.gpus:
            raise ValueError(
                f"evaluation.gpus={self.evaluation.gpus:g}: {self.algorithm} of RLlib is evaluated where it learns; "
                "set it to 0"
            )
        return self

    @model_validator(mode="after")
    def _vectors_are_of_what_observes_them(self) -> RunConfig:
        key = f"env.vector_key={self.env.vector_key}"
        if self.env.vector_key and self.algorithm:
            raise ValueError(f"{key}: {self.algorithm} of RLlib sees images alone; leave it empty")
        if self.env.vector_key and self.world_model.dynamics == "stacked":
            raise ValueError(
                f"{key}: the lower of two stacked RSSMs sees images alone; use world_model.dynamics=single"
            )
        if self.env.vector_key and self.finetune.rehearsal.share:
            raise ValueError(f"{key}: videos have no vectors to rehearse; set finetune.rehearsal.share=0")
        return self

    @model_validator(mode="after")
    def _small_frames_have_a_stack(self) -> RunConfig:
        for part in ("encoder", "decoder", "inverse_dynamics"):
            if 0 < self.env.image_size < IMAGE_SIZE and getattr(self.world_model, part).stacks == 1:
                raise ValueError(
                    f"world_model.{part}.stacks=1: frames of {self.env.image_size} pixels have one stack less, which "
                    f"leaves none; set it to 2 or more, or use env.image_size={IMAGE_SIZE}"
                )
        return self

    @model_validator(mode="after")
    def _images_are_there_for_what_looks_at_them(self) -> RunConfig:
        if self.env.image_size:
            return self
        without = "env.image_size=0: there are no images for"
        if self.world_model.latent_action_source != "none":
            raise ValueError(
                f"{without} method={self.method}, which pre-trains on videos; use method=dreamerv2, which learns from "
                "scratch"
            )
        if self.world_model.context.enabled:
            raise ValueError(f"{without} the context of a scene; use world_model.context.enabled=false")
        if self.finetune.bonus.weight and self.finetune.bonus.input == "embedding":
            raise ValueError(
                f"{without} the intrinsic bonus, the novelty of their embeddings; use finetune.bonus.weight=0, or "
                "finetune.bonus.input=feature"
            )
        return self

    @model_validator(mode="after")
    def _networks_of_rllib_take_the_frames(self) -> RunConfig:
        if self.algorithm == "DreamerV3" and self.env.image_size != IMAGE_SIZE:
            raise ValueError(
                f"env.image_size={self.env.image_size}: the networks of RLlib's DreamerV3 are made for {IMAGE_SIZE}; "
                f"use env.image_size={IMAGE_SIZE}, or method=rllib/PPO"
            )
        return self

    @model_validator(mode="after")
    def _replay_ratio_is_whole_actions(self) -> RunConfig:
        steps, repeat = self.finetune.env_steps_per_update, self.env.action_repeat
        if steps % repeat:
            raise ValueError(
                f"finetune.env_steps_per_update={steps} is not a multiple of env.action_repeat={repeat}; "
                "the replay ratio could not be kept exactly"
            )
        return self
