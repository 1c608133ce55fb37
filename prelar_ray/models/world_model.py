"""The world models of both phases, for every method."""

from __future__ import annotations

from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from prelar_ray.config import RunConfig, WorldModelConfig
from prelar_ray.errors import ConfigError
from prelar_ray.models.action_decoder import ActionDecoder
from prelar_ray.models.action_encoder import action_input
from prelar_ray.models.context import ContextEncoder, SceneContext
from prelar_ray.models.discount_head import DiscountHead
from prelar_ray.models.image_decoder import ImageDecoder
from prelar_ray.models.inverse_dynamics import InverseDynamicsEncoder
from prelar_ray.models.latent_action import LatentAction
from prelar_ray.models.layers import initialise
from prelar_ray.models.noise import Noise
from prelar_ray.models.observation import VectorEncoder, VectorHead, image_encoder, observed, size_of
from prelar_ray.models.rssm import RSSM
from prelar_ray.models.stacked_rssm import StackedRSSM
from prelar_ray.models.two_hot import scalar_head
from prelar_ray.types import IMAGE_SIZE

__all__ = ["FinetuneWorldModel", "PretrainWorldModel", "WorldModel", "dynamics"]


def dynamics(config: WorldModelConfig, embed: int, latent_action: int) -> RSSM | StackedRSSM:
    """Build the latent dynamics of fine-tuning for embeddings of size E and action inputs of size L."""
    if config.dynamics == "stacked":
        return StackedRSSM(config.rssm, embed, config.latent_action, latent_action)
    return RSSM(config.rssm, embed, latent_action)


class WorldModel(nn.Module):
    """Base class of both phases: image encoder, latent dynamics, image decoder, and context in methods with one.

    Where no images are observed, there is neither encoder nor decoder.
    """

    inverse_dynamics: InverseDynamicsEncoder | None

    def __init__(
        self,
        config: WorldModelConfig,
        latent_action: int | None = None,
        beside: int = 0,
        image_size: int = IMAGE_SIZE,
    ) -> None:
        """Build for action inputs of size ``latent_action``, by default those of pre-training.

        Args:
            beside: numbers that the dynamics observe beside the image's embedding.
            image_size: height and width of frames, pixels; 0 where none are observed.

        Raises:
            ConfigError: nothing at all is observed.
        """
        super().__init__()
        self.encoder = image_encoder(config.encoder, image_size)
        size = size_of(self.encoder) + beside
        if not size:
            raise ConfigError(
                "env.vector_size=0: without images (env.image_size=0) nothing is observed; set it to the numbers of "
                "env.vector_key, which `prelar-ray doctor` tells"
            )
        self.rssm: RSSM | StackedRSSM
        if latent_action is None:
            self.rssm = RSSM(config.rssm, size, config.latent_action)
        else:
            self.rssm = dynamics(config, size, latent_action)
        self.decoder: ImageDecoder | None = None
        if image_size:
            self.decoder = ImageDecoder(self.rssm.feature, config.decoder, config.context, image_size)
        self.context_encoder: ContextEncoder | None = None
        if config.context.enabled:
            self.context_encoder = ContextEncoder(config.encoder, config.context, image_size)
        self.vector_encoder: VectorEncoder | None = None

    def observed(self, image: Tensor, vector: Tensor | None = None) -> Tensor:
        """Return what the dynamics observe of images ``(..., C, Hpx, Wpx)`` and vectors ``(..., V)``, ``(..., E)``."""
        return observed(self.encoder, image, self.vector_encoder, vector)

    def decode(self, feature: Tensor, image: Tensor, noise: Noise) -> Tensor:
        """Return the mean images of features, in a model that observes images.

        Args:
            feature: ``(B, T, F)``.
            image: preprocessed ``(B, T, C, Hpx, Wpx)``, of which methods with context take a frame.
            noise: chooses that frame.
        """
        assert self.decoder is not None, "where no images are observed, none are decoded"
        decoded: Tensor = self.decoder(feature, self.context(image, noise))
        return decoded

    def context(self, image: Tensor, noise: Noise) -> dict[int, SceneContext] | None:
        """Return the context of the decoder; None in methods without context.

        Args:
            image: preprocessed ``(B, T, C, Hpx, Wpx)``.
        """
        return None if self.context_encoder is None else self.context_encoder(image, noise)


