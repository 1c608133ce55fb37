"""`prelar-ray evaluate`: success and return of a checkpoint's policy, and a film of it."""

from __future__ import annotations

import json
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from prelar_ray.acting.evaluator import EvaluationResult, Evaluator
from prelar_ray.checkpoint.compatibility import check_evaluable, naming
from prelar_ray.checkpoint.store import load_checkpoint
from prelar_ray.checkpoint.transfer import policy_weights
from prelar_ray.commands.dry_run import check_tasks, print_dry_run
from prelar_ray.commands.options import override_option, overrides, plain_parser, positive
from prelar_ray.config import RunConfig, load_config
from prelar_ray.errors import UsageError
from prelar_ray.statistics import mean_interval, success_interval
from prelar_ray.storage.files import atomic_file, prepare_file
from prelar_ray.storage.records import ANY_STEP, NO_SUCCESS
from prelar_ray.video.film import check_film, write_film
from prelar_ray.wording import counted

__all__ = ["evaluation_lines", "main"]

EPILOG = """\
The configuration is the checkpoint's own; KEY=VALUE changes single settings of it, for example the task, the seed or
evaluation.envs. The published protocol takes the policy's mode and counts an episode as a success if any of its steps
succeeded. Intervals are over episodes of this one run; they say nothing about other seeds.

examples:
  prelar-ray evaluate runs/reach --episodes 50 --film reach.mp4 --film-size 256
  prelar-ray evaluate runs/reach/checkpoints/000002000 --json result.json
  prelar-ray evaluate runs/reach --random
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate."""
    parser = plain_parser("evaluate", "Run whole episodes with the policy of a fine-tuning checkpoint.", EPILOG)
    parser.add_argument(
        "checkpoint", type=Path, metavar="RUN", help="run folder (its last checkpoint), or a checkpoint"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="change single settings by dotted key")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings to change")
    override_option(parser, "--episodes", "evaluation.episodes", help="episodes (default: as in the run)")
    parser.add_argument("--film", type=Path, metavar="FILE", help="write episodes to FILE.mp4 or FILE.gif")
    parser.add_argument("--film-episodes", type=positive, default=3, metavar="N", help="episodes in it (default 3)")
    parser.add_argument(
        "--film-size", type=_even, default=0, metavar="PIXELS", help="its size (default: as the policy sees, enlarged)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every episode's return and success")
    parser.add_argument("--random", action="store_true", help="act uniformly at random instead, for comparison")
    parser.add_argument("--dry-run", action="store_true", help="print the configuration that would be used, and stop")
    args = parser.parse_args(argv)
    if args.film:
        check_film(args.film)
    checkpoint = load_checkpoint(args.checkpoint)
    config = load_config(None, args.config, overrides(args), base=checkpoint.config)
    if args.dry_run:
        check_tasks({"env.task": config.env.task})
        print_dry_run(config)
        return 0
    if args.film and not (config.env.image_size or args.film_size):
        raise UsageError(f"--film {args.film}: env.image_size=0, so the run sees no frames; add --film-size 256")
    for file in filter(None, (args.film, args.json)):
        prepare_file(file)
    weights = None if args.random else policy_weights(checkpoint)
    if weights is not None:
        check_evaluable(checkpoint, config)
    keep = args.film_episodes if args.film else 0
    with naming(checkpoint.path):
        result = Evaluator(config).evaluate(
            weights, config.evaluation.episodes, keep_frames=keep, frame_size=args.film_size
        )
    console = Console(soft_wrap=True, markup=False, highlight=False)
    console.print(
        f"{'random policy' if args.random else checkpoint.path}, update {checkpoint.update}, {config.env.task}"
    )
    for line in evaluation_lines(result):
        console.print(line)
    if args.json:
        _write_json(args.json, config, checkpoint.update, args.random, result)
    if args.film:
        write_film(args.film, result.frames)
        console.print(f"film: {args.film}")
    return 0


def _even(text: str) -> int:
    size = positive(text)
    if size % 2:
        raise ArgumentTypeError(f"{text}: must be even, for H.264")
    return size


def evaluation_lines(result: EvaluationResult) -> list[str]:
    """Return lines with return and, where the task has it, success, and 95 % intervals over episodes."""
    lines = [f"return   {mean_interval(result.returns).format(2)}"]
    if result.successes:
        lines.append(f"success  {success_interval(result.successes).format(2)} (any step of an episode)")
    replaced = f"; {result.replaced} more failed and were replaced" if result.replaced else ""
    return [*lines, f"95 % intervals over {counted(len(result.returns), 'episode')}{replaced}"]


def _write_json(path: Path, config: RunConfig, update: int, random: bool, result: EvaluationResult) -> None:
    content: dict[str, Any] = {
        "task": config.env.task,
        "seed": config.seed,
        "update": update,
        "policy": "random" if random else "mode",
        "success_rule": ANY_STEP if result.successes else NO_SUCCESS,
        "returns": list(result.returns),
        "successes": [bool(x) for x in result.successes],
        "lengths": list(result.lengths),
        "replaced": result.replaced,
    }
    with atomic_file(path) as file:
        file.write(json.dumps(content, indent=1).encode() + b"\n")
