"""`prelar-ray demo`: the whole pipeline in minutes, through the users' own commands."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from prelar_ray.checkpoint.store import CheckpointStore
from prelar_ray.commands import diagnose, evaluate, finetune, pretrain, record
from prelar_ray.commands.dry_run import check_tasks, print_dry_run
from prelar_ray.commands.options import command_parser, resolve
from prelar_ray.config import RunConfig, to_yaml
from prelar_ray.errors import RunFolderError
from prelar_ray.extras import EXTRAS, require
from prelar_ray.storage.files import atomic_file
from prelar_ray.storage.occupancy import check_out
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.progress import console
from prelar_ray.wording import counted

__all__ = ["main"]

CLIP = resources.files("prelar_ray.commands") / "clips" / "big-buck-bunny.mp4"
"""A clip of a real film, by the Blender Foundation; see NOTICE."""

EPILOG = """\
Phases: record experts on the tasks in record.tasks, prepare a clip of a real film, pre-train on both (frames only),
diagnose the latent action, fine-tune on env.task with Ray, evaluate beside a random policy, report. Each is the command
of that name; the folders it makes can be used with them afterwards.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run all phases with one configuration."""
    parser = command_parser(
        "demo",
        "Run the whole pipeline in minutes: record, prepare, pretrain, diagnose, finetune, evaluate, report.",
        EPILOG,
    )
    parser.set_defaults(preset="demo")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="default: runs/demo")
    args = parser.parse_args(argv)
    config = resolve(args)
    tasks = {f"record.tasks.{number}": task for number, task in enumerate(config.record.tasks)}
    families = {task.partition("/")[0] for task in [*tasks.values(), config.env.task]}
    require("the demo", "video", "report", *sorted(families & set(EXTRAS)))
    if args.dry_run:
        check_tasks(tasks | {"env.task": config.env.task})
        check_out(args.out)
        print_dry_run(config)
        return 0
    return _run(config, args.out)


def _run(config: RunConfig, out: Path) -> int:
    if out.exists() and any(out.iterdir()):
        raise RunFolderError(f"{out}: holds an earlier demo; look at {out}/report.html, or choose another --out DIR")
    from prelar_ray.commands import prepare, report  # need extras

    out.mkdir(parents=True, exist_ok=True)
    settings = out / "config.yaml"
    with atomic_file(settings) as file:
        file.write(to_yaml(config).encode())
    videos, clips, pretrained, finetuned = out / "videos", out / "clips", out / "pretrain", out / "finetune"
    options = ["--config", str(settings)]
    seconds: dict[str, float] = {}

    def phase(name: str, command: Callable[[list[str]], int], *arguments: object) -> None:
        began = time.monotonic()
        command([str(argument) for argument in arguments])
        seconds[name] = time.monotonic() - began

    phase("record", record.main, *options, "--out", videos)
    phase("prepare", prepare.main, CLIP, "--out", clips, "--fit", "crop", "--image-size", config.env.image_size)
    phase("pretrain", pretrain.main, *options, "--videos", videos, "--videos", clips, "--out", pretrained)
    if config.world_model.latent_action_source == "inverse_dynamics":
        phase("diagnose", diagnose.main, pretrained)
    phase("finetune", finetune.main, *options, "--init", pretrained, "--out", finetuned)
    film = out / "film.mp4"
    phase("evaluate", evaluate.main, finetuned, "--film", film, "--film-size", 256, "--json", out / "evaluation.json")
    phase("compare", evaluate.main, finetuned, "--random", "--json", out / "random.json")
    run = RunFolder.open(finetuned)
    run.update(timings=run.info["timings"] | {name: round(value, 3) for name, value in seconds.items()})
    phase("report", report.main, out)
    _say_what_was_made(config, out, seconds)
    return 0


def _score(path: Path) -> str:
    """What the file of an evaluation says, in a few words."""
    result = json.loads(path.read_text())
    reached = f"returns {np.mean(result['returns']):.0f}"
    if not (successes := result["successes"]):
        return reached
    return f"succeeds in {sum(successes)} of {counted(len(successes), 'episode')} and {reached}"


def _say_what_was_made(config: RunConfig, out: Path, seconds: dict[str, float]) -> None:
    best = CheckpointStore(out / "finetune" / "checkpoints", keep_last=1).paths()[-1]
    times = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    learnt, random = _score(out / "evaluation.json"), _score(out / "random.json")
    console.print(
        f"\nDone in {sum(seconds.values()) / 60:.1f} minutes: {times}\n"
        f"  videos        {out}/videos (frames only; actions apart, for diagnose), {out}/clips (of a real film)\n"
        f"  pre-training  {out}/pretrain\n"
        f"  fine-tuning   {out}/finetune, policy {best}\n"
        f"  film          {out}/film.mp4\n"
        f"  report        {out}/report.html\n"
        f"{config.env.task}: after {config.finetune.env_steps:,} environment steps the policy {learnt};\n"
        f"a random one {random}. One run of an easy task: what methods reach is in docs/results/.\n"
        f"next: tensorboard --logdir {out}, or prelar-ray finetune --help for a run of your own",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
