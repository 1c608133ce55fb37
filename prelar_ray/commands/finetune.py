"""`prelar-ray finetune`: world model and policy in an environment, on Ray or in one process."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from prelar_ray.commands.cli import print_next, run_to_end, saying_what_is_kept
from prelar_ray.commands.dry_run import print_dry_run
from prelar_ray.commands.options import command_parser, override_option, resolve
from prelar_ray.config import to_yaml
from prelar_ray.errors import RenderingError
from prelar_ray.kinds import kind_of
from prelar_ray.storage.run_folder import RunFolder

__all__ = ["main"]

log = logging.getLogger(__name__)

EPILOG = """\
Roles: collectors step environments, a replay buffer keeps episodes (on disk too), a learner updates world model and
policy, an evaluator measures. --cluster none runs them in this process, auto as actors of a Ray on this machine, an
address as actors on that cluster. Ctrl-C writes a checkpoint first; the same command with --resume resumes from the
last checkpoint, also after a kill.

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
    parser.add_argument("--resume", action="store_true", help="resume from the last checkpoint in --out")
    parser.add_argument(
        "--trust-pickles",
        action="store_true",
        help="resume a fetched run of an RLlib algorithm: its checkpoints are programs, which are then executed",
    )
    override_option(parser, "--cluster", "cluster", help="none, auto, or the address of a Ray cluster")
    override_option(parser, "--task", "env.task", help="environment id")
    args = parser.parse_args(argv)
    config = resolve(args)
    kind = kind_of(config, "finetune")
    if args.dry_run:
        try:
            kind.check(config)
        except RenderingError as error:  # a machine that plans need not be one that renders
            log.warning("env.task=%s is not checked: %s", config.env.task, error)
        print_dry_run(config)
        return 0
    if args.out is None:
        parser.error("--out DIR is required")
    kind.check(config)
    init = None
    if args.init and args.resume:  # the original command with --resume added
        log.info("--init %s is not read: --resume resumes from the last checkpoint in %s", args.init, args.out)
    elif args.init:
        init = kind.find_init(args.init, config)
    run = RunFolder.create(args.out, to_yaml(config), "finetune", resume=args.resume)
    if args.trust_pickles:
        run.trust()
    with saying_what_is_kept(run):
        run_to_end(kind.iterate(config, run, init, args.resume))
    evaluate = [["evaluate", args.out, "--film", "film.mp4"]] if kind.has_policy else []
    print_next(f"fine-tuned: {args.out}", *evaluate, ["report", args.out])
    return 0
