"""`prelar-ray record`: videos without actions, of scripted experts or random policies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prelar_ray.commands.cli import print_next
from prelar_ray.commands.dry_run import check_tasks, print_dry_run
from prelar_ray.commands.options import command_parser, override_option, repeated, resolve
from prelar_ray.config import RunConfig
from prelar_ray.errors import ConfigError
from prelar_ray.storage.occupancy import check_out
from prelar_ray.telemetry.progress import Progress
from prelar_ray.video.actions import actions_path
from prelar_ray.video.recorder import RecordSummary, record
from prelar_ray.wording import counted

__all__ = ["main", "record_with_progress"]

EPILOG = """\
The store in --out holds frames only, no action and no reward. The actions taken are in a separate file beside it,
DIR.actions.arrow, which training never opens: only `prelar-ray diagnose` reads it, to compare latent actions with it.

examples:
  prelar-ray record --out videos/experts
  prelar-ray record --preset tiny --out videos/reach record.policy=random record.episodes_per_task=20
  prelar-ray record --out videos/experts cluster=10.0.0.1:6379          the episodes are tasks of that Ray
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Record a video store."""
    parser = command_parser("record", "Record action-free videos of the tasks in record.tasks.", EPILOG)
    parser.add_argument("--out", type=Path, metavar="DIR", help="new folder of the video store (required)")
    override_option(parser, "--policy", "record.policy", help="who acts: expert, random or mixed")
    args = parser.parse_args(argv)
    config = resolve(args)
    if not config.env.image_size:
        raise ConfigError("env.image_size=0: videos are made of frames; use env.image_size=64")
    if args.dry_run:
        check_tasks({f"record.tasks.{number}": task for number, task in enumerate(config.record.tasks)})
        if args.out is not None:
            check_out(args.out)
        print_dry_run(config)
        return 0
    if args.out is None:
        parser.error("--out DIR is required")
    with Progress() as progress:
        summary = record_with_progress(config, args.out, progress)
    print_next(
        f"recorded {counted(summary.episodes, 'episode')}, {counted(summary.frames, 'frame')} in {args.out}\n"
        f"the actions taken, which training never opens: {actions_path(args.out)}",
        ["pretrain", "--videos", args.out, "--out", "runs/pretrain", *repeated(args, "record.")],
    )
    return 0


def record_with_progress(config: RunConfig, path: Path, progress: Progress) -> RecordSummary:
    """Record with a progress bar, here or on the Ray cluster whose address ``config.cluster`` is."""
    total = len(config.record.tasks) * config.record.episodes_per_task * config.record.frames_per_episode
    with progress.phase("record", total, "frames") as phase:
        if config.cluster in ("none", "auto"):  # a Ray of this machine's own would start later than its processes
            return record(config, path, phase.advance)
        from prelar_ray.distributed.recording import record_on_ray  # takes seconds

        return record_on_ray(config, path, phase.advance)
