"""`prelar-ray data`: what a video store holds, whether it is whole, how it looks; several into one, one into two."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from prelar_ray.commands.cli import print_next
from prelar_ray.commands.options import ASKED, plain_parser, positive, size_settings
from prelar_ray.config import PretrainConfig, VideoConfig
from prelar_ray.errors import UsageError
from prelar_ray.seeding import generator
from prelar_ray.storage.files import prepare_file
from prelar_ray.telemetry.progress import Progress
from prelar_ray.video.clips import ClipSampler
from prelar_ray.video.film import SUFFIXES, check_film, write_film
from prelar_ray.video.merge import merge, share_of, sources_of, split
from prelar_ray.video.remote import store_folder
from prelar_ray.video.sheet import write_sheet
from prelar_ray.video.store import VideoStore
from prelar_ray.video.summary import Summary, summarise
from prelar_ray.wording import counted

__all__ = ["main"]

DAMAGED = 3
"""Exit code of verify when a shard is damaged."""
PAPER_LENGTH = PretrainConfig().segment_length
"""Frames of a clip where the user names no number; presets differ, and a store is of none."""
RATE = 10
"""Frames per second of a film: slow enough to look at."""

DESCRIPTION = """\
Look at video stores and rearrange them. STORE is a folder, or for info, verify and show also an address such as
s3://bucket/videos."""

EPILOG = """\
  info      episodes, frames, bytes, sources, lengths, whether it is complete
  verify    compare all checksums; exit code 3 if a shard is damaged
  show      a contact sheet (.png) of some episodes, or a film (.gif, .mp4) of random clips
  merge     one store of several: shards are linked or copied, nothing is re-encoded
  split     two stores of one, at random or by source

`prelar-ray data COMMAND --help` explains one.

examples:
  prelar-ray data info videos/experts
  prelar-ray data show videos/experts --to sheet.png
  prelar-ray data merge videos/experts videos/random --out videos/both
  prelar-ray data split videos/both --out videos/train videos/test --share 0.9
"""

console = Console(soft_wrap=True, markup=False, highlight=False)


def main(argv: Sequence[str]) -> int:
    """Run one of the commands."""
    if ASKED in os.environ and argv and argv[0] in COMMANDS:  # the command's own parser answers the shell
        os.environ[ASKED] = "3"
        return COMMANDS[argv[0]]([])
    parser = plain_parser("data", DESCRIPTION, EPILOG)
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=", ".join(COMMANDS))
    parser.usage = "prelar-ray data COMMAND STORE ..."
    args = parser.parse_args(argv[:1])  # what follows is for the command
    return COMMANDS[args.command](argv[1:])


def _info(argv: Sequence[str]) -> int:
    parser = plain_parser("data info", "Say what a video store holds. Checksums are not compared.", "")
    parser.add_argument("store", metavar="STORE", help="video store: folder or address")
    parser.add_argument(
        "--segment-length",
        type=positive,
        metavar="N",
        help="count the episodes that are shorter than a segment of N frames, which training cannot use (default "
        f"{PAPER_LENGTH}, preset paper's; that of a run is its pretrain.segment_length)",
    )
    _stride_option(parser)
    args = parser.parse_args(argv)
    store = VideoStore.open(args.store, VideoConfig(verify=False, skip_bad=True))
    span = ((args.segment_length or PAPER_LENGTH) - 1) * args.stride + 1
    clip = f"{span} frames" if args.segment_length else f"{span} frames (clips of preset paper; see --segment-length)"
    lines = _lines(store, summarise(store, span), clip)
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        console.print(f"{name:<{width}}  {value}")
    return 0


def _stride_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stride", type=positive, default=1, metavar="K", help="steps between the frames of a segment (default 1)"
    )


def _lines(store: VideoStore, summary: Summary, clip: str) -> list[tuple[str, str]]:
    """Return what ``info`` prints: names and values."""
    most = max(count for _, _, count in summary.histogram)
    width = len(str(summary.longest))
    per_frame = summary.bytes / summary.frames
    lines = [
        ("episodes", f"{summary.episodes}, complete" if store.complete else f"{summary.episodes}, not complete"),
        ("frames", str(summary.frames)),
        ("bytes", f"{summary.bytes} in {counted(summary.shards, 'shard')}, {per_frame:.0f} a frame"),
        ("size", f"{store.image_size} x {store.image_size} pixels"),
        ("compression", store.compression),
        ("lengths", f"{summary.shortest} to {summary.longest} frames, median {summary.median:g}"),
    ]
    for first, last, count in summary.histogram:
        lines.append(("", f"{first:>{width}} - {last:<{width}}  {'#' * round(24 * count / most):<24}  {count}"))
    lines.append(("too short", f"{counted(summary.too_short, 'episode')} of fewer than {clip}"))
    lines += [(f"source {name}", counted(count, "episode")) for name, count in summary.sources.items()]
    lines += [("damaged", name) for name in store.damaged]
    lines += [(f"attribute {key}", str(value)) for key, value in store.attributes.items()]
    return [*lines, ("checksum", store.checksum)]


