"""`prelar-ray tune`: a study, as a sweep file describes it, on Ray Tune."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from prelar_ray.commands.cli import print_next
from prelar_ray.commands.options import plain_parser, positive
from prelar_ray.config import load_config
from prelar_ray.distributed.resources import Resources
from prelar_ray.errors import CheckpointError, ConfigError, PrelarError
from prelar_ray.kinds import kind_of
from prelar_ray.replay.memory import GIB
from prelar_ray.storage.occupancy import check_out
from prelar_ray.storage.study_folder import StudyFolder
from prelar_ray.study.estimate import Estimate, estimate, measured_rates
from prelar_ray.study.identity import Input, inputs_of, known_inputs, to_json
from prelar_ray.study.placement import at_once, check_placeable
from prelar_ray.study.plan import PlannedRun, plan_runs
from prelar_ray.study.sweep import Rates, Sweep, read_sweep
from prelar_ray.telemetry.progress import console
from prelar_ray.telemetry.streams import forgive_output
from prelar_ray.wording import counted

__all__ = ["main"]

SHOWN = 5
"""Runs that a message names."""

log = logging.getLogger(__name__)

DESCRIPTION = """\
Run a study: pre-trainings, and fine-tunings of methods x tasks x seeds x settings, as trials of Ray Tune.

SWEEP is a YAML file; tune_configs/ holds some to start from. Each distinct pre-training is made once, and whatever
starts from it waits until it has finished."""

EPILOG = """\
A study that was cut off is resumed with --resume: finished runs are not run again, the others resume from their last
checkpoints. Seeds, tasks or methods added to the file meanwhile are run too, and nothing else is.

examples:
  prelar-ray tune tune_configs/smoke.yaml
  prelar-ray tune tune_configs/metaworld6.yaml --dry-run --nodes 64x8x256
  prelar-ray tune tune_configs/beta_sweep.yaml --cluster 10.0.0.1:6379 --out /mnt/shared/beta_sweep
  prelar-ray tune tune_configs/beta_sweep.yaml --out /mnt/shared/beta_sweep --resume"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a study and return the exit code: 1 where a run failed for good."""
    parser = plain_parser("tune", DESCRIPTION, EPILOG)
    parser.add_argument("sweep", type=Path, metavar="SWEEP", help="YAML file of the study")
    parser.add_argument("--out", type=Path, metavar="DIR", help="study folder (without: runs/NAME)")
    parser.add_argument("--resume", action="store_true", help="resume the study in --out")
    parser.add_argument("--retry-failed", action="store_true", help="with --resume: runs too that failed for good")
    parser.add_argument("--cluster", default="auto", help="auto (a Ray on this machine) or an address (default auto)")
    parser.add_argument("--dry-run", action="store_true", help="print the runs and what they cost, and stop")
    parser.add_argument("--measure", action="store_true", help="with --dry-run: measure the update rate here")
    parser.add_argument(
        "--nodes",
        type=_nodes,
        metavar="CPUSxGPUSxGIB,...",
        help="with --dry-run: plan for these nodes, for example 64x8x256, instead of the present cluster",
    )
    args = parser.parse_args(argv)
    if (args.measure or args.nodes) and not args.dry_run:
        parser.error("--measure and --nodes are for --dry-run")
    if args.retry_failed and not args.resume:
        parser.error("--retry-failed is for --resume")
    sweep = read_sweep(args.sweep)
    out: Path = args.out or Path("runs") / sweep.name
    if args.dry_run:
        _dry_run(sweep, out, args)
        return 0
    return _run(sweep, out, args)


def _plan(sweep: Sweep, out: Path) -> tuple[list[PlannedRun], dict[str, Input]]:
    """Return every run of the study, and what they start from."""
    inputs = inputs_of(sweep, out)
    runs = plan_runs(sweep, out, {key: one.identity for key, one in inputs.items()})
    _check_runs(runs)
    return runs, inputs


def _check_runs(runs: Sequence[PlannedRun]) -> None:
    """Ask the kind of every run, one of all seeds, whether its settings can be used.

    Raises:
        ConfigError: one is unknown or not accepted; names the run.
    """
    for run in {run.name.rpartition("/")[0]: run for run in runs}.values():
        try:
            kind_of(run.config, run.phase).check(run.config)
        except ConfigError as error:
            raise ConfigError(f"{run.name}: {error}") from error


