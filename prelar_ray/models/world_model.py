"""The parts put together: the world model of either phase."""

from __future__ import annotations

from torch import nn

from prelar_ray.config.schema import WorldModelConfig
from prelar_ray.models.action_encoder import ActionEncoder
from prelar_ray.models.image_decoder import ImageDecoder
from prelar_ray.models.image_encoder import ImageEncoder
from prelar_ray.models.inverse_dynamics import InverseDynamicsEncoder
from prelar_ray.models.layers import MLP, initialise
from prelar_ray.models.rssm import RSSM

__all__ = ["TRANSFERRED", "FinetuneWorldModel", "PretrainWorldModel", "WorldModel"]

TRANSFERRED = ("encoder", "rssm", "decoder")
"""Parts that fine-tuning takes over from pre-training (Algorithm 1, line 10)."""


class WorldModel(nn.Module):
    """What both phases share: image encoder, RSSM on latent actions, image decoder."""

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.encoder = ImageEncoder(config.encoder)
        self.rssm = RSSM(config.rssm, self.encoder.size, config.latent_action)
        self.decoder = ImageDecoder(self.rssm.feature, config.decoder)


class PretrainWorldModel(WorldModel):
    """World model of pre-training: latent actions come from the inverse dynamics encoder, Eq. (11)."""

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__(config)
        self.inverse_dynamics = InverseDynamicsEncoder(
            config.inverse_dynamics, config.inverse_dynamics_head, config.latent_action
        )
        initialise(self)


class FinetuneWorldModel(WorldModel):
    """World model of fine-tuning: latent actions come from the action encoder, and rewards are predicted, Eq. (12).

    ``reward`` regresses reward plus intrinsic bonus and is the head imagination uses; ``aux_reward`` the plain reward.
    """

    def __init__(self, config: WorldModelConfig, action: int) -> None:
        super().__init__(config)
        self.action_encoder = ActionEncoder(action, config.action_encoder, config.latent_action)
        self.reward = MLP(self.rssm.feature, config.reward_head)
        self.aux_reward = MLP(self.rssm.feature, config.reward_head)
        initialise(self)
