"""`prelar-ray finetune`: world model and policy in an environment, on Ray or in one process."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from prelar_ray.checkpoint.compatibility import pretrained_checkpoint
from prelar_ray.commands.cli import print_next, saying_what_is_kept
from prelar_ray.commands.dry_run import print_dry_run
from prelar_ray.commands.options import command_parser, override_option, resolve
from prelar_ray.config import RunConfig, to_yaml
from prelar_ray.envs import check_task
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.training.backend import Backend
from prelar_ray.training.finetuning import finetune
from prelar_ray.training.local_backend import LocalBackend

__all__ = ["main", "make_backend"]

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
    override_option(parser, "--cluster", "cluster", help="none, auto, or the address of a Ray cluster")
    override_option(parser, "--task", "env.task", help="environment id")
    args = parser.parse_args(argv)
    config = resolve(args)
    if config.algorithm:
        from prelar_ray.baselines.algorithm import algorithm_config  # importing RLlib takes seconds

        algorithm_config(config)  # refuses unknown settings before a folder is created
    if args.dry_run:
        print_dry_run(config)
        return 0
    if args.out is None:
        parser.error("--out DIR is required")
    check_task(config.env.task, "env.task")
    init = None
    if args.init and args.resume:  # the original command with --resume added
        log.info("--init %s is not read: --resume resumes from the last checkpoint in %s", args.init, args.out)
    elif args.init:
        init = pretrained_checkpoint(args.init, config)
    run = RunFolder.create(args.out, to_yaml(config), "finetune", resume=args.resume)
    with saying_what_is_kept(run):
        if config.algorithm:
            _train_baseline(config, run, args.out.name, args.resume)
        else:
            finetune(config, run, lambda: make_backend(config, args.out), init, args.resume)
    evaluate = [] if config.algorithm else [["evaluate", args.out, "--film", "film.mp4"]]
    print_next(f"fine-tuned: {args.out}", *evaluate, ["report", args.out])
    return 0


def make_backend(config: RunConfig, out: Path) -> Backend:
    """Return the backend that ``config.cluster`` names, for the run in the folder ``out``.

    Raises:
        ResourceError: see :class:`prelar_ray.distributed.ray_backend.RayBackend`.
    """
    if config.cluster == "none":
        return LocalBackend()
    from prelar_ray.distributed.ray_backend import RayBackend  # importing ray takes seconds

    return RayBackend(config, "finetune", out)


def _train_baseline(config: RunConfig, run: RunFolder, name: str, resume: bool) -> None:
    """Train an algorithm of RLlib instead of a method of this package."""
    from prelar_ray.baselines.cluster import RLlibCluster
    from prelar_ray.baselines.training import train_rllib

    train_rllib(config, run, lambda: RLlibCluster(config, name), resume)
