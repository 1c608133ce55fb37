"""All diagnostics of a pre-trained world model on a video store, with the probe where true actions are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from prelar_ray.checkpoint.transfer import Pretrained
from prelar_ray.config import VideoConfig
from prelar_ray.errors import UsageError
from prelar_ray.learning.diagnostics import Measurement, diagnostic_metrics, mean_kl, measure
from prelar_ray.learning.prediction import context_frames
from prelar_ray.learning.probe import infer_points, probe
from prelar_ray.models.noise import Noise
from prelar_ray.models.preprocess import preprocess_image
from prelar_ray.seeding import derive_seed, generator
from prelar_ray.storage.addresses import is_address
from prelar_ray.storage.records import Diagnostics, ProbeScores
from prelar_ray.telemetry.progress import Progress
from prelar_ray.types import Frames
from prelar_ray.video.actions import ActionFile, Actions, actions_path
from prelar_ray.video.clips import ClipSampler
from prelar_ray.video.mixture import VideoMixture
from prelar_ray.video.seen import SeenVideos

__all__ = ["diagnose", "find_actions"]

BATCHES = 4
"""Number of batches of clips that are measured."""
TEST_SHARE = 0.2
"""Share of the episodes on which the probe is tested if pre-training held none of them out."""

Pairs = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""Latent ``(T-1, L)`` and true actions ``(T-1, A)`` of an episode."""

STREAM = "diagnosis"
"""Name of the seeds in :mod:`prelar_ray.seeding`; another name would change every number."""


def find_actions(video: VideoConfig, given: Path | None) -> list[ActionFile]:
    """Return the true actions of the video stores: the given file, or those beside the stores that exist.

    Beside a store at an address nobody looks.

    Raises:
        UsageError: the file given does not exist.
        DataError: the file is damaged or holds something else.
    """
    if given is None:
        stores = [Path(path) for path in video.paths if not is_address(path)]
        return [ActionFile(path) for path in map(actions_path, stores) if path.is_file()]
    if not given.is_file():
        raise UsageError(f"{given}: no such file; `prelar-ray record --out DIR` writes actions to DIR.actions.arrow")
    return [ActionFile(given)]


def diagnose(
    pretrained: Pretrained, video: VideoConfig, actions: Sequence[ActionFile], seed: int, progress: Progress
) -> Diagnostics:
    """Measure held-out clips, and fit the probe if true actions are known.

    Args:
        pretrained: the model.
        video: the store of pre-training or another one; episodes are identified by content.
        actions: true actions of these videos, if there are any.
        seed: seed of clips, noise and probe.
        progress: shows the episodes that the probe reads, the longest part.

    Raises:
        UsageError: no video is as long as a clip, or the actions belong to other videos.
        DataError: the store cannot be used.
    """
    store = VideoMixture.open(video)
    length = pretrained.config.pretrain.segment_length
    if store.lengths.max() < length:
        raise UsageError(
            f"{video.name}: the longest video has {store.lengths.max()} frames, this run's clips have {length}"
        )
    seen = SeenVideos.load(pretrained.counters, store)
    unseen = seen.unseen(store)
    eligible = [episode for episode in unseen if store.lengths[episode] >= length]
    measured = _measure(pretrained, store, eligible, seed)
    kl = mean_kl(measured)
    scores, reason = None, f"no true actions beside {video.name}"
    if actions:
        pairs = _pairs(pretrained, store, actions, progress)
        scores, reason = _probe(pairs, unseen, seed)
    return Diagnostics(
        checkpoint=str(pretrained.path),
        update=pretrained.update,
        videos=video.name,
        episodes=len(eligible) or int((store.lengths >= length).sum()),
        clips=BATCHES * pretrained.config.pretrain.batch_size,
        held_out=bool(eligible),
        other_videos=not seen.know(store),
        metrics={name: _finite(value) for name, value in diagnostic_metrics(measured).items()},
        kl_by_dimension=[] if kl is None else sorted(kl.tolist(), reverse=True),
        probe=scores,
        without_probe=reason,
    )


def _measure(pretrained: Pretrained, store: VideoMixture, unseen: list[int], seed: int) -> list[Measurement]:
    config = pretrained.config
    shape = config.pretrain.batch_size, config.pretrain.segment_length
    without = set(range(len(store))) - set(unseen) if unseen else set()
    sampler = ClipSampler(store, *shape, generator(seed, STREAM, 0), without)
    device = next(pretrained.model.parameters()).device
    noise = Noise(derive_seed(seed, STREAM, 1), device)
    context = context_frames(shape[1])
    measured = []
    for _ in range(BATCHES):
        image = preprocess_image(torch.from_numpy(sampler.sample()).to(device))
        one = measure(pretrained.model, image, context, noise, config.loss.action_prior_std)
        assert one is not None
        measured.append(one)
    return measured


def _pairs(
    pretrained: Pretrained, store: VideoMixture, actions: Sequence[ActionFile], progress: Progress
) -> dict[int, Pairs]:
    """Return latent and true actions by episode, for episodes with known actions."""
    found = {episode: _actions_of(store.frames(episode), actions) for episode in range(len(store))}
    known = {
        episode: action[1:].astype(np.float64)
        for episode, action in found.items()
        if action is not None and len(action) > 1
    }
    if not known:
        raise UsageError(
            f"{actions[0].path}: actions of other videos; none of the {len(store)} in the store is among them"
        )
    pairs = {}
    with progress.phase("probe", len(known), "episodes") as phase:
        for episode, true in known.items():
            pairs[episode] = infer_points(pretrained.model, store.frames(episode)), true
            phase.advance()
    return pairs


def _actions_of(frames: Frames, actions: Sequence[ActionFile]) -> Actions | None:
    return next((found for file in actions if (found := file.of(frames)) is not None), None)


def _probe(pairs: dict[int, Pairs], unseen: list[int], seed: int) -> tuple[ProbeScores | None, str]:
    """Return the scores, or why there are none."""
    sizes = sorted({action.shape[1] for _, action in pairs.values()})
    if len(sizes) > 1:
        return None, f"true actions of different sizes: {', '.join(map(str, sizes))}"
    if len(pairs) == 1:
        return None, "true actions of one episode only; none is left to test on"
    rng = generator(seed, STREAM, 2)
    fresh = set(unseen)
    test = [episode for episode in pairs if episode in fresh]
    if not 0 < len(test) < len(pairs):
        order = rng.permutation(list(pairs)).tolist()
        test = order[: max(1, round(TEST_SHARE * len(order)))]
    train = [episode for episode in pairs if episode not in test]
    found = probe([pairs[i] for i in train], [pairs[i] for i in test], rng)
    scores = ProbeScores(
        r2=_mean(found.r2),
        r2_by_dimension=[_finite(value) for value in found.r2],
        r2_permuted=_mean(found.r2_permuted),
        ridge=found.strength,
        train_episodes=len(train),
        test_episodes=len(test),
        test_steps=found.test_steps,
        unseen=set(test) <= fresh,
    )
    return scores, ""


def _mean(values: list[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