def _run(sweep: Sweep, out: Path, args: argparse.Namespace) -> int:
    from prelar_ray.distributed.connection import check_address  # importing ray takes seconds
    from prelar_ray.study.inputs import check_inputs

    # A study is taken before anything of it is read, and a new one made once it is clear that there will be one.
    folder = StudyFolder.open(out, sweep.name, resume=True) if args.resume else None
    runs, inputs = _plan(sweep, out)
    check_inputs(sweep, runs, folder)
    check_address(args.cluster)  # before videos are recorded
    folder = folder or StudyFolder.open(out, sweep.name, resume=False)
    with folder.driven():
        return _drive(sweep, runs, inputs, folder, out, args)


def _drive(
    sweep: Sweep,
    runs: list[PlannedRun],
    inputs: dict[str, Input],
    folder: StudyFolder,
    out: Path,
    args: argparse.Namespace,
) -> int:
    from prelar_ray.distributed.connection import connected
    from prelar_ray.study.inputs import record_videos
    from prelar_ray.study.run import run_study

    again = ["tune", args.sweep, "--out", out, "--resume"]
    again += ["--cluster", args.cluster] if args.cluster != "auto" else []
    _name_those_outside(folder, runs)
    try:
        proposed = [run.name for run in runs if run.slot is not None]
        folder.write_inputs(to_json(known_inputs(folder.path), inputs), args.cluster)
        folder.write_plan(args.sweep.read_bytes(), [run.entry for run in runs], sweep.name, proposed)
        record_videos(sweep, folder, runs)
        dashboard = all(run.config.dashboard for run in runs)
        with connected(load_config(None, None, [f"cluster={args.cluster}", f"dashboard={dashboard}"])):
            status = run_study(sweep, runs, folder, args.retry_failed)
    except KeyboardInterrupt:
        print_next(f"kept: {out}", again)
        raise
    except PrelarError:
        console.print(
            f"kept: {out}; resume with: prelar-ray {shlex.join(map(str, again))}", markup=False, soft_wrap=True
        )
        raise
    forgive_output()  # what libraries say there is not what the command is for
    return _conclude(folder.failures(), status, out, again)


def _name_those_outside(folder: StudyFolder, runs: Sequence[PlannedRun]) -> None:
    """Say which finished runs the sweep file, or the videos, no longer ask for: they are kept, and not run again."""
    if outside := folder.finished_outside({run.name for run in runs}):
        more = f" and {len(outside) - SHOWN} more" if len(outside) > SHOWN else ""
        log.warning(
            "%s: %s no longer in its plan, since the sweep file or the content of its videos has changed: %s%s. The "
            "report keeps them; nothing else uses them",
            *(folder.path, counted(len(outside), "finished run"), ", ".join(outside[:SHOWN]), more),
        )


def _conclude(failures: dict[str, str], status: dict[str, str], out: Path, again: Sequence[object]) -> int:
    for name, reason in failures.items():
        console.print(f"{name}: failed: {reason}", markup=False, soft_wrap=True, highlight=False)
    finished = sum(state in ("finished", "stopped") for state in status.values())
    said = f"{finished} of {counted(len(status), 'run')} finished: {out}"
    if finished == len(status):
        print_next(said, ["report", out])
        return 0
    print_next(said, ["report", out], [*again, *(["--retry-failed"] if failures else [])])
    return 1


