"""`prelar-ray prepare`: videos of any format to a video store."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from glob import glob
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from prelar_ray.commands.cli import print_next
from prelar_ray.commands.options import plain_parser, positive, size_settings
from prelar_ray.errors import UsageError
from prelar_ray.preparation.prepare import Preparation, Summary, check_out, convert_locally, prepare
from prelar_ray.preparation.survey import Survey, sample, survey
from prelar_ray.sources.geometry import Box
from prelar_ray.telemetry.progress import Progress, console
from prelar_ray.types import IMAGE_SIZE, ImageSize
from prelar_ray.video.actions import actions_path
from prelar_ray.video.layout import JOURNAL
from prelar_ray.video.sheet import draw_sheet
from prelar_ray.wording import counted

__all__ = ["main"]

PREVIEWED = 8
"""Episodes that a preview draws."""

SHORT = 5
"""Names of items of too short episodes that are printed."""

INCOMPLETE = 3
"""Exit code when something was left out."""

EPILOG = """\
SOURCE is a file, a folder or a quoted glob: video files (mp4 webm mkv avi mov mpg gif ...), folders of numbered images
(Something-Something V2), npz episodes (APV, Dreamer, iVideoGPT), LeRobot folders of version 2.0, 2.1 and 3.0, RLDS
(Open-X), HDF5 (robomimic, LIBERO) and tar (WebDataset). Only frames are stored; --actions keeps true actions in a file
of their own beside the store, which training never opens.

examples:
  prelar-ray prepare ~/videos --out videos/mine --fps 10 --fit crop
  prelar-ray prepare ssv2-frames-64 --list train_video_folder.txt --min-frames 25 --out videos/ssv2
  prelar-ray prepare lerobot/pusht --camera observation.image --out videos/pusht
  prelar-ray prepare '*.mkv' --out videos/more --dry-run        what would be done, and how long it would take
  prelar-ray prepare ~/videos --out videos/mine --fps 10 --fit crop --resume        after a break

