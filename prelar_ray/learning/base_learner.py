"""What learners of both phases share: from arrays to an update on the device, ranks, noise, and metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy.typing as npt
import torch
from torch import Tensor, nn

from prelar_ray.config import RunConfig
from prelar_ray.errors import ConfigError
from prelar_ray.learning.balance import LossBalance
from prelar_ray.learning.captured import CapturedUpdate, Compute, CudaGraphs
from prelar_ray.learning.clock import UpdateClock
from prelar_ray.learning.compilation import check_compiler, compiles, eagerly, or_eagerly
from prelar_ray.learning.device import resolve_device
from prelar_ray.learning.optimizers import Optimizer
from prelar_ray.learning.precision import Precision
from prelar_ray.learning.ranks import Ranks
from prelar_ray.learning.running_mean import RunningMean
from prelar_ray.learning.synchronised_norm import synchronise_norms
from prelar_ray.learning.transfer import Transfer
from prelar_ray.models.layers import load_module
from prelar_ray.models.noise import Noise
from prelar_ray.models.world_model import WorldModel
from prelar_ray.seeding import derive_seed

__all__ = ["BaseLearner"]

Model = TypeVar("Model", bound=WorldModel)


class BaseLearner(ABC):
    """Base class of both phases: an update from arrays to metrics, device, noise, update counter."""

    role: str
    balanced: tuple[str, ...]  # losses with a scale of their own, where the configuration asks for it
    model: WorldModel
    optimizer: Optimizer

    def __init__(self, config: RunConfig, noise: Noise | None, ranks: Ranks) -> None:
        self.config, self.ranks = config, ranks
        self.device = resolve_device(config.device, config.learner.gpus)
        self._compiles = compiles(config.compile, self.device)
        if config.compile is True:
            check_compiler()
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(derive_seed(config.seed, self.role, 0))  # initial parameters
        self.noise = noise or Noise(derive_seed(config.seed, self.role, 1, *self._index), self.device)
        self.precision = Precision(config.precision, self.device, self.noise.dtype)
        self.balance = LossBalance.of(config.loss, self.balanced).to(self.device, self.noise.dtype)
        self.updates = 0
        self.clock = UpdateClock(self.device)
        self._transfer = Transfer(self.device)
        self._metrics = RunningMean()
        self._run: Compute = self._compute
        if config.compile == "auto" and self._compiles:
            self._run = or_eagerly(self._run, self._forget_gradients)
        if self._can_capture:
            torch.backends.cudnn.benchmark = True  # the fastest algorithms for the shapes of a batch
            graphs, must = CudaGraphs(self.noise.generator), config.learner.graph == "always"
            self._run = CapturedUpdate(
                self._run, graphs, undo=self._forget_gradients, other=self._compute_eagerly, must=must
            )

    @property
    def _can_capture(self) -> bool:
        """Whether updates become a CUDA graph: a loss scale needs the host, and several ranks have to ask for it.

        Raises:
            ConfigError: it is asked for where it cannot be.
        """
        graph, scaled = self.config.learner.graph, self.precision.scaler.is_enabled()
        if graph == "always" and (self.device.type != "cuda" or scaled):
            why = "precision=float16 has a loss scale, which needs the host" if scaled else "this learner has no GPU"
            raise ConfigError(f"learner.graph=always: {why}; use learner.graph=auto")
        return (
            self.device.type == "cuda" and not scaled and (graph == "always" or (graph, self.ranks.size) == ("auto", 1))
        )

    def _update(self, *arrays: npt.NDArray[Any]) -> None:
        """Update on arrays; the work is done, or on a GPU launched, when it returns."""
        inputs = self._transfer(arrays)
        self.clock.start()
        values = self._run(*inputs)
        self._transfer.release()
        self._advance()
        self.updates += 1
        self._metrics.add(self.updates, values | self.precision.finish_update())
        self.clock.stop(self._run.replayed if isinstance(self._run, CapturedUpdate) else 0)

    @abstractmethod
    def _compute(self, *inputs: Tensor) -> dict[str, Tensor]:
        """One update from a batch to metrics, scalars: on the device alone, so that it can be captured."""

    def _compute_eagerly(self, *inputs: Tensor) -> dict[str, Tensor]:
        with eagerly(self._compiles):
            return self._compute(*inputs)

    @abstractmethod
    def _advance(self) -> None:
        """Do what differs from update to update: learning rates, copies of the slow critic."""

    def _forget_gradients(self) -> None:
        self._shared.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resume needs; a collective call with several ranks."""
        return {
            "model": self.model.state_dict(),
            "balance": self.balance.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "noise": self._noise_state(),
            "precision": self.precision.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken.

        Raises:
            CheckpointError: parameters do not fit this configuration.
        """
        load_module(self.model, state["model"], "model")
        load_module(self.balance, state.get("balance", {}), "balance")  # older checkpoints have none
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.load_state_dict(state["precision"])
        self.updates = int(state["updates"])
        self._load_noise(state["noise"])
        if isinstance(self._run, CapturedUpdate):
            self._run.forget()  # it would use the tensors that the checkpoint has replaced

    @property
    def _index(self) -> tuple[int, ...]:
        """Index that distinguishes the seeds of ranks; empty for a single rank."""
        return () if self.ranks.size == 1 else (self.ranks.rank,)

    def _place(self, model: Model) -> Model:
        """Move to the device and into evaluation mode, in channels-last memory format as the inputs."""
        model.to(self.device, self.noise.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        model.eval()
        return model

    def _share(self, **modules: nn.Module) -> None:
        """Prepare modules for several ranks; all ranks have drawn equal initial parameters."""
        self._shared = nn.ModuleDict(modules)
        if self.ranks.size > 1 and self.config.learner.norm_statistics == "synchronised":
            synchronise_norms(self._shared, self.ranks)
        buffers = self._shared.named_buffers()
        self._running = [x for name, x in buffers if name.endswith(("running_mean", "running_var"))]
        if self._index:
            torch.manual_seed(derive_seed(self.config.seed, self.role, 3, *self._index))  # dropout

    def _average_statistics(self) -> None:
        """Average the running statistics over ranks; acting and evaluation normalise with them."""
        if self.ranks.size > 1 and self._running and self.config.learner.norm_statistics == "local":
            means = self.ranks.sum(torch.cat(self._running)).div_(self.ranks.size)
            torch._foreach_copy_(self._running, means.split([len(x) for x in self._running]))

    def check_ranks(self) -> None:
        """Check that all ranks hold equal networks; a collective call of all ranks.

        Raises:
            RanksDiverged: they do not.
        """
        self.ranks.check_equal(self._shared.state_dict())

    def _noise_state(self) -> dict[str, Tensor]:
        """Return the states of the generators; ``(ranks, ...)`` and a collective call with several ranks."""
        state = self.noise.state_dict()
        if self.ranks.size == 1:
            return state
        return {key: self.ranks.gather(x.to(self.device).unsqueeze(0)).cpu() for key, x in state.items()}

    def _load_noise(self, state: Mapping[str, Tensor]) -> None:
        """Restore the generators of this rank; others if ranks or device kind changed."""
        states = {key: x.unsqueeze(0) if x.dim() == 1 else x for key, x in state.items()}
        own = self.noise.generator.get_state()
        if states["generator"].shape == (self.ranks.size, len(own)):
            # Copied: a generator reads from the start of the storage, not from the start of the row.
            self.noise.load_state_dict({key: x[self.ranks.rank].clone() for key, x in states.items()})
            return
        seeds = [derive_seed(self.config.seed, self.role, kind, self.updates, *self._index) for kind in (4, 5)]
        self.noise.generator.manual_seed(seeds[0])
        torch.manual_seed(seeds[1])

    def metrics(self) -> dict[str, float]:
        """Return the means of all metrics since the last call.

        Raises:
            NonFiniteError: one of them was NaN or infinite.
        """
        return self._metrics.read()

    def check_finite(self) -> None:
        """Check that the parameters may be saved.

        Raises:
            NonFiniteError: a metric was NaN or infinite since the last call of :meth:`metrics`.
        """
        self._metrics.check()

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        # Arrays from shared memory are read-only, which torch does not support; copy those.
        return torch.from_numpy(array if array.flags.writeable else array.copy()).to(self.device)

    def _floats(self, array: npt.NDArray[Any]) -> Tensor:
        return self._tensor(array).to(self.noise.dtype)
