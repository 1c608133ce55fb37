"""Diagnostics of the latent action on held-out clips; docs/diagnostics.md explains them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prelar_ray.learning.consistency import action_distances, state_distances
from prelar_ray.learning.prediction import roll_out
from prelar_ray.models.image_decoder import image_log_prob
from prelar_ray.models.latent_action import DeterministicAction
from prelar_ray.models.noise import Noise
from prelar_ray.models.world_model import PretrainWorldModel

__all__ = [
    "ACTIVE_VARIANCE",
    "Measurement",
    "diagnostic_metrics",
    "mean_kl",
    "measure",
    "rank_correlation",
]

ACTIVE_VARIANCE = 0.01
"""Variance over pairs of frames above which a dimension of the latent action is active (Burda et al., 2016)."""

Array = npt.NDArray[np.float64]


class Measurement(NamedTuple):
    """Measurements of one batch of clips: N pairs of successive frames, M predicted frames."""

    state_distance: Array
    """Distances that the consistency loss compares, nats: ``(N,)``."""
    action_distance: Array
    """``(N,)``."""
    point: Array
    """Latent actions, ``(N, L)``."""
    kl: Array | None
    """KL to the prior per dimension or group, nats: ``(N, L)``; None for a deterministic latent action."""
    error: dict[str, Array]
    """Half the squared error of each predicted frame, summed over pixels, ``(M,)``, by source of the latent actions."""


@torch.no_grad()
def measure(
    model: PretrainWorldModel, image: Tensor, context: int, noise: Noise, action_prior_std: float = 1.0
) -> Measurement | None:
    """Measure one batch; None for an action-free model.

    Args:
        model: in evaluation mode.
        image: preprocessed ``(B, T, C, Hpx, Wpx)``, B at least 2: latent actions are swapped between rows.
        context: frames that are observed before prediction starts, at least 1 and less than T.
        noise: samples states, latent actions and the swapped rows for the distances. Predictions use modes.
        action_prior_std: standard deviation of the prior of Gaussian latent actions.
    """
    latent = model.infer_latent_actions(image)
    if latent is None:
        return None
    rssm = model.rssm
    is_first = torch.zeros_like(image[:, :, 0, 0, 0])
    is_first[:, 0] = 1
    permutation = noise.derangement(len(image))

    sample = model.to_inputs(latent.sample(noise), is_first)
    gumbel = noise.gumbel(*is_first.shape, rssm.groups, rssm.classes)
    posterior, prior = rssm.observe(model.observed(image), sample, is_first, gumbel=gumbel)

    own = model.to_inputs(latent.point, is_first)
    given = {"own": own, "shuffled": own[permutation], "zero": torch.zeros_like(own)}
    seen, true = image[:, :context], image[:, context:]
    predicted = {
        # All predictions share the context; only the frames after it differ.
        kind: roll_out(model, seen, torch.cat([own[:, :context], action[:, context:]], dim=1))
        for kind, action in given.items()
    }
    predicted["repeated"] = image[:, context - 1 : context].expand_as(true)
    return Measurement(
        state_distance=_array(state_distances(rssm, posterior, prior, sample, permutation)),
        action_distance=_array(action_distances(latent, permutation)),
        point=_array(latent.point.flatten(0, 1)),
        kl=None if isinstance(latent, DeterministicAction) else _array(latent.kl(action_prior_std).flatten(0, 1)),
        error={kind: _array(-image_log_prob(frames, true).flatten()) for kind, frames in predicted.items()},
    )


def diagnostic_metrics(batches: Sequence[Measurement]) -> dict[str, float]:
    """Return the diagnostics over all batches, by metric name."""
    states = np.concatenate([batch.state_distance for batch in batches])
    actions = np.concatenate([batch.action_distance for batch in batches])
    covariance = np.atleast_2d(np.cov(np.concatenate([batch.point for batch in batches]), rowvar=False))  # (L, L)
    metrics = {
        "latent/spearman": rank_correlation(states, actions),
        "latent/active_units": float((covariance.diagonal() > ACTIVE_VARIANCE).sum()),
        "latent/participation_ratio": _participation_ratio(covariance),
    }
    kl = mean_kl(batches)
    if kl is not None:
        metrics |= {"latent/kl": float(kl.sum()), "latent/kl_largest": float(kl.max())}
    error = {kind: float(np.concatenate([b.error[kind] for b in batches]).mean()) for kind in batches[0].error}
    metrics |= {f"open_loop/{kind}": value for kind, value in error.items()}
    return metrics | {"open_loop/shuffled_over_own": error["shuffled"] / max(error["own"], np.finfo(float).tiny)}


def mean_kl(batches: Sequence[Measurement]) -> Array | None:
    """Return the mean KL to the prior per dimension, nats ``(L,)``; None for a deterministic latent action."""
    parts = [batch.kl for batch in batches if batch.kl is not None]
    if not parts:
        return None
    mean: Array = np.concatenate(parts).mean(axis=0)
    return mean


def rank_correlation(x: Array, y: Array) -> float:
    """Return Spearman's rank correlation of ``(N,)`` values; 0 where all values of one side tie."""
    from scipy.stats import spearmanr  # imported here because a learner on a GPU machine may lack scipy

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(spearmanr(x, y).statistic)


def _participation_ratio(covariance: Array) -> float:
    """Return the effective number of directions of variation: ``tr(C)^2 / tr(C^2)``, 1 to L; 0 without variation."""
    squares = float(np.square(covariance).sum())
    return float(covariance.trace() ** 2 / squares) if squares > 0 else 0.0


def _array(values: Tensor) -> Array:
    result: Array = values.double().cpu().numpy()
    return result
