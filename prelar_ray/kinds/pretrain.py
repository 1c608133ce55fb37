"""Pre-training: a world model with latent actions from action-free videos."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from prelar_ray.config import RunConfig
from prelar_ray.distributed.resources import Request, Reservation, Resources, plan_resources
from prelar_ray.errors import ConfigError, UsageError
from prelar_ray.kinds.kind import Cost, Kind, Length, checkpoint_bytes
from prelar_ray.roles import RoleId
from prelar_ray.storage.run_folder import RunFolder

__all__ = ["Pretrain"]


class Pretrain(Kind):
    """Learner ranks alone; the driver reads the clips."""

    phase = "pretrain"
    is_evaluated = False

    def check(self, config: RunConfig) -> None:
        """Refuse methods that learn from scratch, and a run without videos."""
        if config.algorithm:
            raise UsageError(
                f"method {config.method} learns from scratch, there is nothing to pre-train; start with finetune, or "
                "choose a --method that pre-trains"
            )
        if not config.video.paths:
            raise ConfigError("video.path: no video store given; use --videos DIR (prelar-ray record makes one)")

    def plan(self, config: RunConfig, nodes: Sequence[Resources]) -> dict[RoleId, Resources]:
        """Each rank gets a CPU, and a GPU if there are any."""

        def roles(request: Request) -> dict[RoleId, Resources]:
            return dict.fromkeys(RoleId.several("learner", config.learner.ranks), request.learner)

        return plan_resources(config, nodes, roles, "collect.collectors")

    def iterate(
        self,
        config: RunConfig,
        run: RunFolder,
        init: Path | None,
        resume: bool,
        reservation: Reservation | None = None,
    ) -> Generator[Mapping[str, float]]:
        """See :func:`prelar_ray.training.pretraining.iterate_pretraining`."""
        from prelar_ray.training.backend import Backend  # these take seconds
        from prelar_ray.training.local_backend import LocalBackend
        from prelar_ray.training.pretraining import iterate_pretraining

        def start() -> Backend:
            if config.learner.ranks == 1 and reservation is None:
                return LocalBackend()
            from prelar_ray.distributed.ray_backend import RayBackend

            return RayBackend(config, lambda nodes: self.plan(config, nodes), run.path, reservation)

        return iterate_pretraining(config, run, resume, start)

    def length(self, config: RunConfig) -> Length:
        """Updates."""
        return Length("update", config.pretrain.updates)

    def cost(self, config: RunConfig, parameters: int) -> Cost:
        """Updates and checkpoints; there is no replay."""
        return Cost(config.pretrain.updates, checkpoint_bytes(config, parameters), 0)

    def measure(self, config: RunConfig, updates: int) -> list[float]:
        """Updates on clips of noise."""
        from prelar_ray.learning.learner import PretrainLearner
        from prelar_ray.learning.timing import noise_batch, time_updates

        learner = PretrainLearner(config)
        batch = noise_batch(
            config.pretrain.batch_size, config.pretrain.segment_length, image_size=config.env.image_size
        )
        return time_updates(lambda: learner.update(batch.image), updates)
