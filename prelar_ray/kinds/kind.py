"""What every kind of run has to say about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from prelar_ray.config import RunConfig
from prelar_ray.distributed.resources import Reservation, Resources
from prelar_ray.errors import UsageError
from prelar_ray.roles import RoleId
from prelar_ray.storage.run_folder import RunFolder

__all__ = ["Cost", "Kind", "Length", "Phase"]

CHECKPOINT_BYTES_PER_PARAMETER = 12
"""Float32 values and Adam's two moments."""

Phase = Literal["pretrain", "finetune"]


@dataclass(frozen=True)
class Cost:
    """What a run comes to."""

    updates: int
    disk_bytes: int
    replay_bytes: int
    """In memory, over all shards."""


@dataclass(frozen=True)
class Length:
    """How long a run is."""

    counter: Literal["update", "env_steps"]
    """Key of a line of metrics that says how far the run is."""
    total: int
    """Value of the counter at the end."""

    @property
    def unit(self) -> str:
        """What is counted, in plural."""
        return {"update": "updates", "env_steps": "env steps"}[self.counter]


class Kind(ABC):
    """A kind of run; has no state. Importing one takes neither torch nor Ray."""

    phase: ClassVar[Phase]
    """The phase that its run folders name."""

    driver: ClassVar[Resources | None] = Resources(0.01, 0.0)
    """What a trial's own process takes beside the roles; None where it is one of them."""

    takes_init: ClassVar[bool] = False
    """Whether it can start from a pre-training."""

    has_policy: ClassVar[bool] = False
    """Whether ``prelar-ray evaluate`` can load its checkpoints."""

    own_networks: ClassVar[bool] = True
    """Whether the networks are this package's, whose parameters can be counted and predictions drawn."""

    is_evaluated: ClassVar[bool] = True
    """Whether its runs leave evaluations."""

    def matches(self, method: str) -> bool:
        """Whether a run of the phase with this method is of this kind."""
        return True

    @abstractmethod
    def check(self, config: RunConfig) -> None:
        """Refuse what can never work, before anything is created.

        Raises:
            UsageError, ConfigError: the method or a setting cannot be used.
        """

    def find_init(self, init: Path, config: RunConfig) -> Path:
        """Return the checkpoint of a pre-training run to start from.

        Raises:
            CheckpointError: it is damaged, of another phase, or does not fit ``config``.
            UsageError: such a run starts from nothing.
        """
        raise UsageError(f"--init {init}: method {config.method} learns from scratch; leave --init out")

    def check_resume(self, config: RunConfig, run: RunFolder) -> None:
        """Check that the run in a folder can continue with ``config``; changes nothing.

        Raises:
            CheckpointError: there is no checkpoint, or other networks or another experiment are asked for.
            UsageError: the run is longer than ``config`` asks for.
        """
        from prelar_ray.checkpoint.compatibility import check_same_experiment, resumable_checkpoint  # imports torch
        from prelar_ray.checkpoint.store import CheckpointStore

        checkpoint = resumable_checkpoint(CheckpointStore(run.checkpoints, config.checkpoint.keep_last), config)
        check_same_experiment(run, checkpoint, config)

    @abstractmethod
    def plan(self, config: RunConfig, nodes: Sequence[Resources]) -> dict[RoleId, Resources]:
        """Return what every role gets on a cluster of ``nodes``.

        Raises:
            ResourceError: the cluster can never hold all of them at once.
        """

    @abstractmethod
    def iterate(
        self,
        config: RunConfig,
        run: RunFolder,
        init: Path | None,
        resume: bool,
        reservation: Reservation | None = None,
    ) -> Generator[Mapping[str, float]]:
        """Run to the end; yields every line of metrics when it is written.

        Args:
            config: of the run.
            run: its folder.
            init: checkpoint from :meth:`find_init`.
            resume: continue from the last checkpoint of ``run``.
            reservation: of the trial of Ray Tune that this process is; without, the run uses what ``config`` names.

        Raises:
            PrelarError: see the loop of the kind.
        """

    def length(self, config: RunConfig) -> Length:
        """Return how long the run is: in environment steps."""
        return Length("env_steps", config.finetune.env_steps)

    def progress(self, config: RunConfig, line: Mapping[str, Any]) -> float:
        """Return the share of the run that is done at a line of its metrics, 0 to 1."""
        length = self.length(config)
        return min(1.0, float(line.get(length.counter) or 0) / length.total)

    @abstractmethod
    def cost(self, config: RunConfig, parameters: int) -> Cost | None:
        """Return what the run comes to; None where it paces itself.

        Args:
            config: of the run.
            parameters: trainable parameters of its networks.
        """

    @abstractmethod
    def measure(self, config: RunConfig, updates: int) -> list[float]:
        """Return the seconds that each of ``updates`` updates takes here, alone, on a batch of noise."""


def checkpoint_bytes(config: RunConfig, parameters: int) -> int:
    """Bytes of all checkpoints that a run keeps, with the one that is being written."""
    return (config.checkpoint.keep_last + 1) * CHECKPOINT_BYTES_PER_PARAMETER * parameters
