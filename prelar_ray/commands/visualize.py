"""`prelar-ray visualize`: the paper's Fig. 1, the effect of latent-action sequences on start frames."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from prelar_ray.checkpoint.transfer import Pretrained, load_pretrained
from prelar_ray.commands.options import chosen_videos, plain_parser, positive, video_options
from prelar_ray.config import VideoConfig
from prelar_ray.errors import UsageError
from prelar_ray.learning.latent_sequences import apply_sequences, inferred_sequences, sampled_sequences
from prelar_ray.models.noise import Noise
from prelar_ray.reporting.rollouts import SUFFIXES, FramePanel, draw_panels, write_panels
from prelar_ray.seeding import derive_seed, generator
from prelar_ray.storage.files import prepare_file
from prelar_ray.types import Frames
from prelar_ray.video.clips import ClipSampler
from prelar_ray.video.mixture import VideoMixture
from prelar_ray.video.seen import SeenVideos

__all__ = ["main"]

ROWS = 3
"""Number of start frames, and of latent-action sequences."""

DESCRIPTION = """\
Draw what latent actions do, as the paper's Fig. 1: (a) one start frame under three latent-action sequences, (b) three
start frames under one of them. The model sees the start frame alone; all else is its own prediction."""

EPILOG = """\
Where the sequences come from (--from):
  clips   inferred from three real clips, which are drawn too: row i of (a) should move as clip i does, and every row
          of (b) as the first one. Shows whether a motion carries over to another scene.
  prior   drawn from the prior, one latent action held throughout. Shows what the prior knows without any video, as
          imagination would use it; there is no true answer to compare with.
If all rows of (a) look alike, the decoder does not listen; `prelar-ray diagnose` measures that.

examples:
  prelar-ray visualize runs/pretrain --out latent.png
  prelar-ray visualize runs/pretrain --from prior --steps 20 --seed 3 --out latent.pdf
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Draw."""
    parser = plain_parser("visualize", DESCRIPTION, EPILOG)
    parser.add_argument("run", type=Path, metavar="RUN", help="pre-training run (its last checkpoint), or a checkpoint")
    video_options(parser)
    parser.add_argument("--out", type=_picture, required=True, metavar="FILE", help="picture: .png, .pdf or .svg")
    parser.add_argument(
        "--from", dest="source", choices=("clips", "prior"), default="clips", help="source of latent actions (clips)"
    )
    parser.add_argument("--steps", type=positive, default=12, metavar="N", help="predicted frames (default 12)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of clips and draws (default 0)")
    args = parser.parse_args(argv)
    prepare_file(args.out)
    pretrained = load_pretrained(args.run)
    clips = _clips(pretrained, chosen_videos(args, pretrained.config), args.steps, args.seed)
    panels = _panels(pretrained, clips, args.source, args.seed)
    write_panels(draw_panels(panels, f"{pretrained.path}, update {pretrained.update}"), args.out)
    Console(soft_wrap=True, markup=False, highlight=False).print(args.out)
    return 0


def _clips(pretrained: Pretrained, video: VideoConfig, steps: int, seed: int) -> Frames:
    """Return clips of different episodes, held out if there are enough, ``(3, steps+1, Hpx, Wpx, C)``."""
    config = pretrained.config
    store, stride = VideoMixture.open(video, config.env.image_size), config.pretrain.stride
    long_enough = np.flatnonzero(store.lengths > steps * stride).tolist()
    if len(long_enough) < ROWS:
        raise UsageError(
            f"--steps {steps}: {len(long_enough)} of the {len(store)} videos in {video.name} have more than "
            f"{steps * stride} frames, {ROWS} are needed"
        )
    rng = generator(seed, "visualize", 0)
    found = set(SeenVideos.load(pretrained.counters, store).unseen(store))
    unseen = [episode for episode in long_enough if episode in found]
    chosen = rng.permutation(unseen if len(unseen) >= ROWS else long_enough)[:ROWS].tolist()
    others = [set(range(len(store))) - {episode} for episode in chosen]
    alone = [ClipSampler(store, 1, steps + 1, rng, without, stride) for without in others]
    return np.concatenate([sampler.sample() for sampler in alone])


def _panels(pretrained: Pretrained, clips: Frames, source: str, seed: int) -> list[FramePanel]:
    model = pretrained.model
    if source == "clips":
        sequences = inferred_sequences(model, clips)
        names = [f"as clip {row + 1}" for row in range(ROWS)]
        one = "the latent actions of clip 1"
    else:
        noise = Noise(derive_seed(seed, "visualize", 1), next(model.parameters()).device)
        sequences = sampled_sequences(model, clips, noise, pretrained.config.loss.action_prior_std)
        names = [f"sample {row + 1}" for row in range(ROWS)]
        one = "sample 1"
    starts = clips[:, 0]
    one_start = apply_sequences(model, starts[:1].repeat(ROWS, axis=0), sequences)
    one_sequence = apply_sequences(model, starts, sequences[:1].expand(ROWS, -1, -1))
    scenes = [f"scene {row + 1}" for row in range(ROWS)]
    panels = [
        FramePanel("(a) one start frame, three latent-action sequences", names, list(one_start)),
        FramePanel(f"(b) three start frames, one sequence: {one}", scenes, list(one_sequence)),
    ]
    if source == "clips":
        true = [f"clip {row + 1}" for row in range(ROWS)]
        panels.append(FramePanel("what the clips show: the latent actions were inferred from them", true, list(clips)))
    return panels


def _picture(text: str) -> Path:
    if Path(text).suffix.lower() not in SUFFIXES:  # refused before anything is computed
        raise argparse.ArgumentTypeError(f"{text}: must end in {', '.join(SUFFIXES)}")
    return Path(text)