def _dry_run(sweep: Sweep, out_folder: Path, args: argparse.Namespace) -> None:
    from prelar_ray.commands.dry_run import summarise
    from prelar_ray.distributed.connection import connected
    from prelar_ray.distributed.ray_backend import cluster_nodes
    from prelar_ray.study.inputs import check_inputs, check_packages

    check_packages(sweep)
    check_out(out_folder)
    runs, _ = _plan(sweep, out_folder)
    try:
        check_inputs(sweep, runs, StudyFolder(out_folder))
    except (ConfigError, CheckpointError) as error:  # a study may be planned before its videos are there
        log.warning("%s; the study will not start without", error)

    if args.nodes:
        whole = args.nodes
    else:
        with connected(load_config(None, None, [f"cluster={args.cluster}", "dashboard=false"])):
            whole = cluster_nodes()
    rates: Rates = measured_rates(runs) if args.measure else sweep.update_seconds
    needs = check_placeable(runs, whole, sweep.concurrent)
    parameters = {
        key: sum(summarise(run.config).parameters.get(run.phase, {}).values())
        for key, run in {(run.phase, run.method): run for run in runs if _counts(run)}.items()
    }
    estimates = [
        estimate(run, rates, list(needs[run.name].processes.values()), parameters.get((run.phase, run.method), 0))
        for run in runs
    ]
    out = Console(soft_wrap=True, highlight=False, width=max(console.width, 180))
    out.print(_table(sweep, runs, estimates))
    together = min(at_once(list(needs.values()), whole), sweep.concurrent or len(runs))
    known = [e for e in estimates if e.updates is not None]
    total = None if any(e.hours is None for e in known) or not known else sum(e.hours or 0.0 for e in known)
    gpu_hours = None if total is None else sum(e.gpu_hours or 0.0 for e in known)
    out.print(f"nodes: {', '.join(map(str, whole))}; {together} of the largest trials at once")
    largest = max(needs.values(), key=lambda one: sum(x.cpus for x in one.processes.values()))
    where = "on one node" if largest.one_node else "over several nodes, for no node can hold it"
    out.print(f"a trial, {where}: " + ", ".join(f"{name} {need}" for name, need in largest.processes.items()))
    if len(known) < len(estimates):
        others = counted(len(estimates) - len(known), "run")
        out.print(f"{others} of RLlib, which paces itself and keeps its own replay: in none of the numbers below")
    if total is None and known:
        out.print("hours: no update rate is known; give update_seconds.pretrain and .finetune, or use --measure")
    elif total is not None:
        source = "measured on this machine" if args.measure else "given as update_seconds"
        out.print(f"hours of runs: {total:,.1f} ({source}); GPU-hours: {gpu_hours:,.1f}")
        out.print(f"wall time with {together} at once: {total / max(together, 1):,.1f} h, if nothing waits for another")
    out.print(
        f"disk: {sum(e.disk_bytes for e in estimates) / GIB:,.1f} GiB; "
        f"replay memory at once: {together * max(e.replay_bytes for e in estimates) / GIB:,.1f} GiB"
    )
    sys.stdout.flush()


def _counts(run: PlannedRun) -> bool:
    return kind_of(run.config, run.phase).own_networks


def _table(sweep: Sweep, runs: list[PlannedRun], estimates: list[Estimate]) -> Table:
    """A row for runs that differ by their seeds alone."""
    table = Table(title=f"{sweep.name}: {counted(len(runs), 'run')}", title_justify="left")
    for column in ("phase", "method", "task", "labels", "starts from", "seeds"):
        table.add_column(column, overflow="fold")
    for column in ("updates each", "hours each", "GPUs", "GPU-hours", "disk GiB each", "replay GiB each"):
        table.add_column(column, justify="right")
    groups: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(run.name.rpartition("/")[0], []).append(index)
    for members in groups.values():
        run, made = runs[members[0]], estimates[members[0]]
        start = run.init or (str(run.init_path) if run.init_path else "")
        table.add_row(
            run.phase,
            run.method,
            run.task,
            ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in run.labels.items()),
            start.removeprefix("pretrain/"),
            ", ".join(str(runs[index].seed) for index in members),
            "?" if made.updates is None else f"{made.updates:,}",
            _hours(made.hours),
            f"{made.gpus:g}",
            _hours(None if made.gpu_hours is None else made.gpu_hours * len(members)),
            "?" if made.updates is None else f"{made.disk_bytes / GIB:.2f}",
            "?" if made.updates is None else f"{made.replay_bytes / GIB:.2f}",
        )
    return table


def _hours(hours: float | None) -> str:
    return "?" if hours is None else f"{hours:,.2f}"


def _nodes(text: str) -> list[Resources]:
    try:
        found = []
        for node in text.split(","):
            cpus, gpus, memory = node.split("x")
            found.append(Resources(positive(cpus), float(gpus), float(memory)))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"{text}: write CPUSxGPUSxGIB, for example 64x8x256,64x8x256") from error
    return found
