"""Fine-tuning: world model and policy in an environment."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from prelar_ray.config import RunConfig
from prelar_ray.distributed.resources import Request, Reservation, Resources, plan_resources
from prelar_ray.errors import ConfigError
from prelar_ray.kinds.kind import Cost, Kind, checkpoint_bytes
from prelar_ray.replay.memory import GIB, check_replay_fits, replay_bytes
from prelar_ray.roles import RoleId
from prelar_ray.storage.run_folder import RunFolder

__all__ = ["Finetune"]


class Finetune(Kind):
    """Collectors, replay shards, learner ranks and an evaluator."""

    phase = "finetune"
    takes_init = True
    has_policy = True

    def check(self, config: RunConfig) -> None:
        """Refuse an unknown task, an environment that nothing can be learnt in, and rehearsal without videos."""
        share = config.finetune.rehearsal.share
        if share and not config.video.paths:
            raise ConfigError(
                f"video.path: no video store given, and finetune.rehearsal.share={share:g} rehearses videos; use "
                "video.path=DIR with those of the pre-training, or finetune.rehearsal.share=0"
            )
        from prelar_ray.acting.environment_check import check_before_training  # imports gymnasium
        from prelar_ray.envs import check_task

        check_task(config.env.task, "env.task")
        check_before_training(config)

    def find_init(self, init: Path, config: RunConfig) -> Path:
        """The last checkpoint of a pre-training run, if it fits."""
        from prelar_ray.checkpoint.compatibility import pretrained_checkpoint  # imports torch

        return pretrained_checkpoint(init, config)

    def plan(self, config: RunConfig, nodes: Sequence[Resources]) -> dict[RoleId, Resources]:
        """Each rank, each collector and the evaluator get a CPU, a replay shard half of one and its memory.

        A collector or evaluator with workers gets a CPU for each of these. Each rank gets a GPU if there are any and
        ``device`` allows it.
        """
        check_replay_fits(config, int(max(node.memory for node in nodes) * GIB), "the largest node")

        def roles(request: Request) -> dict[RoleId, Resources]:
            shard = Resources(request.cpus(usual=0.5), 0.0, replay_bytes(config) / GIB)
            evaluator = Resources(request.cpus(usual=config.evaluation.busy_processes), config.evaluation.gpus)
            return {
                **dict.fromkeys(RoleId.several("learner", config.learner.ranks), request.learner),
                **dict.fromkeys(RoleId.several("replay", config.replay.shards), shard),
                RoleId("evaluator"): evaluator,
                **{RoleId("collector", index): request.worker for index in range(config.collect.collectors)},
            }

        return plan_resources(config, nodes, roles, "collect.collectors")

    def iterate(
        self,
        config: RunConfig,
        run: RunFolder,
        init: Path | None,
        resume: bool,
        reservation: Reservation | None = None,
    ) -> Generator[Mapping[str, float]]:
        """See :func:`prelar_ray.training.finetuning.iterate_finetuning`."""
        from prelar_ray.training.backend import Backend  # these take seconds
        from prelar_ray.training.finetuning import iterate_finetuning
        from prelar_ray.training.local_backend import LocalBackend

        def start() -> Backend:
            if config.cluster == "none" and reservation is None:
                return LocalBackend()
            from prelar_ray.distributed.ray_backend import RayBackend

            return RayBackend(config, lambda nodes: self.plan(config, nodes), run.path, reservation)

        return iterate_finetuning(config, run, start, init, resume)

    def cost(self, config: RunConfig, parameters: int) -> Cost:
        """Updates that the environment steps pay for, checkpoints, and the episodes of the replay."""
        settings = config.finetune
        paid = (settings.env_steps - settings.random_steps) // settings.env_steps_per_update
        replay = replay_bytes(config) * config.replay.shards
        return Cost(settings.initial_updates + paid, checkpoint_bytes(config, parameters) + replay, replay)

    def measure(self, config: RunConfig, updates: int) -> list[float]:
        """Updates on segments of noise."""
        from prelar_ray.learning.learner import FinetuneLearner
        from prelar_ray.learning.timing import ACTION, noise_batch, time_updates

        learner = FinetuneLearner(config, ACTION)
        shape = config.finetune.batch_size, config.finetune.segment_length
        batch = noise_batch(*shape, config.env.vector_size, config.env.image_size)
        if config.finetune.clip_rows:
            batch, clips = batch.split([config.finetune.replay_rows, config.finetune.clip_rows])
            return time_updates(lambda: learner.update(batch, clips.image), updates)
        return time_updates(lambda: learner.update(batch), updates)
