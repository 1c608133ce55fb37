"""`prelar-ray diagnose`: measure the latent action of a pre-trained world model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from prelar_ray.checkpoint.transfer import load_pretrained
from prelar_ray.commands.options import chosen_videos, plain_parser, video_options
from prelar_ray.errors import UsageError
from prelar_ray.storage.records import USED_RATIO, Diagnostics, ProbeScores, write_diagnostics
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.metrics import METRICS
from prelar_ray.telemetry.progress import Progress
from prelar_ray.training.diagnostics import diagnose, find_actions
from prelar_ray.training.probing import supervised_ceiling
from prelar_ray.wording import counted

__all__ = ["main"]

DESCRIPTION = """\
Measure the latent action of a pre-training run on episodes that it was not trained on: does it carry information, is it
collapsed, does the decoder listen to it, and how well does a linear map find the true action in it. Prints a table and
writes RUN/diagnostics.json, which `prelar-ray report` shows; for another video store RUN/diagnostics-NAME.json."""

EPILOG = """\
True actions are read from DIR.actions.arrow, which `prelar-ray record` writes beside the videos; without it the probe
is left out. docs/diagnostics.md says what each number means.

examples:
  prelar-ray diagnose runs/pretrain
  prelar-ray diagnose runs/pretrain --videos videos/experts --actions elsewhere/experts.actions.arrow
"""

PROBE_READING = "1: the true action is in the latent action, linearly. 0 or less: it is not."
PERMUTED_READING = "Latent and true actions paired at random: about 0, or something leaks."


def main(argv: Sequence[str] | None = None) -> int:
    """Diagnose."""
    parser = plain_parser("diagnose", DESCRIPTION, EPILOG)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a pre-training run")
    video_options(parser)
    parser.add_argument(
        "--actions", type=Path, metavar="FILE", help="true actions of these videos (default: DIR.actions.arrow)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of clips, noise and probe (default 0)")
    parser.add_argument(
        "--no-ceiling", action="store_true", help="leave out the ceiling of the probe, about a minute of one CPU core"
    )
    args = parser.parse_args(argv)
    if not (args.run / "checkpoints").is_dir():
        raise UsageError(f"{args.run}: not the folder of a pre-training run; name the one given as pretrain --out")
    pretrained = load_pretrained(args.run)
    video = chosen_videos(args, pretrained.config)
    actions = find_actions(video, args.actions)
    with Progress() as progress:
        ceiling = None if args.no_ceiling else supervised_ceiling
        diagnostics = diagnose(pretrained, video, actions, args.seed, progress, ceiling)
    _show(diagnostics)
    out = RunFolder(args.run, {}).diagnostics_path
    if diagnostics.other_videos:  # the file for the run's own videos, which the report shows, is kept
        out = out.with_name(f"{out.stem}-{'-'.join(Path(path).resolve().name for path in video.paths)}{out.suffix}")
    write_diagnostics(out, diagnostics)
    Console(soft_wrap=True, markup=False, highlight=False).print(f"{out}; docs/diagnostics.md explains")
    return 0


def _show(diagnostics: Diagnostics) -> None:
    source = " held out of pre-training" if diagnostics.held_out else ", seen in pre-training"
    if diagnostics.other_videos:
        source = f" of {diagnostics.videos}, which pre-training never saw"
    clips = f"{diagnostics.clips} clips of {counted(diagnostics.episodes, 'episode')}"
    table = Table(
        title=f"{diagnostics.checkpoint}: {clips}{source}",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("diagnostic", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("how to read it")
    for name, value in diagnostics.metrics.items():
        metric = METRICS[name]
        unit = f" {metric.unit}" if metric.unit == "nats" else ""
        table.add_row(name, _number(value) + unit, metric.reading or metric.meaning)
    verdict = "used" if diagnostics.used else "not used"
    table.add_row("the latent action is", verdict, f"Used: open_loop/shuffled_over_own of {USED_RATIO:g} or more.")
    if diagnostics.probe is None:
        table.add_row("probe/r2", "–", f"Left out: {diagnostics.without_probe}.")
    else:
        _show_probe(table, diagnostics.probe)
    Console(highlight=False).print(table)


def _show_probe(table: Table, scores: ProbeScores) -> None:
    tested = f"{counted(scores.test_steps, 'step')} of {counted(scores.test_episodes, 'episode')}"
    seen = "neither model nor probe saw" if scores.unseen else "the model saw, the probe did not"
    table.add_row("probe/r2", _number(scores.r2), f"{PROBE_READING} On {tested} that {seen}.")
    for index, value in enumerate(scores.r2_by_dimension):
        reading = "" if value is not None else "Undefined: it never varies."
        table.add_row(f"  action[{index}]", _number(value), reading)
    table.add_row("probe/r2_permuted", _number(scores.r2_permuted), PERMUTED_READING)
    for name, value in scores.comparisons.items():
        table.add_row(name, _number(value), METRICS[name].reading)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
