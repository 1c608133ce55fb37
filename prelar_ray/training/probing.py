"""What the latent action tells of the true one: the probe beside its ceiling, and on which episodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prelar_ray.checkpoint.transfer import Pretrained
from prelar_ray.config import RunConfig
from prelar_ray.errors import UsageError
from prelar_ray.learning.ceiling import PAIRS, Labelled, ceiling
from prelar_ray.learning.probe import infer_points, probe, variance_explained
from prelar_ray.seeding import derive_seed, generator
from prelar_ray.storage.records import CeilingScores, ProbeScores, finite
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
"""R² of the ceiling from which on a dimension of the action counts as shown by the frames."""

Array = npt.NDArray[np.float64]
Pairs = tuple[Array, Array]
"""Latent ``(T - k, L)`` and true actions ``(T - k, A)`` of an episode's pairs of frames."""


@dataclass(frozen=True)
class LabelledVideos:
    """The episodes of a store whose true actions are known, cut to pairs of frames k steps apart."""

    store: VideoMixture
    stride: int
    """Steps k between the frames of a pair."""
    frames: int
    """Frames, k steps apart, that the inverse dynamics encoder sees of each pair, the two among them."""
    actions: dict[int, Array]
    """True action of each pair ``(T - k, A)``, by episode: the mean of the k actions that led from one to the other."""
    nuisance: dict[int, Array]
    """Motion of what moves by itself between the frames of each pair ``(T - k, D)``, where it is known, a mean too."""

    @classmethod
    def of(cls, store: VideoMixture, files: Sequence[ActionFile], config: RunConfig) -> LabelledVideos:
        """Look up the actions of a store in the first file that has them, for pairs as a pre-training sees them.

        Raises:
            UsageError: the files are of other videos.
        """
        stride, frames = config.pretrain.stride, config.world_model.inverse_dynamics_frames
        actions, nuisance = {}, {}
        for episode in np.flatnonzero(store.lengths > stride).tolist():
            action, moved = _find(store.frames(episode), files)
            if action is not None:
                actions[episode] = _mean_between(action, stride)
            if moved is not None:
                nuisance[episode] = _mean_between(moved, stride)
        if not actions:
            raise UsageError(
                f"{files[0].path}: actions of other videos; none of the {len(store)} in the store is among them"
            )
        return cls(store, stride, frames, actions, nuisance)

    @property
    def sources(self) -> dict[int, str]:
        """Name of the task, or whatever the store says that each episode came from."""
        names = self.store.sources
        return {episode: names[episode] for episode in self.actions}

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
            videos.frames,
            on_pairs=phase.advance,
        )
    return CeilingScores(
        r2=_mean(found.r2),
        r2_by_dimension=[finite(value) for value in found.r2],
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
    scores = ProbeScores(
        r2=_mean(found.r2),
        r2_by_dimension=[finite(value) for value in found.r2],
        r2_permuted=_mean(found.r2_permuted),
        ridge=found.strength,
        train_episodes=len(split.train),
        test_episodes=len(split.test),
        test_steps=found.test_steps,
        unseen=set(split.test) <= set(unseen),
        ceiling=limit,
        r2_over_ceiling=None if limit is None else _share(found.r2, limit.r2_by_dimension),
        r2_by_held_out_task=_held_out_tasks(pairs, videos.sources, generator(seed, STREAM, 5)),
        **_explained(pairs, videos, split, generator(seed, STREAM, 6)),
    )
    return scores, ""


def _held_out_tasks(
    pairs: Mapping[int, Pairs], sources: Mapping[int, str], rng: np.random.Generator
) -> dict[str, float | None]:
    """Return R² on all episodes of each source of a probe fitted to those of all others; empty for a single source."""
    scores: dict[str, float | None] = {}
    for name in sorted(set(sources.values())):
        others = [pair for episode, pair in pairs.items() if sources[episode] != name]
        own = [pair for episode, pair in pairs.items() if sources[episode] == name]
        if others:
            scores[name] = _mean(probe(others, own, rng).r2)
    return scores


def _explained(
    pairs: Mapping[int, Pairs], videos: LabelledVideos, split: Split, rng: np.random.Generator
) -> dict[str, float | None]:
    """Return the shares of the latent action's variance that the true action and the nuisance explain linearly.

    Both are measured on the same episodes: those whose nuisance is known, or all of them where none is.
    """
    known = set(videos.nuisance or videos.actions)
    train, test = ([episode for episode in part if episode in known] for part in split)
    if not train or not test:
        return {}
    causes = {"explained_by_action": videos.actions, "explained_by_nuisance": videos.nuisance}
    return {
        name: variance_explained(
            [(cause[episode], pairs[episode][0]) for episode in train],
            [(cause[episode], pairs[episode][0]) for episode in test],
            rng,
        )
        for name, cause in causes.items()
        if cause
    }


def _pairs(pretrained: Pretrained, videos: LabelledVideos, progress: Progress) -> dict[int, Pairs]:
    """Return latent ``(T - k, L)`` and true actions ``(T - k, A)`` by episode."""
    pairs = {}
    with progress.phase("probe", len(videos.actions), "episodes") as phase:
        for episode in videos.actions:
            frames, action = videos.labelled(episode)
            pairs[episode] = infer_points(pretrained.model, frames, videos.stride), action
            phase.advance()
    return pairs


def _find(frames: Frames, files: Sequence[ActionFile]) -> tuple[Actions | None, Actions | None]:
    """Return actions and nuisance of an episode from the first file that has it."""
    return next((found for file in files if (found := file.find(frames)) is not None), (None, None))


def _mean_between(values: Actions, stride: int) -> Array:
    """Return the mean of the rows that led from each frame to that ``stride`` steps later, ``(T, A) -> (T - k, A)``."""
    windows = np.lib.stride_tricks.sliding_window_view(values[1:].astype(np.float64), stride, 0)
    mean: Array = windows.mean(-1)
    return mean


def _share(r2: Sequence[float], ceiling: Sequence[float | None]) -> float | None:
    """Return the sum of R² over that of the ceiling, of the dimensions that the frames show; None without any."""
    shown = [(found, most) for found, most in zip(r2, ceiling, strict=True) if most is not None and most >= SHOWN]
    return sum(found for found, _ in shown) / sum(most for _, most in shown) if shown else None


def _mean(values: Sequence[float]) -> float | None:
    usable = [value for value in values if math.isfinite(value)]
    return sum(usable) / len(usable) if usable else None
