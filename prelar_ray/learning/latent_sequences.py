"""Effect of latent actions on frames, the paper's Fig. 1, predicted from one frame each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from prelar_ray.errors import UsageError
from prelar_ray.learning.prediction import roll_out
from prelar_ray.models.latent_action import CategoricalAction, DeterministicAction
from prelar_ray.models.noise import Noise
from prelar_ray.models.preprocess import postprocess_image, preprocess_image
from prelar_ray.models.world_model import PretrainWorldModel
from prelar_ray.types import Frames

__all__ = ["apply_sequences", "inferred_sequences", "sampled_sequences"]


@torch.no_grad()
def inferred_sequences(model: PretrainWorldModel, clips: Frames) -> Tensor:
    """Return the latent actions of real clips, ``(B, T, Hpx, Wpx, C) -> (B, T-1, L)``."""
    latent = model.infer_latent_actions(preprocess_image(_on_device(model, clips)))
    assert latent is not None
    return latent.point


@torch.no_grad()
def sampled_sequences(model: PretrainWorldModel, clips: Frames, noise: Noise, prior_std: float) -> Tensor:
    """Return latent actions sampled from the prior, one per sequence and constant over time, ``(B, T-1, L)``.

    Independent samples at each step would cancel out.

    Args:
        model: in evaluation mode.
        clips: ``(B, T, Hpx, Wpx, C)``; they determine only the type and shape of the distribution.
        noise: random numbers of the samples.
        prior_std: standard deviation of the prior of Gaussian latent actions; categorical ones are uniform.

    Raises:
        UsageError: deterministic latent actions have no prior.
    """
    latent = model.infer_latent_actions(preprocess_image(_on_device(model, clips[:, :2])))
    assert latent is not None
    if isinstance(latent, DeterministicAction):
        raise UsageError("--from prior: a deterministic latent action has no prior to sample from; use --from clips")
    if isinstance(latent, CategoricalAction):
        drawn = latent._replace(logits=torch.zeros_like(latent.logits)).sample(noise)
    else:
        drawn = latent._replace(mean=0 * latent.mean, std=torch.full_like(latent.std, prior_std)).sample(noise)
    return drawn.expand(-1, clips.shape[1] - 1, -1)


@torch.no_grad()
def apply_sequences(model: PretrainWorldModel, starts: Frames, sequences: Tensor) -> Frames:
    """Predict from one start frame per row, ``(B, Hpx, Wpx, C), (B, T-1, L) -> (B, T, Hpx, Wpx, C)``, start first."""
    seen = preprocess_image(_on_device(model, starts)).unsqueeze(1)  # (B, 1, C, Hpx, Wpx)
    latent_action = F.pad(sequences, (0, 0, 1, 0))  # nothing led to the first frame
    frames = torch.cat([seen, roll_out(model, seen, latent_action)], dim=1)
    result: Frames = postprocess_image(frames).cpu().numpy()
    return result


def _on_device(model: PretrainWorldModel, frames: Frames) -> Tensor:
    return torch.from_numpy(frames.copy()).to(next(model.parameters()).device)