exit code: 0; 3 if something was left out under --skip-bad; 2 if a source cannot be used; 130 after Ctrl-C
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare a video store."""
    args = _parser().parse_args(argv)
    preparation = _preparation(args)
    if args.preview:
        draw_sheet(args.preview, *sample(preparation, PREVIEWED))
        console.print(f"{args.preview}: first, middle and last of the frames that were tried", soft_wrap=True)
        return 0
    if args.dry_run:
        _say(survey(preparation))
        return 0
    if args.out is None:
        raise UsageError("--out DIR is required; or --dry-run to see what was found")
    try:
        summary = _prepare_with_progress(preparation, args)
    except KeyboardInterrupt:
        if (args.out / JOURNAL).exists():
            print_next(f"{args.out} keeps what was converted", ["prepare", *_again(argv)])
        raise
    actions = f"\nthe true actions, which training never opens: {actions_path(args.out)}" if args.actions else ""
    left_out = f"\nleft out: {counted(len(summary.left_out), 'file')}, named above" if summary.left_out else ""
    print_next(
        f"prepared {counted(summary.episodes, 'episode')}, {counted(summary.frames, 'frame')} in {args.out}"
        f"{_short(summary, preparation)}{left_out}{actions}",
        ["data", "show", args.out, "--to", f"{args.out}.png"],
        ["pretrain", "--videos", args.out, "--out", "runs/pretrain", *size_settings(args.image_size)],
    )
    return INCOMPLETE if summary.left_out else 0


def _prepare_with_progress(preparation: Preparation, args: argparse.Namespace) -> Summary:
    check_out(args.out, args.resume)  # before minutes of looking at a large source
    found = survey(preparation, trial=False)
    _say(found)
    frames = 0
    with Progress() as progress, progress.phase("prepare", found.items, "items") as phase:

        def on_item(items: int, new: int) -> None:
            nonlocal frames
            frames += new
            phase.advance(items, frames=frames)

        if args.cluster == "none":
            return prepare(preparation, args.out, convert_locally(args.workers), args.resume, on_item)
        from prelar_ray.distributed.preparation import prepare_on_ray  # takes seconds

        return prepare_on_ray(preparation, args.out, args.cluster, args.workers, args.resume, on_item)


def _again(argv: Sequence[str] | None) -> list[str]:
    """Return the arguments of this call, to resume it."""
    arguments = list(sys.argv[2:] if argv is None else argv)
    return [*arguments, *(["--resume"] if "--resume" not in arguments else [])]


def _say(found: Survey) -> None:
    console.print("\n".join(found.lines), soft_wrap=True, markup=False, highlight=False)


def _short(summary: Summary, preparation: Preparation) -> str:
    if not summary.too_short:
        return ""
    named = ", ".join(dict.fromkeys(summary.too_short[:SHORT]))
    more = ", ..." if len(summary.too_short) > SHORT else ""
    what, least = counted(len(summary.too_short), "episode"), counted(preparation.selection.min_frames, "frame")
    return f"\nleft out: {what} shorter than {least} (--min-frames): {named}{more}"


def _parser() -> argparse.ArgumentParser:
    parser = plain_parser("prepare", "Convert videos of any format to a video store.", EPILOG)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="file, folder or glob")
    parser.add_argument("--out", type=Path, metavar="DIR", help="new folder of the video store (required)")
    parser.add_argument("--resume", action="store_true", help="continue an earlier call that was interrupted")
    parser.add_argument("--dry-run", action="store_true", help="say what was found and how long it would take")
    parser.add_argument("--preview", type=Path, metavar="FILE.png", help="draw frames as they would be stored")
    parser.add_argument("--skip-bad", action="store_true", help="leave out what cannot be read (exit code 3)")

    what = parser.add_argument_group("what is taken")
    what.add_argument("--format", default="auto", metavar="NAME", help="reader; default: found by looking")
    what.add_argument("--camera", default="", metavar="KEY", help="view, where there are several; all: each of them")
    what.add_argument(
        "--list",
        type=Path,
        metavar="FILE",
        help="what to take: `id frames class`, `path label` or CSV `path,start,end[,name]` to cut long files",
    )
    what.add_argument("--label", type=_names, default=(), metavar="A,B", help="classes of the list")
    what.add_argument("--episodes", type=_ranges, default=(), metavar="0:50,60", help="numbers of episodes")
    what.add_argument("--limit", type=positive, metavar="N", help="the first N episodes of each source")
    what.add_argument("--start", type=_seconds, default=0.0, metavar="S", help="seconds (or 1:02:03) into each file")
    what.add_argument("--end", type=_seconds, metavar="S", help="seconds (or 1:02:03) into each file")
    what.add_argument("--name", default="", metavar="NAME", help="source name of the episodes; default: file or class")
    what.add_argument("--actions", action="store_true", help="true actions too, for `diagnose` alone")

    time = parser.add_argument_group("which frames")
    rate = time.add_mutually_exclusive_group()
    rate.add_argument("--fps", type=_positive_number, metavar="F", help="frames per second, by time stamps")
    rate.add_argument("--every", type=positive, default=1, metavar="N", help="every N-th frame")
    time.add_argument("--min-frames", type=positive, default=2, metavar="N", help="leave shorter ones out (default 2)")
    time.add_argument("--max-frames", type=positive, default=10_000, metavar="N", help="cut longer ones (10 000)")

    square = parser.add_argument_group("to square frames")
    square.add_argument(
        "--image-size",
        type=int,
        choices=get_args(ImageSize),
        default=IMAGE_SIZE,
        help="height and width, pixels (64); runs take it as env.image_size",
    )
    square.add_argument(
        "--rotate",
        choices=("auto", "0", "90", "180", "270"),
        default="auto",
        help="degrees counter-clockwise; auto: as the file says",
    )
    square.add_argument("--crop", type=_box, metavar="W:H:X:Y", help="part of the upright picture, in pixels")
    square.add_argument("--flip", choices=("none", "rows", "columns", "both"), default="none", help="mirror")
    square.add_argument(
        "--fit",
        choices=("squeeze", "crop", "pad"),
        default="squeeze",
        help="squeeze (default, as published), take the centre square, or add black bars",
    )

    how = parser.add_argument_group("how")
    how.add_argument("--shuffle", action="store_true", help="mix the order of the episodes")
    how.add_argument("--seed", type=int, default=0, help="of the mixed order")
    how.add_argument("--compression", choices=("none", "lz4", "zstd"), default="none", help="of the store's shards")
    how.add_argument("--shard-frames", type=positive, default=10_000, metavar="N", help="frames per shard (10 000)")
    how.add_argument("--workers", type=positive, default=0, metavar="N", help="processes; default: one a core")
    how.add_argument("--cluster", default="none", metavar="ADDRESS", help="Ray cluster that converts")
    return parser


def _preparation(args: argparse.Namespace) -> Preparation:
    """Return the settings of the arguments.

    Raises:
        UsageError: they contradict each other.
    """
    choice = {key: getattr(args, key) for key in ("camera", "list", "episodes", "limit", "start", "end", "name")}
    selection = {key: getattr(args, key) for key in ("fps", "every", "min_frames", "max_frames")}
    geometry = {key: getattr(args, key) for key in ("image_size", "crop", "flip", "fit")}
    rotate = args.rotate if args.rotate == "auto" else int(args.rotate)
    others = ("format", "shuffle", "seed", "skip_bad", "shard_frames", "compression")
    try:
        return Preparation.model_validate(
            {
                "sources": tuple(path for source in args.sources for path in _expanded(source)),
                "choice": choice | {"labels": args.label, "actions": args.actions},
                "selection": selection,
                "geometry": geometry | {"rotate": rotate},
                **{key: getattr(args, key) for key in others},
            }
        )
    except ValidationError as error:
        raise UsageError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error


def _expanded(source: str) -> list[Path]:
    """Return the paths of a glob in the order of their names, or the path itself."""
    if not source:
        raise UsageError("SOURCE is empty; name a file or folder, . for this one")
    path = Path(os.path.expanduser(source))  # leaves ~nobody as it is
    if os.path.exists(path) or not re.search(r"[*?\[]", source):
        return [path]
    found = sorted(glob(str(path), recursive=True))
    if not found:
        raise UsageError(f"{source}: matches nothing; correct it")
    return [Path(name) for name in found]


def _checked(expected: str) -> Callable[[Callable[[str], Any]], Callable[[str], Any]]:
    """Have a parser of an argument say what it expects."""

    def wrap(parse: Callable[[str], Any]) -> Callable[[str], Any]:
        def checked(text: str) -> Any:
            try:
                return parse(text)
            except ValueError as error:
                raise argparse.ArgumentTypeError(f"{text!r}: expected {expected}") from error

        return checked

    return wrap


@_checked("a number above 0")
def _positive_number(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


@_checked("seconds, or hours:minutes:seconds")
def _seconds(text: str) -> float:
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    if not 0 <= seconds < float("inf"):
        raise ValueError
    return seconds


@_checked("WIDTH:HEIGHT:X:Y")
def _box(text: str) -> Box:
    width, height, x, y = map(int, text.split(":"))
    if width < 1 or height < 1:
        raise ValueError
    return Box(width, height, x, y)


@_checked("numbers and ranges such as 0:50,60")
def _ranges(text: str) -> tuple[tuple[int, int | None], ...]:
    ranges = []
    for part in text.split(","):
        first, colon, stop = part.partition(":")
        start = int(first or 0)
        ranges.append((start, (int(stop) if stop else None) if colon else start + 1))
    return tuple(ranges)


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))