class PretrainWorldModel(WorldModel):
    """World model of pre-training; latent actions are inferred by inverse dynamics, Eq. (11), or are zeros."""

    def __init__(self, config: WorldModelConfig, image_size: int = IMAGE_SIZE) -> None:
        super().__init__(config, image_size=image_size)
        if config.latent_action_source == "none":
            raise ConfigError(
                "world_model.latent_action_source=none: this method learns from scratch; start with finetune, "
                "or choose a --method that pre-trains"
            )
        inferred = config.latent_action_source == "inverse_dynamics"
        self.inverse_dynamics = InverseDynamicsEncoder(config, image_size) if inferred else None
        self.latent_action = config.latent_action
        initialise(self)

    @classmethod
    def of_run(cls, config: RunConfig) -> Self:
        """Build the networks of a run."""
        return cls(config.world_model, config.env.image_size)

    def infer_latent_actions(self, image: Tensor) -> LatentAction | None:
        """Distribution of the latent action of every pair of frames, ``(B, T, C, Hpx, Wpx) -> (B, T-1, L)``.

        None for an action-free model.
        """
        return None if self.inverse_dynamics is None else self.inverse_dynamics(image)

    def to_inputs(self, latent_action: Tensor | None, like: Tensor) -> Tensor:
        """Prepend zeros to latent actions ``(B, T-1, L)``, or return zeros: ``(B, T, L)``; ``like`` is ``(B, T)``."""
        if latent_action is None:
            return like.new_zeros(*like.shape, self.latent_action)
        return torch.cat([torch.zeros_like(latent_action[:, :1]), latent_action], dim=1)


class FinetuneWorldModel(WorldModel):
    """World model of fine-tuning, with latent actions from real ones and predicted rewards, Eq. (12).

    ``reward`` predicts reward plus intrinsic bonus and is used in imagination; ``aux_reward`` predicts only the reward,
    ``discount`` whether the episode continues. ``inverse_dynamics`` infers latent actions from frames, as in
    pre-training, and ``action_decoder`` the real action from them (:mod:`prelar_ray.learning.tied_actions`,
    :mod:`prelar_ray.learning.rehearsal`). All but ``reward`` are None where a run has no use for them.
    """

    def __init__(
        self,
        config: WorldModelConfig,
        action: int,
        aux_reward: bool = True,
        inverse_dynamics: bool = False,
        action_decoder: bool = False,
        discount: bool = False,
        vector: int = 0,
        image_size: int = IMAGE_SIZE,
    ) -> None:
        """Build for actions of size A and vectors of size V, with the optional parts that are named."""
        encoder = action_input(config, action)
        super().__init__(config, encoder.size, config.vector.units if vector else 0, image_size)
        self.action_encoder = encoder
        head = partial(scalar_head, self.rssm.feature, config.reward_head, config.reward_distribution)
        self.reward = head()
        self.aux_reward = head() if aux_reward else None
        self.inverse_dynamics = InverseDynamicsEncoder(config, image_size) if inverse_dynamics else None
        self.action_decoder: ActionDecoder | None = None
        if action_decoder:
            self.action_decoder = ActionDecoder(config.latent_action, config.action_encoder, action)
        self.discount = DiscountHead(self.rssm.feature, config.reward_head) if discount else None
        self.vector_encoder = VectorEncoder(vector, config.vector) if vector else None
        self.vector_head = VectorHead(self.rssm.feature, vector, config.vector) if vector else None
        initialise(self)

    @classmethod
    def of_run(cls, config: RunConfig, action: int, terminates: bool = False) -> Self:
        """Build with the parts that the losses of a run need.

        Args:
            action: numbers A in an action.
            terminates: whether episodes of the task can end before their time for what happens in them.
        """
        loss = config.loss
        switches = loss.aux_reward_weight > 0, config.finetunes_inverse_dynamics, loss.action_decoder_weight > 0
        return cls(
            config.world_model,
            action,
            *switches,
            discount=config.behaviour.learns_discount(terminates),
            vector=config.env.vector_size,
            image_size=config.env.image_size,
        )

    @property
    def pretrained(self) -> dict[str, nn.Module]:
        """Parts initialised from pre-training, by their name in its checkpoint (Algorithm 1, line 10)."""
        rssm = self.rssm.below if isinstance(self.rssm, StackedRSSM) else self.rssm
        parts: dict[str, nn.Module | None] = {"encoder": self.encoder, "rssm": rssm, "decoder": self.decoder}
        parts |= {"context_encoder": self.context_encoder, "inverse_dynamics": self.inverse_dynamics}
        return {name: part for name, part in parts.items() if part is not None}

    def parameter_groups(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """Parts of the two optimisers: encoders, inverse dynamics and pre-trained RSSM, and everything else."""
        perceiving = [part for name, part in self.pretrained.items() if name != "decoder"]
        acting = [self.rssm.above] if isinstance(self.rssm, StackedRSSM) else []
        heads = (self.aux_reward, self.action_decoder, self.discount, self.vector_encoder, self.vector_head)
        optional = (self.decoder, self.reward, *heads)
        return perceiving, [*acting, self.action_encoder, *(part for part in optional if part is not None)]
