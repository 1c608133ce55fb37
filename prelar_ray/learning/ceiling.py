"""Ceiling of the probe: a small network that is trained with the true actions on the frames themselves.

It says how much of the true action the frames show at all, to a network of minutes: a probe of the latent action that
finds as much has found what there is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prelar_ray.learning.probe import VALIDATION_SHARE, r2_scores
from prelar_ray.types import Frames

__all__ = ["PAIRS", "Ceiling", "Labelled", "ceiling"]

BATCH = 64
"""Pairs per update."""
PAIRS = 80_000
"""Pairs that the network is trained on at most, each counted as often as it comes: about a minute on one core."""
EPOCHS = 50
"""Times that each pair comes at most."""
CHECKS = 12
"""Times that the validation error is looked at until then."""
PATIENCE = 3
"""Looks without a lower validation error after which training ends."""
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2
SHIFT = 4
"""Pixels by which pictures are shifted in training, at most."""
CHANGE = 8.0
"""Factor of the change between frames, which is a few grey levels at most places."""

Array = npt.NDArray[np.float64]
Labelled = tuple[Frames, Array]
"""Frames of an episode ``(T, Hpx, Wpx, C)``, and the true action ``(T - k, A)`` of every pair of frames k apart."""


class Ceiling(NamedTuple):
    """Share of the variance of each dimension of the true action that the network explains on unseen episodes."""

    r2: list[float]
    """Per dimension, as of the probe; NaN where the action never varies."""
    pairs: int
    """Pairs trained on until the validation error was lowest."""


def ceiling(
    train: Sequence[Labelled],
    test: Iterable[Labelled],
    seed: int,
    frames: int = 2,
    on_pairs: Callable[[int], None] = lambda count: None,
) -> Ceiling:
    """Train on some episodes, stop where the error on a fifth of them is lowest, and score on others.

    The result is the same for the same seed on one machine and thread count.

    Args:
        train, test: at least one episode each; k is the difference of their numbers of frames and of actions.
        seed: of the network, its batches and the choice of validation episodes.
        frames: number of frames, k apart, that the inverse dynamics encoder sees; the network sees the same.
        on_pairs: called with the number of pairs just trained on.
    """
    rng = np.random.default_rng(seed)
    data = _Pairs(train, frames)
    fit, check = data.split(rng)
    offset, scale = data.action[fit].mean(0), data.action[fit].std(0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    goal = torch.from_numpy((data.action - offset) / scale).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(3 * frames, goal.shape[1], data.pictures.shape[1]).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        pairs = _fit(network, data, goal, fit, check, rng, on_pairs)
    scale = scale * _calibrated(_predict(network, data, check), goal[check].double().numpy())
    predicted, true = [], []
    for episode in test:  # one at a time, so that only one is in memory
        one = _Pairs([episode], frames)
        predicted.append(_predict(network, one, np.arange(len(one.action))) * scale + offset)
        true.append(one.action)
    return Ceiling(r2_scores(np.concatenate(predicted), np.concatenate(true)).tolist(), pairs)


class _Pairs:
    """Frames of episodes one after another, and which of them belong to each action."""

    def __init__(self, episodes: Sequence[Labelled], frames: int) -> None:
        lengths = [len(pictures) for pictures, _ in episodes]
        self.pictures = np.concatenate([pictures for pictures, _ in episodes])  # (sum of T, Hpx, Wpx, C)
        self.action = np.concatenate([action for _, action in episodes])  # (N, A)
        rows = []
        for first, length, (_, action) in zip(np.cumsum([0, *lengths]), lengths, episodes, strict=False):
            stride = length - len(action)
            last = np.arange(stride, length)[:, None] - stride * np.arange(frames)[::-1]
            # Before the first frame is the first frame, of those that are a multiple of k steps away.
            rows.append(first + np.where(last < 0, last % stride, last))
        self.rows = np.concatenate(rows)  # (N, frames), in order of time
        self.episode = np.repeat(np.arange(len(episodes)), [len(action) for _, action in episodes])

    def split(self, rng: np.random.Generator) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the pairs to fit to and those to check on: of other episodes, or later ones of a single episode."""
        count = self.episode[-1] + 1
        if count == 1:
            held_back = np.arange(len(self.action)) >= max(1, round((1 - VALIDATION_SHARE) * len(self.action)))
        else:
            chosen = rng.permutation(count)[: max(1, round(VALIDATION_SHARE * count))]
            held_back = np.isin(self.episode, chosen)
        return np.flatnonzero(~held_back), np.flatnonzero(held_back)

    def inputs(self, index: npt.NDArray[np.int64]) -> Tensor:
        """Return ``(N, 3 * frames, Hpx, Wpx)``, channels last: the last frame, and how the others differ from it."""
        *others, last = (torch.from_numpy(self.pictures[rows]).float().div_(255) for rows in self.rows[index].T)
        parts = [last - 0.5, *(CHANGE * (last - other) for other in others)]  # (N, Hpx, Wpx, C) each
        return torch.cat(parts, dim=-1).permute(0, 3, 1, 2)


