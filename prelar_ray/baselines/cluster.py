"""The Ray that an RLlib algorithm uses: this process for the algorithm, others for its env runners."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import ray
import torch

from prelar_ray.config import RunConfig
from prelar_ray.distributed.gauges import Gauges
from prelar_ray.distributed.ray_backend import cluster_nodes, connect
from prelar_ray.distributed.resources import ALGORITHM, Resources, plan_resources
from prelar_ray.errors import ResourceError
from prelar_ray.types import RoleId

__all__ = ["RLlibCluster"]

log = logging.getLogger(__name__)


class RLlibCluster:
    """A connection to the Ray that the configuration's ``cluster`` names."""

    def __init__(self, config: RunConfig, run: str = "", plan: Mapping[RoleId, Resources] | None = None) -> None:
        """Connect, unless this is the process of a Tune trial, which has reserved what ``plan`` says.

        Args:
            run: what tells this run's metrics from those of others on the cluster.

        Raises:
            ResourceError: no cluster at that address, it can never hold the algorithm, or this machine lacks the GPU.
        """
        self._in_trial = plan is not None
        self._gauges = Gauges(run)
        if plan is None:
            connect(config)
            try:
                plan = plan_resources(config, cluster_nodes())
                self.algorithm = _here(plan[ALGORITHM], config)
            except ResourceError:
                self.close()
                raise
        else:
            self.algorithm = plan[ALGORITHM]
        self.env_runner = plan.get(RoleId("env-runner", 0), Resources(1.0, 0.0))
        runners = config.rllib.env_runners
        log.info("ray: %s in this process (%s), %d env runners", config.algorithm, self.algorithm, runners)

    def report(self, values: Mapping[str, float]) -> None:
        """Show metrics to whoever scrapes this node's Ray."""
        self._gauges.show(values)

    def close(self) -> None:
        """End Ray or the connection to it; that of a trial stays."""
        if not self._in_trial and ray.is_initialized():
            ray.shutdown()


def _here(need: Resources, config: RunConfig) -> Resources:
    """What this process may use: a command is no actor, and has the GPUs of its own machine alone."""
    if not need.gpus or torch.cuda.is_available():
        return need
    if config.device == "cuda":
        raise ResourceError(
            "device=cuda: the algorithm learns in this process, and this machine has no GPU; start the command on a "
            "node that has one, or use device=cpu"
        )
    log.warning("the cluster has a GPU, this machine has none: %s learns on the CPU", config.algorithm)
    return Resources(need.cpus, 0.0)
