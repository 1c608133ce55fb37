"""Reconstruction and open-loop prediction of a clip by the world model, for the report."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from prelar_ray.models.noise import Deterministic
from prelar_ray.models.preprocess import postprocess_image
from prelar_ray.models.world_model import WorldModel
from prelar_ray.types import Frames

__all__ = ["Prediction", "context_frames", "predict", "roll_out"]


class Prediction(NamedTuple):
    """Frames uint8 ``(T, Hpx, Wpx, C)``; the first ``context`` of ``open_loop`` are reconstructions."""

    true: Frames
    reconstructed: Frames
    open_loop: Frames
    context: int


@torch.no_grad()
def predict(
    model: WorldModel, image: Tensor, latent_action: Tensor, context: int, vector: Tensor | None = None
) -> Prediction:
    """Decode posterior states, and prior states rolled out from the last context frame under the latent actions.

    Args:
        model: in evaluation mode.
        image: preprocessed ``(1, T, C, Hpx, Wpx)``.
        latent_action: ``(1, T, L)``.
        context: frames that are observed before prediction starts, at least 1 and less than T.
        vector: ``(1, T, V)``, for a model of fine-tuning that observes vectors.
    """
    is_first = torch.zeros_like(image[:, :, 0, 0, 0])
    is_first[:, 0] = 1
    posterior = model.rssm.filter(model.observed(image, vector), latent_action, is_first)
    last = posterior.at((slice(None), context - 1))
    prior = model.rssm.imagine(last, latent_action[:, context:])
    feature = torch.cat([posterior.feature, prior.feature], dim=1)
    decoded = model.decode(feature, torch.cat([image, image[:, context:]], dim=1), Deterministic())
    reconstructed, predicted = decoded.split([image.shape[1], image.shape[1] - context], dim=1)
    open_loop = torch.cat([reconstructed[:, :context], predicted], dim=1)
    arrays = [postprocess_image(x)[0].cpu().numpy() for x in (image, reconstructed, open_loop)]
    return Prediction(arrays[0], arrays[1], arrays[2], context)


@torch.no_grad()
def roll_out(model: WorldModel, seen: Tensor, latent_action: Tensor) -> Tensor:
    """Predict frames with the prior after the seen ones, under the remaining latent actions.

    Args:
        model: in evaluation mode.
        seen: preprocessed ``(B, t, C, Hpx, Wpx)``, t at least 1.
        latent_action: ``(B, T, L)``, T above t; index t led to step t.

    Returns:
        Decoded ``(B, T - t, C, Hpx, Wpx)``.
    """
    length = seen.shape[1]
    is_first = torch.zeros_like(seen[:, :, 0, 0, 0])
    is_first[:, 0] = 1
    posterior = model.rssm.filter(model.observed(seen), latent_action[:, :length], is_first)
    prior = model.rssm.imagine(posterior.at((slice(None), -1)), latent_action[:, length:])
    # A context encoder takes a batch of the decoded length and uses its first frame.
    repeated = seen[:, :1].expand(-1, latent_action.shape[1] - length, -1, -1, -1)
    return model.decode(prior.feature, repeated, Deterministic())


def context_frames(length: int) -> int:
    """Return the number of context frames of a clip of ``length`` frames: a quarter, 5 at most."""
    return max(1, min(5, length // 4))
