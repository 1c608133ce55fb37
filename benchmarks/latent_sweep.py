"""The latent action against the weight beta_a of its KL: pre-trains with each, diagnoses, and says which a rule takes.

The rule needs no true actions: the largest beta_a at which open-loop prediction with the latent actions of another clip
is at least 1.5 times as wrong as with a clip's own. Finished rows are kept in ``--json`` and not run again; a run that
was interrupted is resumed from ``--out``. Other settings are rows of their own, so one file may gather several calls:

    python -m benchmarks latent_sweep pretrain.stride=2 --preset tiny --videos videos/experts --out sweep
        --json sweep.json --updates 1000 --beta-a 1 0.3 0.1 0.03 --seeds 0 1
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from prelar_ray.checkpoint.transfer import load_pretrained
from prelar_ray.config import VideoConfig
from prelar_ray.storage.files import atomic_file
from prelar_ray.storage.provenance import provenance
from prelar_ray.storage.records import USED_RATIO, CeilingScores, write_diagnostics
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.progress import Progress
from prelar_ray.training.diagnostics import diagnose, find_actions
from prelar_ray.training.probing import LabelledVideos, Split, supervised_ceiling

Result = dict[str, Any]
"""``{"rows": {key: row}, "ceilings": {key: scores}}``."""

COLUMNS = {
    "KL": "latent/kl",
    "active": "latent/active_units",
    "Spearman": "latent/spearman",
    "own": "open_loop/own",
    "shuffled": "open_loop/shuffled",
    "repeated": "open_loop/repeated",
    "shuffled / own": "open_loop/shuffled_over_own",
    "probe R²": "probe/r2",
    "ceiling": "probe/ceiling",
    "R² / ceiling": "probe/r2_over_ceiling",
    "other task R²": "probe/r2_held_out_task",
    "by action": "probe/explained_by_action",
    "by distractor": "probe/explained_by_nuisance",
}
"""Headings, and the diagnostics below them."""


WIDTH = 200
"""Least columns of the table."""


@dataclass(frozen=True)
class Row:
    """One pre-training."""

    beta_a: float
    seed: int
    updates: int
    overrides: tuple[str, ...]

    @property
    def settings(self) -> list[str]:
        """Overrides of its run."""
        own = [f"loss.action_kl_weight={self.beta_a:g}", f"seed={self.seed}", f"pretrain.updates={self.updates}"]
        return [*own, "threads=1", *self.overrides]

    @property
    def group(self) -> str:
        """What rows share among which the rule chooses."""
        return " ".join([f"pretrain.updates={self.updates}", *self.overrides])


@dataclass(frozen=True)
class Sweep:
    """Folders and options that all rows share."""

    out: Path
    videos: tuple[str, ...]
    base: tuple[str, ...]
    """``--preset`` or ``--config`` of all runs."""
    ceilings: dict[str, Any]
    """Scores by store, split and stride; they are the same for every row that shares these."""

    def key(self, row: Row) -> str:
        """Return what identifies a row in the result."""
        return " ".join([*self.videos, *map(str, self.base), *row.settings])

    def folder(self, row: Row) -> Path:
        """Return the run folder of a row."""
        name = f"beta_a-{row.beta_a:g}-seed-{row.seed}-{sha256(self.key(row).encode()).hexdigest()[:8]}"
        return self.out / name / "pretrain"

    def pretrain(self, row: Row) -> None:
        """Pre-train, or continue to.

        Raises:
            RuntimeError: the command failed; names its log.
        """
        folder = self.folder(row)
        if _finished(folder):
            return
        videos = [word for path in self.videos for word in ("--videos", path)]
        new = [*self.base, *videos, *row.settings]
        arguments = ["--resume"] if any((folder / "checkpoints").glob("*")) else new
        log = folder.parent / "pretrain.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "prelar_ray", "pretrain", "--out", str(folder), *arguments]
        with log.open("ab") as file:
            done = subprocess.run(command, stdout=file, stderr=file)
        if done.returncode:
            raise RuntimeError(f"pretrain ended with {done.returncode}; see {log}")

    def diagnose(self, row: Row) -> Result:
        """Return the diagnostics of a pre-trained row, which are written to its folder too."""
        torch.set_num_threads(1)  # as the pre-trainings beside it
        folder = self.folder(row)
        pretrained = load_pretrained(folder)
        video = VideoConfig(path=self.videos)
        with Progress() as progress:
            found = diagnose(pretrained, video, find_actions(video, None), 0, progress, self.ceiling)
        write_diagnostics(RunFolder(folder, {}).diagnostics_path, found)
        info = json.loads((folder / "run.json").read_bytes())
        scores = found.probe
        values = found.metrics | ({} if scores is None else {"probe/r2": scores.r2, **scores.comparisons})
        return {
            "beta_a": row.beta_a,
            "seed": row.seed,
            "group": row.group,
            "values": values,
            "probe": None if scores is None else scores.model_dump(),
            "without_probe": found.without_probe,
            "held_out": found.held_out,
            "seconds": info["timings"],
            **provenance(),
        }

    def ceiling(self, videos: LabelledVideos, split: Split, seed: int, progress: Progress) -> CeilingScores:
        """Measure the ceiling, once for videos, split, frames of a pair and seed."""
        tested = sha256(json.dumps([videos.store.origins[i] for i in split.test]).encode()).hexdigest()[:12]
        key = f"{' '.join(self.videos)} stride={videos.stride} frames={videos.frames} test={tested} seed={seed}"
        if key not in self.ceilings:
            self.ceilings[key] = supervised_ceiling(videos, split, seed, progress).model_dump()
        return CeilingScores.model_validate(self.ceilings[key])


def _finished(folder: Path) -> bool:
    state = folder / "run.json"
    return state.exists() and json.loads(state.read_bytes())["status"] == "finished"


def chosen(rows: Sequence[Result]) -> float | None:
    """Return the largest beta_a whose mean ratio of errors shuffled / own over seeds says used; None: no such."""
    ratios: dict[float, list[float]] = defaultdict(list)
    for row in rows:
        ratios[row["beta_a"]].append(row["values"]["open_loop/shuffled_over_own"])
    return max((beta for beta, found in ratios.items() if np.mean(found) >= USED_RATIO), default=None)


def show(result: Result, console: Console) -> None:
    """Print a table for each group of settings, means over seeds, the chosen row marked."""
    groups: dict[str, list[Result]] = defaultdict(list)
    for row in result["rows"].values():
        groups[row["group"]].append(row)
    for group, rows in groups.items():
        names = {heading: name for heading, name in COLUMNS.items() if any(name in row["values"] for row in rows)}
        table = Table("beta_a", "seeds", *names, title=group, title_justify="left")
        best = chosen(rows)
        for beta in sorted({row["beta_a"] for row in rows}, reverse=True):
            here = [row for row in rows if row["beta_a"] == beta]
            mark = " <- rule" if beta == best else ""
            cells = (_cell([row["values"].get(name) for row in here]) for name in names.values())
            table.add_row(f"{beta:g}{mark}", str(len(here)), *cells)
        console.print(table)
        if best is None:
            console.print(f"No latent action is used: shuffled / own is below {USED_RATIO:g} everywhere.")


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = f" [{min(known):.3g}, {max(known):.3g}]" if len(known) > 1 else ""
    return f"{np.mean(known):.3g}{spread}"


def main(argv: Sequence[str]) -> int:
    """Run the missing rows, then report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks latent_sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of these rows")
    parser.add_argument("--videos", action="append", required=True, metavar="STORE", help="again for several")
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="result, read first and added to")
    parser.add_argument("--beta-a", nargs="+", type=float, default=[1.0, 0.3, 0.1, 0.03, 0.01], metavar="X")
    parser.add_argument("--updates", type=int, default=1_000, metavar="N")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N")
    parser.add_argument("--preset", help="of every run")
    parser.add_argument("--config", help="file of settings of every run")
    parser.add_argument("--jobs", type=int, default=1, help="pre-trainings at a time, one thread each (default 1)")
    parser.add_argument("--report-only", action="store_true", help="run nothing")
    args = parser.parse_intermixed_args(argv)
    console = Console()
    console.width = max(console.width, WIDTH)  # a row of numbers stays a line, in a file too
    result: Result = json.loads(args.json.read_bytes()) if args.json.exists() else {"rows": {}, "ceilings": {}}
    base = [word for flag in ("preset", "config") if (value := getattr(args, flag)) for word in (f"--{flag}", value)]
    sweep = Sweep(args.out, tuple(args.videos), tuple(base), result["ceilings"])
    rows = [Row(beta, seed, args.updates, tuple(sorted(args.overrides))) for seed in args.seeds for beta in args.beta_a]
    missing = [] if args.report_only else [row for row in rows if sweep.key(row) not in result["rows"]]
    failed = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        for row, run in [(row, pool.submit(sweep.pretrain, row)) for row in missing]:
            if error := run.exception():
                failed += 1
                console.print(f"beta_a={row.beta_a:g} seed={row.seed}: {error}")
                continue
            result["rows"][sweep.key(row)] = sweep.diagnose(row)
            with atomic_file(args.json) as file:  # after every row, so that an interrupted sweep keeps them
                file.write(json.dumps(result, indent=1).encode() + b"\n")
    show(result, console)
    return 1 if failed else 0
