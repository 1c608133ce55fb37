"""An algorithm of RLlib as a baseline: same environments, evaluation and run folder."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from functools import partial
from pathlib import Path

from prelar_ray.config import RLLIB, RunConfig
from prelar_ray.distributed.resources import ALGORITHM, Request, Reservation, Resources, plan_resources
from prelar_ray.kinds.kind import Kind
from prelar_ray.roles import RoleId
from prelar_ray.storage.run_folder import RunFolder

__all__ = ["RLlib"]


class RLlib(Kind):
    """The algorithm in the driver, and env runners."""

    phase = "finetune"
    driver = None
    own_networks = False

    def matches(self, method: str) -> bool:
        """Whether the method is an algorithm of RLlib."""
        return method.startswith(RLLIB)

    def check(self, config: RunConfig) -> None:
        """Refuse settings that RLlib does not know, an unknown task, and an environment nothing can be learnt in."""
        from prelar_ray.acting.environment_check import check_before_training
        from prelar_ray.baselines.algorithm import algorithm_config  # importing RLlib takes seconds
        from prelar_ray.envs import check_task

        algorithm_config(config)
        check_task(config.env.task, "env.task")
        check_before_training(config)

    def check_resume(self, config: RunConfig, run: RunFolder) -> None:
        """The same, of what RLlib does not keep in its own files."""
        from prelar_ray.baselines.checkpoints import resumable
        from prelar_ray.checkpoint.compatibility import check_same_experiment
        from prelar_ray.checkpoint.store import CheckpointFolders

        folders = CheckpointFolders(run.checkpoints, config.checkpoint.keep_last)
        check_same_experiment(run, resumable(folders, config), config)

    def plan(self, config: RunConfig, nodes: Sequence[Resources]) -> dict[RoleId, Resources]:
        """The algorithm gets what a learner gets, each env runner what a collector gets."""

        def roles(request: Request) -> dict[RoleId, Resources]:
            runners = [RoleId("env-runner", index) for index in range(config.rllib.env_runners)]
            return {ALGORITHM: request.learner, **dict.fromkeys(runners, request.worker)}

        return plan_resources(config, nodes, roles, "rllib.env_runners")

    def iterate(
        self,
        config: RunConfig,
        run: RunFolder,
        init: Path | None,
        resume: bool,
        reservation: Reservation | None = None,
    ) -> Generator[Mapping[str, float]]:
        """See :func:`prelar_ray.baselines.training.iterate_rllib`."""
        from prelar_ray.baselines.cluster import RLlibCluster  # these take seconds
        from prelar_ray.baselines.training import iterate_rllib

        connect = partial(RLlibCluster, config, lambda nodes: self.plan(config, nodes), run.path.name, reservation)
        return iterate_rllib(config, run, connect, resume)

    def cost(self, config: RunConfig, parameters: int) -> None:
        """Unknown: an algorithm of RLlib paces itself and keeps its own replay."""

    def measure(self, config: RunConfig, updates: int) -> list[float]:
        """Nothing: see :meth:`cost`."""
        return []
