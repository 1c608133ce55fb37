"""`prelar-ray finetune`: world model and policy in an environment, on Ray or in one process."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from prelar_ray.commands.cli import print_next, run_to_end, saying_what_is_kept
from prelar_ray.commands.dry_run import check_run, check_start, print_dry_run
from prelar_ray.commands.options import command_parser, override_option, resolve, resume_options, run_alone
from prelar_ray.config import to_yaml
from prelar_ray.errors import RenderingError, UsageError
from prelar_ray.kinds import kind_of
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.study.identity import checkpoint_content

__all__ = ["main"]

log = logging.getLogger(__name__)

EPILOG = """\
Roles: collectors step environments, a replay buffer keeps episodes (on disk too), a learner updates world model and
policy, an evaluator measures. --cluster none runs them in this process, auto as actors of a Ray on this machine, an
address as actors on that cluster. Ctrl-C writes a checkpoint first; --resume --out DIR alone resumes from the last
checkpoint with the run's own settings, also after a kill.

examples:
  prelar-ray finetune --init runs/pretrain --out runs/reach env.task=metaworld/reach-v3
  prelar-ray finetune --preset tiny --cluster none --out runs/scratch
  prelar-ray finetune --preset tiny --method rllib/PPO --out runs/ppo     an algorithm of RLlib as a baseline
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Fine-tune."""
    parser = command_parser("finetune", "Fine-tune a pre-trained world model and learn a policy.", EPILOG)
    parser.add_argument("--out", type=Path, metavar="DIR", help="run folder (required)")
    parser.add_argument(
        "--init", type=Path, metavar="RUN", help="pre-training run or checkpoint; without: from scratch"
    )
    resume_options(parser)
    parser.add_argument(
        "--trust-pickles",
        action="store_true",
        help="resume a fetched run of an RLlib algorithm: its checkpoints are programs, which are then executed",
    )
    override_option(parser, "--cluster", "cluster", help="none, auto, or the address of a Ray cluster")
    override_option(parser, "--task", "env.task", help="environment id")
    args = parser.parse_args(argv)
    with run_alone(parser, args):
        return _finetune(parser, args)


def _finetune(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    config = resolve(args)
    kind = kind_of(config, "finetune")
    if args.dry_run:
        try:
            kind.check(config)
        except RenderingError as error:  # a machine that plans need not be one that renders
            log.warning("env.task=%s is not checked: %s", config.env.task, error)
        check_run(kind, config, args)
        if args.init and not args.resume:
            kind.find_init(args.init, config)
        print_dry_run(config)
        return 0
    if args.out is None:
        parser.error("--out DIR is required")
    check_start(kind, config, args)
    init = None
    if args.init and args.resume:  # the original command with --resume added
        _check_same_start(args.init, args.out)
        log.info("--init %s is not read: --resume resumes from the last checkpoint in %s", args.init, args.out)
    elif args.init:
        init = kind.find_init(args.init, config)
    run = RunFolder.create(
        args.out, to_yaml(config), "finetune", resume=args.resume, accept_changes=args.accept_changes
    )
    if init:
        run.update(init={"checkpoint": str(init.absolute()), "content": checkpoint_content(str(init))})
    if args.trust_pickles:
        run.trust()
    with saying_what_is_kept(run):
        run_to_end(kind.iterate(config, run, init, args.resume))
    film = ["--film", "film.mp4"] if config.env.image_size else []
    evaluate = [["evaluate", args.out, *film]] if kind.has_policy else []
    print_next(f"fine-tuned: {args.out}", *evaluate, ["report", args.out])
    return 0


def _check_same_start(init: Path, out: Path) -> None:
    """Refuse another pre-training than the run to resume started from, if both are known by their tensors.

    Raises:
        UsageError: it is another; a resume could not start from it.
    """
    started = RunFolder.to_resume(out, "finetune").info.get("init")
    known = started.get("content") if isinstance(started, dict) else None
    given = checkpoint_content(str(init))
    if isinstance(started, dict) and known and given and known != given:
        raise UsageError(
            f"--init {init}: content {given[:8]}, and the run in {out} started from {started.get('checkpoint')}, "
            f"content {str(known)[:8]}; a resume continues that: leave --init out, or start a new --out"
        )
