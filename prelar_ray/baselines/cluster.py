"""The Ray that an RLlib algorithm uses: this process for the algorithm, others for its env runners."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import ray
import torch

from prelar_ray.config import RunConfig
from prelar_ray.distributed.connection import connect
from prelar_ray.distributed.gauges import Gauges
from prelar_ray.distributed.ray_backend import cluster_nodes
from prelar_ray.distributed.resources import ALGORITHM, Reservation, Resources
from prelar_ray.errors import ResourceError
from prelar_ray.roles import RoleId

__all__ = ["RLlibCluster"]

log = logging.getLogger(__name__)


class RLlibCluster:
    """A connection to the Ray that the configuration's ``cluster`` names."""

    def __init__(
        self,
        config: RunConfig,
        make_plan: Callable[[Sequence[Resources]], dict[RoleId, Resources]],
        run: str = "",
        reservation: Reservation | None = None,
    ) -> None:
        """Connect, unless this is the process of a trial of Ray Tune, which has a ``reservation``.

        Args:
            config: of the run.
            make_plan: returns what every role gets, from what every node has.
            run: what tells this run's metrics from those of others on the cluster.
            reservation: of the trial.

        Raises:
            ResourceError: no cluster at that address, it can never hold the algorithm, or this machine lacks the GPU.
        """
        self._in_trial = reservation is not None
        if reservation is None:
            connect(config)
        self._gauges = Gauges(run=reservation.name if reservation else run)
        if reservation:
            plan = reservation.plan
            self.algorithm = plan[ALGORITHM]
        else:
            try:
                plan = make_plan(cluster_nodes())
                self.algorithm = _here(plan[ALGORITHM], config)
            except ResourceError:
                self.close()
                raise
        self.env_runner = plan.get(RoleId("env-runner", 0), Resources(1.0, 0.0))
        runners = config.rllib.env_runners
        log.info("ray: %s in this process (%s), %d env runners", config.algorithm, self.algorithm, runners)

    def report(self, values: Mapping[str, float]) -> None:
        """Show metrics to whoever scrapes this node's Ray."""
        self._gauges.show(values)

    def close(self) -> None:
        """End Ray or the connection to it; that of a trial stays."""
        self._gauges.close()
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
