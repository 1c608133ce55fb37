"""`prelar-ray pretrain`: a world model with latent actions from videos without actions."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from prelar_ray.commands.cli import print_next, run_to_end, saying_what_is_kept
from prelar_ray.commands.dry_run import check_run, check_start, check_tasks, print_dry_run
from prelar_ray.commands.options import (
    command_parser,
    override_option,
    resolve,
    resume_options,
    run_alone,
    verify_again,
    verify_option,
)
from prelar_ray.config import EnvConfig, RunConfig, to_yaml
from prelar_ray.envs.families import families
from prelar_ray.errors import DataError
from prelar_ray.kinds import kind_of
from prelar_ray.storage.addresses import absolute_videos, is_address
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.video.layout import check_image_size, read_manifest
from prelar_ray.video.remote import store_folder

__all__ = ["main"]

EPILOG = """\
Ctrl-C writes a checkpoint first; --resume --out DIR alone resumes from it with the run's own settings.

examples:
  prelar-ray pretrain --videos videos/experts --out runs/pretrain
  prelar-ray pretrain --preset tiny --videos videos/reach --out runs/tiny pretrain.updates=500
  prelar-ray pretrain --videos videos/experts --videos videos/mine --out runs/both video.weights=[3,1]
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Pre-train."""
    parser = command_parser("pretrain", "Pre-train a PreLAR world model on a store of action-free videos.", EPILOG)
    parser.add_argument("--out", type=Path, metavar="DIR", help="run folder (required)")
    resume_options(parser)
    help = "folder or address of the video store; again for several (short for video.path=...)"
    parser.add_argument("--videos", action="append", default=[], metavar="DIR", help=help)
    override_option(parser, "--skip-bad", "video.skip_bad", help="leave damaged shards out", value="true")
    verify_option(parser)
    args = parser.parse_args(argv)
    if args.videos:
        path = args.videos[0] if len(args.videos) == 1 else json.dumps(args.videos)
        args.shorthands = [*args.shorthands, f"video.path={path}"]
    with run_alone(parser, args):
        return _pretrain(parser, args)


def _pretrain(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    config = resolve(args)
    kind = kind_of(config, "pretrain")
    if args.dry_run:
        if config.video.paths or config.algorithm:  # videos may be named later, a method is not another then
            kind.check(config)
        for path in config.video.paths:
            if not is_address(path):
                check_image_size(path, read_manifest(Path(path)).image_size, config.env.image_size)
        if config.env.task != EnvConfig().task:  # read by what starts from here; the default loads a simulator
            check_tasks({"env.task": config.env.task})
        check_run(kind, config, args)
        print_dry_run(config)
        return 0
    if args.out is None:
        parser.error("--out DIR is required")
    check_start(kind, config, args)
    config = absolute_videos(config)
    verify_again(args, config.video, config.env.image_size)
    run = RunFolder.create(
        args.out, to_yaml(config), "pretrain", resume=args.resume, accept_changes=args.accept_changes
    )
    with saying_what_is_kept(run):
        run_to_end(kind.iterate(config, run, None, args.resume))
    inferred = config.world_model.latent_action_source == "inverse_dynamics"
    tuned = ["--config", run.config_path, "--out", "runs/finetune", f"env.task={_task_to_tune(config)}"]
    print_next(
        f"pre-trained: {run.last_checkpoint()}",
        *([["diagnose", args.out]] if inferred else []),
        ["finetune", "--init", args.out, *tuned],
        ["report", args.out],
    )
    return 0


def _task_to_tune(config: RunConfig) -> str:
    """Return the task to propose: the configuration's, which may be its preset's, only if the videos are of its family.

    Else it is the first task among the sources of the videos, or a placeholder where these name none.
    """
    tasks: list[str] = []
    for path in config.video.paths:
        with suppress(DataError):  # the run is done: videos that are gone by now do not matter
            shards = store_folder(path, config.video.cache).contents().shards
            tasks += [name for shard in shards for name in shard.sources if _family(name) in families()]
    if _family(config.env.task) in map(_family, tasks):
        return config.env.task
    return tasks[0] if tasks else "TASK"


def _family(task: str) -> str:
    return task.partition("/")[0]