def _network(channels: int, outputs: int, image_size: int) -> nn.Sequential:
    """Return convolutions that halve frames down to 4x4, and two layers."""
    layers: list[nn.Module] = []
    widths = [channels, 16, 32, *[64] * ((image_size // 4).bit_length() - 3)]
    for inputs, size in pairwise(widths):
        layers += [nn.Conv2d(inputs, size, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 4 * 4, 128), nn.ReLU(), nn.Linear(128, outputs))


def _fit(
    network: nn.Sequential,
    data: _Pairs,
    goal: Tensor,
    fit: npt.NDArray[np.int64],
    check: npt.NDArray[np.int64],
    rng: np.random.Generator,
    on_pairs: Callable[[int], None],
) -> int:
    """Leave the network as it was when its error on ``check`` was lowest; return the pairs that this took."""
    updates = max(CHECKS, min(PAIRS, EPOCHS * len(fit)) // BATCH)
    adam = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, LEARNING_RATE, total_steps=updates)
    best, lowest, least_at, since = copy.deepcopy(network.state_dict()), float("inf"), 0, 0
    for update in range(1, updates + 1):
        chosen = rng.choice(fit, BATCH)
        loss = F.mse_loss(network(_shifted(data.inputs(chosen), rng)), goal[chosen])
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        on_pairs(BATCH)
        if update % (updates // CHECKS) == 0:
            error = float(np.square(_predict(network, data, check) - goal[check].numpy()).mean())
            since += 1
            if error < lowest:
                best, lowest, least_at, since = copy.deepcopy(network.state_dict()), error, update * BATCH, 0
            if since == PATIENCE:
                break
    network.load_state_dict(best)
    return least_at


def _shifted(inputs: Tensor, rng: np.random.Generator) -> Tensor:
    """Return pictures that are shifted by some pixels, their borders repeated: the same motion at another place."""
    x, y = rng.integers(2 * SHIFT + 1, size=2)
    side = inputs.shape[-1]
    return F.pad(inputs, [SHIFT] * 4, mode="replicate")[..., y : y + side, x : x + side]


def _calibrated(predicted: Array, true: Array) -> Array:
    """Return the factor, 0 to 1 per dimension, that brings predictions nearest to true values of mean 0, ``(A,)``."""
    squares = np.square(predicted).sum(0)
    return ((predicted * true).sum(0) / np.where(squares > 0, squares, 1.0)).clip(0, 1)


@torch.no_grad()
def _predict(network: nn.Sequential, data: _Pairs, index: npt.NDArray[np.int64]) -> Array:
    parts = [network(data.inputs(index[i : i + BATCH])).double().numpy() for i in range(0, len(index), BATCH)]
    return np.concatenate(parts)
