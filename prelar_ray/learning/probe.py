"""Probe: a linear map from the latent action to the true action. Only the map is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from prelar_ray.models.preprocess import preprocess_image
from prelar_ray.models.world_model import PretrainWorldModel
from prelar_ray.types import Frames

__all__ = ["VALIDATION_SHARE", "Probe", "infer_points", "probe", "r2_scores", "variance_explained"]

STRENGTHS = tuple(10.0**exponent for exponent in range(-6, 3))
"""Ridge penalties tried, per row and in units of the standardised inputs' variance."""
VALIDATION_SHARE = 0.2
"""Share of the training episodes on which the penalty is chosen."""
CHUNK = 64
"""Frames per forward pass of the network."""

Array = npt.NDArray[np.float64]


class Probe(NamedTuple):
    """Share of the variance of each dimension of the true action that the map explains on unseen episodes."""

    r2: list[float]
    """Per dimension: 1 perfect, 0 no better than the mean, negative worse; NaN where the action never varies."""
    r2_permuted: list[float]
    """The same with latent and true actions paired at random: about 0 unless information leaks."""
    strength: float
    """Ridge penalty chosen."""
    test_steps: int


def infer_points(model: PretrainWorldModel, frames: Frames, stride: int = 1) -> Array:
    """Return the latent action of every pair of frames ``stride`` = k steps apart, ``(T, Hpx, Wpx, C) -> (T-k, L)``.

    Args:
        model: with latent actions, in evaluation mode.
        frames: more than k.
        stride: steps between the frames of the clips that the model was pre-trained on.
    """
    parts = [_successive_points(model, frames[first::stride]) for first in range(min(stride, len(frames) - stride))]
    points = np.empty((len(frames) - stride, parts[0].shape[1]))
    for first, part in enumerate(parts):
        points[first::stride] = part
    return points


@torch.no_grad()
def _successive_points(model: PretrainWorldModel, frames: Frames) -> Array:
    """Return the latent action of every pair of successive frames, ``(T, Hpx, Wpx, C) -> (T-1, L)``."""
    assert model.inverse_dynamics is not None
    weight = next(model.parameters())
    points = []
    for start in range(0, len(frames) - 1, CHUNK):
        first = max(0, start - model.inverse_dynamics.frames + 2)  # of those that the first pair is seen with
        chunk = torch.from_numpy(frames[first : start + CHUNK + 1].copy()).to(weight.device)
        latent = model.infer_latent_actions(preprocess_image(chunk, weight.dtype).unsqueeze(0))
        assert latent is not None
        points.append(latent.point[0, start - first :].double().cpu().numpy())
    return np.concatenate(points)


def probe(train: Sequence[tuple[Array, Array]], test: Sequence[tuple[Array, Array]], rng: np.random.Generator) -> Probe:
    """Fit by ridge regression on some episodes and score on others.

    Args:
        train, test: per episode, latent actions ``(T-1, L)`` and the true actions ``(T-1, A)`` to predict; at least one
            episode each.
        rng: chooses validation episodes and the random pairing.
    """
    strength = _choose_strength(train, rng)
    inputs, targets = _rows(train)
    test_inputs, test_targets = _rows(test)
    fit = _Ridge(inputs, targets, strength)
    permuted = _Ridge(inputs, rng.permutation(targets), strength)
    return Probe(
        r2=r2_scores(fit.predict(test_inputs), test_targets).tolist(),
        r2_permuted=r2_scores(permuted.predict(test_inputs), rng.permutation(test_targets)).tolist(),
        strength=strength,
        test_steps=len(test_inputs),
    )


def variance_explained(
    train: Sequence[tuple[Array, Array]], test: Sequence[tuple[Array, Array]], rng: np.random.Generator
) -> float | None:
    """Return the share of the latent action's variance that a linear map from something else explains.

    Dimensions count by their variance, which is taken around the mean of the training rows: a scene of its own in an
    unseen episode counts as unexplained, not as worse than nothing. None where no dimension varies.

    Args:
        train, test: per episode, what may explain ``(T-1, D)`` and the latent actions ``(T-1, L)``.
        rng: chooses validation episodes.
    """
    causes, latents = _rows(train)
    fit = _Ridge(causes, latents, _choose_strength(train, rng))
    inputs, true = _rows(test)
    total = float(np.square(true - latents.mean(axis=0)).sum())
    return 1 - float(np.square(true - fit.predict(inputs)).sum()) / total if total > 1e-12 else None


class _Ridge:
    """Ridge regression in closed form on standardised inputs and targets (statistics of the training rows)."""

    def __init__(self, inputs: Array, targets: Array, strength: float) -> None:
        self._mean, self._scale = inputs.mean(axis=0), _scale(inputs)
        self._offset = targets.mean(axis=0)
        x = (inputs - self._mean) / self._scale
        penalty = strength * len(x) * np.eye(x.shape[1])
        self._weights = np.linalg.solve(x.T @ x + penalty, x.T @ (targets - self._offset))

    def predict(self, inputs: Array) -> Array:
        """``(N, L) -> (N, A)``."""
        result: Array = (inputs - self._mean) / self._scale @ self._weights + self._offset
        return result


def _choose_strength(episodes: Sequence[tuple[Array, Array]], rng: np.random.Generator) -> float:
    """Return the penalty with the least squared error on held-back episodes, or the last steps of a single episode."""
    if len(episodes) == 1:
        inputs, targets = episodes[0]
        stop = max(1, round((1 - VALIDATION_SHARE) * len(inputs)))
        fit, check = [(inputs[:stop], targets[:stop])], [(inputs[stop:], targets[stop:])]
    else:
        order = rng.permutation(len(episodes))
        count = max(1, round(VALIDATION_SHARE * len(episodes)))
        check, fit = [episodes[i] for i in order[:count]], [episodes[i] for i in order[count:]]
    inputs, targets = _rows(check)
    scale = _scale(_rows(fit)[1])

    def error(strength: float) -> float:
        return float(np.square((_Ridge(*_rows(fit), strength).predict(inputs) - targets) / scale).sum())

    return min(STRENGTHS, key=error)


def _rows(episodes: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    return np.concatenate([x for x, _ in episodes]), np.concatenate([y for _, y in episodes])


def _scale(x: Array) -> Array:
    """Return the standard deviation per column; 1 where it is 0, so that such a column becomes zeros."""
    std: Array = x.std(axis=0)
    return np.where(std > 1e-12, std, 1.0)


def r2_scores(predicted: Array, true: Array) -> Array:
    """Return the coefficient of determination per column ``(N, A) -> (A,)``; NaN where the true column is constant."""
    residual = np.square(true - predicted).sum(axis=0)
    total = np.square(true - true.mean(axis=0)).sum(axis=0)
    return np.where(total > 1e-12, 1 - residual / np.where(total > 1e-12, total, 1.0), np.nan)
