"""What the latent action tells of the true one: the probe beside its ceiling, and on which episodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prelar_ray.checkpoint.transfer import Pretrained
from prelar_ray.errors import UsageError
from prelar_ray.learning.ceiling import PAIRS, Labelled, ceiling
from prelar_ray.learning.probe import infer_points, probe
from prelar_ray.seeding import derive_seed, generator
from prelar_ray.storage.records import CeilingScores, ProbeScores
from prelar_ray.telemetry.progress import Progress
from prelar_ray.types import Frames
from prelar_ray.video.actions import ActionFile, Actions
from prelar_ray.video.mixture import VideoMixture

__all__ = ["STREAM", "LabelledVideos", "MeasureCeiling", "Split", "probe_scores", "supervised_ceiling"]

STREAM = "diagnosis"
"""Name of the seeds in :mod:`prelar_ray.seeding`; another name would change every number."""
TEST_SHARE = 0.2
"""Share of the episodes on which the probe is tested if pre-training held none of them out."""
MOST_PAIRS = 30_000
"""Pairs of frames from which the ceiling's network learns at most; their frames are held in memory."""
SHOWN = 0.01
"""R² of the ceiling from which on the probe is compared with it."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LabelledVideos:
    """The episodes of a store whose true actions are known, cut to pairs of frames k steps apart."""

    store: VideoMixture
    stride: int
    """Steps k between the frames of a pair."""
    actions: dict[int, Array]
    """True action of each pair ``(T - k, A)``, by episode: the mean of the k actions that led from one to the other."""

    @classmethod
    def of(cls, store: VideoMixture, files: Sequence[ActionFile], stride: int) -> LabelledVideos:
        """Look up the actions of a store in the first file that has them.

        Raises:
            UsageError: the files are of other videos.
        """
        found = {episode: _actions_of(store.frames(episode), files) for episode in range(len(store))}
        actions = {
            episode: np.lib.stride_tricks.sliding_window_view(action[1:].astype(np.float64), stride, 0).mean(-1)
            for episode, action in found.items()
            if action is not None and len(action) > stride
        }
        if not actions:
            raise UsageError(
                f"{files[0].path}: actions of other videos; none of the {len(store)} in the store is among them"
            )
        return cls(store, stride, actions)

    def labelled(self, episode: int) -> Labelled:
        """Return the frames of an episode and its true actions."""
        return self.store.frames(episode), self.actions[episode]


class Split(NamedTuple):
    """Episodes that probe and ceiling are fitted to, and those that they are tested on."""

    train: list[int]
    test: list[int]

    @classmethod
    def choose(cls, episodes: Sequence[int], unseen: Sequence[int], rng: np.random.Generator) -> Split:
        """Test on the episodes that pre-training never saw, or on a random share where that is all of them or none."""
        fresh = set(unseen)
        test = [episode for episode in episodes if episode in fresh]
        if not 0 < len(test) < len(episodes):
            order = rng.permutation(list(episodes)).tolist()
            test = order[: max(1, round(TEST_SHARE * len(order)))]
        return cls([episode for episode in episodes if episode not in test], test)


MeasureCeiling = Callable[[LabelledVideos, Split, int, Progress], CeilingScores]
"""Returns the ceiling for these videos, split and seed."""


def supervised_ceiling(videos: LabelledVideos, split: Split, seed: int, progress: Progress) -> CeilingScores:
    """Train a network on the true actions; about a minute on one core."""
    order = generator(seed, STREAM, 3).permutation(split.train).tolist()
    room = np.cumsum([len(videos.actions[episode]) for episode in order]) <= MOST_PAIRS
    chosen = order[: max(1, int(room.sum()))]
    with progress.phase("ceiling", PAIRS, "pairs") as phase:
        found = ceiling(
            [videos.labelled(episode) for episode in chosen],
            (videos.labelled(episode) for episode in split.test),
            derive_seed(seed, STREAM, 4),
            on_pairs=phase.advance,
        )
    return CeilingScores(
        r2=_mean(found.r2),
        r2_by_dimension=[_finite(value) for value in found.r2],
        train_episodes=len(chosen),
        trained_pairs=found.pairs,
    )


def probe_scores(
    pretrained: Pretrained,
    videos: LabelledVideos,
    unseen: Sequence[int],
    seed: int,
    progress: Progress,
    measure_ceiling: MeasureCeiling | None,
) -> tuple[ProbeScores | None, str]:
    """Fit and test the probe.

    Args:
        pretrained: the model.
        videos: with their true actions.
        unseen: episodes that pre-training never saw.
        seed: of the split, and of what probe and ceiling choose at random.
        progress: shows the episodes that are read, and the training of the ceiling.
        measure_ceiling: None leaves it out.

    Returns:
        The scores, or why there are none.
    """
    sizes = sorted({action.shape[1] for action in videos.actions.values()})
    if len(sizes) > 1:
        return None, f"true actions of different sizes: {', '.join(map(str, sizes))}"
    if len(videos.actions) == 1:
        return None, "true actions of one episode only; none is left to test on"
    pairs = _pairs(pretrained, videos, progress)
    rng = generator(seed, STREAM, 2)
    split = Split.choose(list(pairs), unseen, rng)
    found = probe([pairs[i] for i in split.train], [pairs[i] for i in split.test], rng)
    limit = None if measure_ceiling is None else measure_ceiling(videos, split, seed, progress)
    r2 = _mean(found.r2)
    scores = ProbeScores(
        r2=r2,
        r2_by_dimension=[_finite(value) for value in found.r2],
        r2_permuted=_mean(found.r2_permuted),
        ridge=found.strength,
        train_episodes=len(split.train),
        test_episodes=len(split.test),
        test_steps=found.test_steps,
        unseen=set(split.test) <= set(unseen),
        ceiling=limit,
        r2_over_ceiling=_over(r2, None if limit is None else limit.r2),
    )
    return scores, ""


def _pairs(pretrained: Pretrained, videos: LabelledVideos, progress: Progress) -> dict[int, tuple[Array, Array]]:
    """Return latent ``(T - k, L)`` and true actions ``(T - k, A)`` by episode."""
    pairs = {}
    with progress.phase("probe", len(videos.actions), "episodes") as phase:
        for episode in videos.actions:
            frames, action = videos.labelled(episode)
            pairs[episode] = infer_points(pretrained.model, frames, videos.stride), action
            phase.advance()
    return pairs


def _actions_of(frames: Frames, actions: Sequence[ActionFile]) -> Actions | None:
    return next((found for file in actions if (found := file.of(frames)) is not None), None)


def _over(r2: float | None, ceiling: float | None) -> float | None:
    return None if r2 is None or ceiling is None or ceiling < SHOWN else r2 / ceiling


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
