"""Learners: plain classes that update networks on batches, independent of Ray and environments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy.typing as npt
import torch
from torch import Tensor, nn

from prelar_ray.config import RunConfig
from prelar_ray.errors import CheckpointError, ConfigError
from prelar_ray.learning.behaviour import BehaviourLearner, imagine_step
from prelar_ray.learning.captured import CapturedUpdate, Compute, CudaGraphs
from prelar_ray.learning.clock import UpdateClock
from prelar_ray.learning.compilation import check_compiler, compile_networks, compiled, compiles, eagerly, or_eagerly
from prelar_ray.learning.device import resolve_device
from prelar_ray.learning.diagnostics import diagnostic_metrics, measure
from prelar_ray.learning.intrinsic_bonus import IntrinsicBonus
from prelar_ray.learning.optimizers import Optimizer
from prelar_ray.learning.precision import Precision
from prelar_ray.learning.prediction import Prediction, context_frames, predict
from prelar_ray.learning.ranks import ALONE, Ranks
from prelar_ray.learning.running_mean import RunningMean
from prelar_ray.learning.synchronised_norm import synchronise_norms
from prelar_ray.learning.transfer import Transfer
from prelar_ray.learning.world_model_loss import WorldModelLoss, finetune_loss, pretrain_loss
from prelar_ray.models.acting_weights import acting_weights
from prelar_ray.models.actor_critic import ActorCritic
from prelar_ray.models.layers import load_module
from prelar_ray.models.noise import Noise
from prelar_ray.models.preprocess import preprocess_image
from prelar_ray.models.world_model import FinetuneWorldModel, PretrainWorldModel, WorldModel
from prelar_ray.seeding import derive_seed
from prelar_ray.types import Frames, SequenceBatch

__all__ = ["FinetuneLearner", "PretrainLearner"]

Model = TypeVar("Model", bound=WorldModel)


class _Learner(ABC):
    """Base class of both phases: an update from arrays to metrics, device, noise, update counter."""

    role: str

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

    def _state_replaced(self) -> None:
        """Drop a captured update, which would use the tensors that a checkpoint has replaced."""
        if isinstance(self._run, CapturedUpdate):
            self._run.forget()

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


class PretrainLearner(_Learner):
    """First half of Algorithm 1: the world model learns from action-free clips."""

    role = "pretrain-learner"

    def __init__(self, config: RunConfig, noise: Noise | None = None, ranks: Ranks = ALONE) -> None:
        super().__init__(config, noise, ranks)
        self.model = self._place(PretrainWorldModel(config.world_model))
        if self._compiles:
            compile_networks(self.model)
        self.optimizer = Optimizer([self.model], config.pretrain.optimizer, ranks=ranks)
        self._share(model=self.model)

    def update(self, clips: Frames) -> None:
        """One update on this rank's rows ``(B, T, Hpx, Wpx, C)`` of the clips, uint8 (lines 6-7)."""
        self._update(clips)

    def _compute(self, *inputs: Tensor) -> dict[str, Tensor]:
        (clips,) = inputs
        self.model.train()
        with self.precision.autocast():
            loss = self._loss(preprocess_image(clips, self.noise.dtype), self.noise, self.ranks)
        self.precision.backward(loss.total)
        self.model.eval()
        norm = self.optimizer.step(self.precision)
        self._average_statistics()
        return loss.metrics | {"grad_norm/world_model": norm}

    def _advance(self) -> None:
        self.optimizer.advance()

    @torch.no_grad()
    def validate(self, clips: Frames) -> dict[str, float]:
        """Return losses and latent-action diagnostics on clips ``(B, T, Hpx, Wpx, C)``, without learning from them.

        The noise is the same at every call and separate from training's, so that values are comparable and training is
        unaffected. The number format is that of the parameters, so that runs of different precision are comparable.
        """
        noise = Noise(derive_seed(self.config.seed, self.role, 2), self.device, self.noise.dtype)
        image = preprocess_image(self._tensor(clips), self.noise.dtype)
        with eagerly(self._compiles):
            loss = self._loss(image, noise, ALONE).metrics
            context = context_frames(clips.shape[1])
            measured = measure(self.model, image, context, noise, self.config.loss.action_prior_std)
        metrics = {f"validation/{name}": float(loss[f"loss/{name}"]) for name in ("total", "image", "dynamics_kl")}
        return metrics if measured is None else metrics | diagnostic_metrics([measured])

    def _loss(self, image: Tensor, noise: Noise, ranks: Ranks) -> WorldModelLoss:
        is_first = torch.zeros_like(image[:, :, 0, 0, 0])
        is_first[:, 0].fill_(1)
        return pretrain_loss(self.model, self.config.loss, image, is_first, noise, ranks)

    def predict(self, clip: Frames, context: int) -> Prediction:
        """Reconstruct a clip ``(T, Hpx, Wpx, C)`` and predict it from its first ``context`` frames."""
        image = preprocess_image(self._tensor(clip), self.noise.dtype).unsqueeze(0)
        with torch.no_grad(), eagerly(self._compiles):
            latent = self.model.infer_latent_actions(image)
            latent_action = self.model.to_inputs(None if latent is None else latent.point, image[:, :, 0, 0, 0])
            return predict(self.model, image, latent_action, context)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resume needs; a collective call with several ranks."""
        return {
            "model": self.model.state_dict(),
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
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.load_state_dict(state["precision"])
        self.updates = int(state["updates"])
        self._load_noise(state["noise"])
        self._state_replaced()


class FinetuneLearner(_Learner):
    """Second half of Algorithm 1: world model with real actions and rewards, then behaviour in imagination."""

    role = "finetune-learner"

    def __init__(self, config: RunConfig, action: int, noise: Noise | None = None, ranks: Ranks = ALONE) -> None:
        super().__init__(config, noise, ranks)
        tune = config.finetune
        dtype = self.noise.dtype
        aux_reward = config.loss.aux_reward_weight > 0
        self.model = self._place(FinetuneWorldModel(config.world_model, action, aux_reward))
        self.actor_critic = ActorCritic(self.model.rssm.feature, action, config.behaviour).to(self.device, dtype)
        self.bonus: IntrinsicBonus | None = None
        if tune.bonus.weight > 0:
            size = self.model.encoder.size if tune.bonus.input == "embedding" else self.model.rssm.feature
            self.bonus = IntrinsicBonus(size, tune.bonus, ranks).to(self.device)
        perceiving, others = self.model.parameter_groups()
        frozen_updates = tune.initial_updates if tune.freeze_pretrained else 0
        self.dynamics_optimizer = Optimizer(perceiving, tune.dynamics_optimizer, frozen_updates, ranks)
        self.optimizer = Optimizer(others, tune.optimizer, ranks=ranks)
        step = compiled(imagine_step) if self._compiles else imagine_step
        self.behaviour = BehaviourLearner(config.behaviour, self.actor_critic, self.model, self.precision, step, ranks)
        if self._compiles:
            rewards = self.model.reward, self.model.aux_reward, self.behaviour.model.reward
            critics = self.actor_critic.critic, self.actor_critic.slow_critic
            compile_networks(self.model, [head for head in (*rewards, *critics) if head is not None])
        self._share(model=self.model, actor_critic=self.actor_critic)

    def load_pretrained(self, model: Mapping[str, Tensor]) -> None:
        """Load encoders, RSSM and decoder of a pre-training checkpoint (line 10).

        Raises:
            CheckpointError: the method learns from scratch; a tensor is missing or has another shape.
        """
        if self.config.world_model.latent_action_source == "none":
            raise CheckpointError(f"method {self.config.method} learns from scratch and takes no pre-trained model")
        for part, module in self.model.pretrained.items():
            prefix = f"{part}."
            state = {key.removeprefix(prefix): value for key, value in model.items() if key.startswith(prefix)}
            load_module(module, state, part)

    def update(self, batch: SequenceBatch) -> None:
        """One update of world model, then behaviour (lines 20-24), on this rank's rows of the batch."""
        self._update(batch.image, batch.action, batch.reward, batch.is_first)

    def _compute(self, *inputs: Tensor) -> dict[str, Tensor]:
        image, *others = inputs
        action, reward, is_first = (x.to(self.noise.dtype) for x in others)
        self.model.train()
        with self.precision.autocast():
            loss = finetune_loss(
                self.model,
                self.config.loss,
                self.bonus,
                preprocess_image(image, self.noise.dtype),
                action,
                reward,
                is_first,
                self.noise,
                self.ranks,
            )
        self.precision.backward(loss.total)
        self.model.eval()
        norms = {
            "grad_norm/dynamics": self.dynamics_optimizer.step(self.precision),
            "grad_norm/heads": self.optimizer.step(self.precision),
        }
        self._average_statistics()
        # Imagination starts from the states inferred before the update and runs through the updated model.
        start = loss.posterior.detach().flatten()
        behaviour = self.behaviour.update(start, self.noise)
        return loss.metrics | norms | behaviour

    def _advance(self) -> None:
        self.dynamics_optimizer.advance()
        self.optimizer.advance()
        self.behaviour.advance()

    def policy_weights(self) -> dict[str, npt.NDArray[Any]]:
        """Return the policy's parameters, as arrays by name (see :class:`prelar_ray.acting.policy.Policy`)."""
        return acting_weights(self.model.state_dict(), self.actor_critic.state_dict())

    def predict(self, batch: SequenceBatch, context: int) -> Prediction:
        """Reconstruct the first segment of a batch and predict it from its first ``context`` frames."""
        image = preprocess_image(self._tensor(batch.image[:1]), self.noise.dtype)
        with torch.no_grad(), eagerly(self._compiles):
            latent_action = self.model.action_encoder(self._floats(batch.action[:1]))
            return predict(self.model, image, latent_action, context)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resume needs; a collective call with several ranks."""
        return {
            "model": self.model.state_dict(),
            "actor_critic": self.actor_critic.state_dict(),
            "bonus": self.bonus.state_dict() if self.bonus else {},
            "dynamics_optimizer": self.dynamics_optimizer.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "behaviour": self.behaviour.state_dict(),
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
        load_module(self.actor_critic, state["actor_critic"], "actor_critic")
        if self.bonus:
            load_module(self.bonus, state["bonus"], "bonus")
        self.dynamics_optimizer.load_state_dict(state["dynamics_optimizer"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.behaviour.load_state_dict(state["behaviour"])
        self.precision.load_state_dict(state["precision"])
        self.updates = int(state["updates"])
        self._load_noise(state["noise"])
        self._state_replaced()