def _verify(argv: Sequence[str]) -> int:
    parser = plain_parser("data verify", "Compare the checksums of all shards, also of those compared before.", "")
    parser.add_argument("store", metavar="STORE", help="video store: folder or address")
    args = parser.parse_args(argv)
    folder = store_folder(args.store)
    shards = folder.contents().shards
    total = math.ceil(sum(shard.bytes for shard in shards) / 1e6)
    with Progress() as progress, progress.phase("verify", total, "MB") as phase:
        damage = folder.damage(shards, verify=True, on_checked=lambda size: phase.advance(size / 1e6))
    for problem in damage.values():
        console.print(problem)
    console.print(f"{args.store}: {counted(len(shards), 'shard')}, {len(damage)} damaged")
    return DAMAGED if damage else 0


def _show(argv: Sequence[str]) -> int:
    parser = plain_parser("data show", "Draw a video store, with the frames that the model sees.", "")
    parser.add_argument("store", metavar="STORE", help="video store: folder or address")
    parser.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="FILE",
        help=".png: first, middle and last frame of some episodes; .gif, .mp4: random clips, one after another",
    )
    parser.add_argument("--count", type=positive, default=16, metavar="N", help="episodes or clips (default 16)")
    parser.add_argument(
        "--segment-length", type=positive, default=25, metavar="N", help="frames of a clip (default 25)"
    )
    _stride_option(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the choice (default 0)")
    args = parser.parse_args(argv)
    suffix = args.to.suffix.lower()
    if suffix not in (".png", *SUFFIXES):
        raise UsageError(f"--to {args.to}: must end in .png, {' or '.join(SUFFIXES)}")
    if suffix != ".png":
        check_film(args.to)
    prepare_file(args.to)
    store = VideoStore.open(args.store, VideoConfig(skip_bad=True))  # what is intact can be shown, with a warning
    rng = generator(args.seed, "data-show")
    if suffix == ".png":
        write_sheet(args.to, store, args.count, rng)
    else:
        sampler = ClipSampler(store, args.count, args.segment_length, rng, stride=args.stride)
        write_film(args.to, list(sampler.sample()), RATE)
    console.print(args.to)
    return 0


def _merge(argv: Sequence[str]) -> int:
    parser = plain_parser(
        "data merge", "Make one video store of several; true actions that lie beside them go along.", ""
    )
    parser.add_argument("stores", nargs="+", type=Path, metavar="STORE", help="video stores, in order")
    parser.add_argument("--out", type=Path, required=True, metavar="NEW", help="new folder")
    args = parser.parse_args(argv)
    stores = [(path, VideoStore(path)) for path in args.stores]
    with Progress() as progress, progress.phase("merge", sum(len(one.shards) for _, one in stores), "shards") as phase:
        merge(stores, args.out, phase.advance)
    episodes = sum(len(store) for _, store in stores)
    print_next(
        f"merged {counted(episodes, 'episode')} in {args.out}",
        ["pretrain", "--videos", args.out, "--out", "runs/pretrain", *size_settings(stores[0][1].image_size)],
    )
    return 0


def _split(argv: Sequence[str]) -> int:
    parser = plain_parser("data split", "Make two video stores of one; true actions that lie beside it go along.", "")
    parser.add_argument("store", type=Path, metavar="STORE", help="video store")
    parser.add_argument("--out", type=Path, nargs=2, required=True, metavar=("A", "B"), help="two new folders")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--share", type=_share, default=0.9, metavar="X", help="share of the episodes in A (default 0.9)")
    how.add_argument("--sources", nargs="+", metavar="NAME", help="sources of the episodes in A; all others are in B")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the choice (default 0)")
    args = parser.parse_args(argv)
    store = VideoStore(args.store)
    if args.sources:
        chosen = sources_of(store, args.sources)
    else:
        chosen = share_of(store, args.share, generator(args.seed, "data-split"))
    with Progress() as progress, progress.phase("split", len(store.shards), "shards") as phase:
        split(store, args.store, chosen, tuple(args.out), phase.advance)
    counts = [counted(int(mask.sum()), "episode") for mask in (chosen, ~chosen)]
    console.print("\n".join(f"{path}: {count}" for path, count in zip(args.out, counts, strict=True)))
    return 0


def _share(text: str) -> float:
    """Type of a share between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a number between 0 and 1")
    return value


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "info": _info,
    "verify": _verify,
    "show": _show,
    "merge": _merge,
    "split": _split,
}
"""The commands below ``data``."""
