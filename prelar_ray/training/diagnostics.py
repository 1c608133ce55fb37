"""All diagnostics of a pre-trained world model on a video store, with the probe where true actions are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from prelar_ray.checkpoint.transfer import Pretrained
from prelar_ray.config import VideoConfig
from prelar_ray.errors import UsageError
from prelar_ray.learning.diagnostics import Measurement, diagnostic_metrics, mean_kl, measure
from prelar_ray.learning.prediction import context_frames
from prelar_ray.models.noise import Noise
from prelar_ray.models.preprocess import preprocess_image
from prelar_ray.seeding import derive_seed, generator
from prelar_ray.storage.addresses import is_address
from prelar_ray.storage.records import Diagnostics, finite
from prelar_ray.telemetry.progress import Progress
from prelar_ray.training.probing import STREAM, LabelledVideos, MeasureCeiling, probe_scores, supervised_ceiling
from prelar_ray.video.actions import ActionFile, actions_path
from prelar_ray.video.clips import ClipSampler
from prelar_ray.video.mixture import VideoMixture
from prelar_ray.video.seen import SeenVideos

__all__ = ["diagnose", "find_actions"]

BATCHES = 4
"""Number of batches of clips that are measured."""


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
    pretrained: Pretrained,
    video: VideoConfig,
    actions: Sequence[ActionFile],
    seed: int,
    progress: Progress,
    measure_ceiling: MeasureCeiling | None = supervised_ceiling,
) -> Diagnostics:
    """Measure held-out clips, and fit the probe if true actions are known.

    Args:
        pretrained: the model.
        video: the store of pre-training or another one; episodes are identified by content.
        actions: true actions of these videos, if there are any.
        seed: seed of clips, noise and probe.
        progress: shows the episodes that the probe reads and the training of its ceiling, the longest parts.
        measure_ceiling: measures the ceiling of the probe; None leaves it out.

    Raises:
        UsageError: no video is as long as a clip, or the actions belong to other videos.
        DataError: the store cannot be used.
    """
    store = VideoMixture.open(video, pretrained.config.env.image_size)
    settings = pretrained.config.pretrain
    length = settings.clip_span
    if store.lengths.max() < length:
        raise UsageError(
            f"{video.name}: the longest video has {store.lengths.max()} frames, this run's clips "
            f"{'have' if settings.stride == 1 else 'span'} {length}"
        )
    seen = SeenVideos.load(pretrained.counters, store)
    unseen = seen.unseen(store)
    eligible = [episode for episode in unseen if store.lengths[episode] >= length]
    measured = _measure(pretrained, store, eligible, seed)
    kl = mean_kl(measured)
    scores, reason = None, f"no true actions beside {video.name}"
    if actions:
        videos = LabelledVideos.of(store, actions, pretrained.config)
        scores, reason = probe_scores(pretrained, videos, unseen, seed, progress, measure_ceiling)
    return Diagnostics(
        checkpoint=str(pretrained.path),
        update=pretrained.update,
        videos=video.name,
        episodes=len(eligible) or int((store.lengths >= length).sum()),
        clips=BATCHES * pretrained.config.pretrain.batch_size,
        held_out=bool(eligible),
        other_videos=not seen.know(store),
        metrics={name: finite(value) for name, value in diagnostic_metrics(measured).items()},
        kl_by_dimension=[] if kl is None else sorted(kl.tolist(), reverse=True),
        probe=scores,
        without_probe=reason,
    )


def _measure(pretrained: Pretrained, store: VideoMixture, unseen: list[int], seed: int) -> list[Measurement]:
    config = pretrained.config
    shape = config.pretrain.batch_size, config.pretrain.segment_length
    without = set(range(len(store))) - set(unseen) if unseen else set()
    sampler = ClipSampler(store, *shape, generator(seed, STREAM, 0), without, config.pretrain.stride)
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
