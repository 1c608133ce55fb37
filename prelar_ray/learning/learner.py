"""Learners: plain classes that update networks on batches, independent of Ray and environments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from prelar_ray.action_space import ActionSpace
from prelar_ray.config import RunConfig
from prelar_ray.errors import CheckpointError
from prelar_ray.learning.base_learner import BaseLearner
from prelar_ray.learning.behaviour import BehaviourLearner, imagine_step
from prelar_ray.learning.compilation import compile_networks, compiled, eagerly
from prelar_ray.learning.diagnostics import diagnostic_metrics, measure
from prelar_ray.learning.intrinsic_bonus import IntrinsicBonus
from prelar_ray.learning.optimizers import Optimizer
from prelar_ray.learning.prediction import Prediction, context_frames, predict
from prelar_ray.learning.ranks import ALONE, Ranks
from prelar_ray.learning.world_model_loss import Experience, WorldModelLoss, finetune_loss, pretrain_loss
from prelar_ray.models.acting_weights import acting_weights
from prelar_ray.models.actor_critic import ActorCritic
from prelar_ray.models.layers import load_module
from prelar_ray.models.noise import Noise
from prelar_ray.models.observation import size_of
from prelar_ray.models.preprocess import preprocess_image
from prelar_ray.models.world_model import FinetuneWorldModel, PretrainWorldModel
from prelar_ray.seeding import derive_seed
from prelar_ray.types import Frames, SequenceBatch

__all__ = ["FinetuneLearner", "PretrainLearner"]


class PretrainLearner(BaseLearner):
    """First half of Algorithm 1: the world model learns from action-free clips."""

    role = "pretrain-learner"
    balanced = ("image", "dynamics_kl")
    model: PretrainWorldModel

    def __init__(self, config: RunConfig, noise: Noise | None = None, ranks: Ranks = ALONE) -> None:
        super().__init__(config, noise, ranks)
        self.model = self._place(PretrainWorldModel.of_run(config))
        if self._compiles:
            compile_networks(self.model)
        self.optimizer = Optimizer([self.model, self.balance], config.pretrain.optimizer, ranks=ranks)
        # A captured update reads it from the device.
        self._action_kl_scale = torch.zeros((), device=self.device, dtype=self.noise.dtype)
        self._warm_up(0)
        self._share(model=self.model, balance=self.balance)

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
        self._warm_up(self.updates + 1)

    def _warm_up(self, updates: int) -> None:
        """Set the share of the latent-action KL's weight for the update after so many."""
        warmup = self.config.loss.action_kl_warmup_updates
        self._action_kl_scale.fill_(min(1.0, updates / warmup) if warmup else 1.0)

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
        scale = self._action_kl_scale if self.config.loss.action_kl_warmup_updates else None
        return pretrain_loss(self.model, self.config.loss, image, is_first, noise, ranks, self.balance, scale)

    def predict(self, clip: Frames, context: int) -> Prediction:
        """Reconstruct a clip ``(T, Hpx, Wpx, C)`` and predict it from its first ``context`` frames."""
        image = preprocess_image(self._tensor(clip), self.noise.dtype).unsqueeze(0)
        with torch.no_grad(), eagerly(self._compiles):
            latent = self.model.infer_latent_actions(image)
            latent_action = self.model.to_inputs(None if latent is None else latent.point, image[:, :, 0, 0, 0])
            return predict(self.model, image, latent_action, context)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken.

        Raises:
            CheckpointError: parameters do not fit this configuration.
        """
        super().load_state_dict(state)
        self._warm_up(self.updates)


class FinetuneLearner(BaseLearner):
    """Second half of Algorithm 1: world model with real actions and rewards, then behaviour in imagination."""

    role = "finetune-learner"
    balanced: tuple[str, ...] = ("image", "reward", "dynamics_kl")
    model: FinetuneWorldModel

    def __init__(
        self,
        config: RunConfig,
        actions: ActionSpace | int,
        noise: Noise | None = None,
        ranks: Ranks = ALONE,
        terminates: bool = False,
    ) -> None:
        """Build networks and optimisers.

        Args:
            config: of the run.
            actions: of the task; a number stands for so many continuous ones.
            noise: source of random numbers; by default one from the run's seed.
            ranks: group of learners that share every batch.
            terminates: whether episodes of the task can end before their time for what happens in them.
        """
        if not config.env.image_size:
            self.balanced = ("reward", "dynamics_kl")
        super().__init__(config, noise, ranks)
        tune = config.finetune
        dtype = self.noise.dtype
        space = ActionSpace.of(actions)
        self.model = self._place(FinetuneWorldModel.of_run(config, space.size, terminates))
        self.actor_critic = ActorCritic(self.model.rssm.feature, space, config.behaviour).to(self.device, dtype)
        self.bonus: IntrinsicBonus | None = None
        if tune.bonus.weight > 0:
            size = size_of(self.model.encoder) if tune.bonus.input == "embedding" else self.model.rssm.feature
            self.bonus = IntrinsicBonus(size, tune.bonus, ranks).to(self.device)
        perceiving, others = self.model.parameter_groups()
        frozen_updates = tune.initial_updates if tune.freeze_pretrained else 0
        self.dynamics_optimizer = Optimizer([*perceiving, self.balance], tune.dynamics_optimizer, frozen_updates, ranks)
        self.optimizer = Optimizer(others, tune.optimizer, ranks=ranks)
        step = compiled(imagine_step) if self._compiles else imagine_step
        self.behaviour = BehaviourLearner(config.behaviour, self.actor_critic, self.model, self.precision, step, ranks)
        if self._compiles:
            rewards = self.model.reward, self.model.aux_reward, self.behaviour.model.reward
            discounts = self.model.discount, self.behaviour.model.discount
            critics = self.actor_critic.critic, self.actor_critic.slow_critic
            compile_networks(self.model, [head for head in (*rewards, *discounts, *critics) if head is not None])
        self._share(model=self.model, actor_critic=self.actor_critic, balance=self.balance)

    def load_pretrained(self, model: Mapping[str, Tensor]) -> None:
        """Load encoders, RSSM and decoder of a pre-training checkpoint (line 10), and what else continues to learn.

        Raises:
            CheckpointError: the method learns from scratch; a tensor is missing or has another shape.
        """
        if self.config.world_model.latent_action_source == "none":
            raise CheckpointError(f"method {self.config.method} learns from scratch and takes no pre-trained model")
        for part, module in self.model.pretrained.items():
            prefix = f"{part}."
            state = {key.removeprefix(prefix): value for key, value in model.items() if key.startswith(prefix)}
            if part == "rssm" and self.model.vector_encoder is not None:
                state = _widened(state, self.model.vector_encoder.size)
            load_module(module, state, part)

    def update(self, batch: SequenceBatch, clips: Frames | None = None) -> None:
        """One update of world model, then behaviour (lines 20-24), on this rank's rows of the batch.

        Args:
            batch: segments of replay.
            clips: of videos to rehearse, uint8 ``(V, T, Hpx, Wpx, C)``: the world model alone learns from them.
        """
        videos = () if clips is None else (clips,)
        vectors = () if self.model.vector_encoder is None else (batch.vector,)
        self._update(batch.image, batch.action, batch.reward, batch.is_first, batch.is_terminal, *vectors, *videos)

    def _compute(self, *inputs: Tensor) -> dict[str, Tensor]:
        image, action, reward, is_first, is_terminal, *others = inputs
        vector = None if self.model.vector_encoder is None else others.pop(0).to(self.noise.dtype)
        action, reward, is_first, is_terminal = (
            x.to(self.noise.dtype) for x in (action, reward, is_first, is_terminal)
        )
        image = torch.cat([image, *others]) if others else image  # clips of videos
        self.model.train()
        with self.precision.autocast():
            frames, reward = preprocess_image(image, self.noise.dtype), self.config.env.reward_scale * reward
            experience = Experience(frames, action, reward, is_first, is_terminal, vector)
            loss = finetune_loss(
                self.model, self.config.loss, self.bonus, experience, self.noise, self.ranks, self.balance
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
        behaviour = self.behaviour.update(start, self.noise, is_terminal.flatten())
        return loss.metrics | norms | behaviour

    def _advance(self) -> None:
        self.dynamics_optimizer.advance()
        self.optimizer.advance()
        self.behaviour.advance()

    def policy_weights(self) -> dict[str, npt.NDArray[Any]]:
        """Return the policy's parameters, as arrays by name (see :class:`prelar_ray.acting.policy.Policy`)."""
        return acting_weights(self.model.state_dict(), self.actor_critic.state_dict())

    def predict(self, batch: SequenceBatch, context: int) -> Prediction:
        """Reconstruct the first segment of a batch and predict it from its first ``context`` frames, if it has images.

        A segment of several short episodes is cut where its second begins, which no action led to.
        """
        begins = np.flatnonzero(batch.is_first[0, 1:])
        rows = slice(1), slice(int(begins[0]) + 1 if len(begins) else None)
        image = preprocess_image(self._tensor(batch.image[rows]), self.noise.dtype)
        context = min(context, image.shape[1] - 1)
        with torch.no_grad(), eagerly(self._compiles):
            latent_action = self.model.action_encoder(self._floats(batch.action[rows]))
            vector = None if self.model.vector_encoder is None else self._floats(batch.vector[rows])
            return predict(self.model, image, latent_action, context, vector)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resume needs; a collective call with several ranks."""
        return super().state_dict() | {
            "actor_critic": self.actor_critic.state_dict(),
            "bonus": self.bonus.state_dict() if self.bonus else {},
            "dynamics_optimizer": self.dynamics_optimizer.state_dict(),
            "behaviour": self.behaviour.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken.

        Raises:
            CheckpointError: parameters do not fit this configuration.
        """
        super().load_state_dict(state)
        load_module(self.actor_critic, state["actor_critic"], "actor_critic")
        if self.bonus:
            load_module(self.bonus, state["bonus"], "bonus")
        self.dynamics_optimizer.load_state_dict(state["dynamics_optimizer"])
        self.behaviour.load_state_dict(state["behaviour"])


def _widened(rssm: Mapping[str, Tensor], columns: int) -> dict[str, Tensor]:
    """Return a pre-trained RSSM that also observes ``columns`` numbers, which change nothing until they have learnt."""
    weight = rssm.get("posterior.weight")
    return dict(rssm) if weight is None else {**rssm, "posterior.weight": F.pad(weight, (0, columns))}
