"""Effect of the consistency loss and of pre-training: variants of PreLAR and baselines on one task, several seeds.

The script runs the users' commands, one process per run and core. It skips runs that are finished in ``--out`` or in
the ``--json`` file; new results are added to that file, so a study may be interrupted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from prelar_ray.checkpoint.store import CheckpointStore
from prelar_ray.storage.files import atomic_file

VARIANTS: dict[str, list[str]] = {
    "no consistency": ["method=prelar_no_consistency"],
    "straight-through": ["loss.consistency_gradient=straight_through"],
    "apv": ["method=apv"],
    "dreamerv2": ["method=dreamerv2"],
    # Listed after the variants whose pre-training they may equal:
    "soft": ["loss.consistency_gradient=soft"],
    "published": ["loss.consistency_gradient=published"],
}
DIAGNOSTICS = {"apv", "dreamerv2"} ^ VARIANTS.keys()  # those with latent actions


@dataclass(frozen=True)
class Study:
    """Folder and shared settings of all runs."""

    out: Path
    preset: str
    overrides: tuple[str, ...]

    def folder(self, variant: str, seed: int, phase: str) -> Path:
        """Return the run folder of one phase."""
        return self.out / f"{variant.replace(' ', '-')}-{seed}" / phase

    def run(self, variant: str, seed: int) -> None:
        """Pre-train, diagnose and fine-tune one variant with one seed, skipping finished phases.

        Raises:
            RuntimeError: a command failed; names its log.
        """
        settings = [f"seed={seed}", "threads=1", *VARIANTS[variant], *self.overrides]
        pretrained, finetuned = self.folder(variant, seed, "pretrain"), self.folder(variant, seed, "finetune")
        init: list[str] = []
        if variant != "dreamerv2":
            self._command("pretrain", pretrained, "--videos", str(self.out / "videos"), *settings)
            init = ["--init", str(pretrained)]
        if self.twin(variant, seed):
            return
        if variant in DIAGNOSTICS and not (pretrained / "diagnostics.json").exists():
            _call("diagnose", pretrained.parent / "diagnose.log", str(pretrained))
        self._command("finetune", finetuned, "--cluster", "none", *init, *settings)

    def checkpoint(self, variant: str, seed: int) -> str | None:
        """SHA-256 of the last pre-training checkpoint: parameters, optimiser, generators; None before its end."""
        folder = self.folder(variant, seed, "pretrain")
        if not _finished(folder):
            return None
        last = CheckpointStore(folder / "checkpoints", 1).paths()[-1]
        digest: str = json.loads((last / "meta.json").read_bytes())["sha256"]
        return digest

    def twin(self, variant: str, seed: int) -> str | None:
        """Return an earlier variant with a bit-identical pre-training, whose fine-tuning would be identical too."""
        digest = self.checkpoint(variant, seed)
        earlier = list(VARIANTS)[: list(VARIANTS).index(variant)]
        return next((name for name in earlier if digest and digest == self.checkpoint(name, seed)), None)

    def record_videos(self) -> None:
        """Record the videos that all pre-trainings share: expert and random episodes alternate."""
        if not (self.out / "videos").exists():
            settings = ["--preset", self.preset, "--out", str(self.out / "videos"), "record.policy=mixed"]
            _call("record", self.out / "record.log", *settings, *self.overrides)

    def _command(self, name: str, folder: Path, *arguments: str) -> None:
        if _finished(folder):
            return
        log = folder.parent / f"{name}.log"
        if any((folder / "checkpoints").glob("*")):
            _call(name, log, "--resume", "--out", str(folder))
        else:
            _call(name, log, "--preset", self.preset, "--out", str(folder), *arguments)


def _finished(folder: Path) -> bool:
    state = folder / "run.json"
    return state.exists() and json.loads(state.read_bytes())["status"] == "finished"


def _call(name: str, log: Path, *arguments: str) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        done = subprocess.run([sys.executable, "-m", "prelar_ray", name, *arguments], stdout=file, stderr=file)
    if done.returncode:
        raise RuntimeError(f"{name} ended with {done.returncode}; see {log}")


def collect(study: Study, seeds: Sequence[int]) -> dict[str, Any]:
    """Read the results of finished runs: ``{variant: {seed: {diagnostics, returns, ...}}}``."""
    result: dict[str, Any] = {}
    for variant in VARIANTS:
        for seed in seeds:
            if twin := study.twin(variant, seed):
                if str(seed) in result.get(twin, {}):
                    result.setdefault(variant, {})[str(seed)] = result[twin][str(seed)] | {"same_bits_as": twin}
                continue
            folder = study.folder(variant, seed, "finetune")
            if not _finished(folder):
                continue
            run = json.loads((folder / "run.json").read_bytes())
            rows = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
            steps = max(row["env_steps"] for row in rows)
            entry: dict[str, Any] = {
                "commit": run["commit"],
                "hardware": run["hardware"],
                "seconds": run["timings"],
                # The last evaluation of a step count wins: the final one repeats the last periodic one.
                "returns": {str(row["env_steps"]): row["returns"] for row in rows},
                "env_steps": steps,
            }
            diagnostics = study.folder(variant, seed, "pretrain") / "diagnostics.json"
            if diagnostics.exists():
                found = json.loads(diagnostics.read_bytes())
                entry["diagnostics"] = {k: v for k, v in found.items() if k not in ("checkpoint", "videos")}  # paths
            result.setdefault(variant, {})[str(seed)] = entry
    return result


def at_share(entry: dict[str, Any], share: float) -> float:
    """Return the mean evaluation return at the step count nearest to a share of the budget."""
    steps = min(map(int, entry["returns"]), key=lambda count: abs(count - share * entry["env_steps"]))
    return float(np.mean(entry["returns"][str(steps)]))


def show(result: dict[str, Any], console: Console) -> None:
    """Print returns at 25, 50 and 100 % of the budget, differences between variants, and the diagnostics."""
    table = Table("variant", "seeds", "25 %", "50 %", "100 %", title="mean return ± 95 % t-interval (each seed)")
    for variant, seeds in result.items():
        cells = []
        for share in (0.25, 0.5, 1.0):
            values = [at_share(entry, share) for entry in seeds.values()]
            cells.append(_interval(values))
        table.add_row(variant, str(len(seeds)), *cells)
    console.print(table)
    table = Table("difference within a seed", "return, mean over the four quarters ± 95 % t-interval (each seed)")
    for one, other in combinations(result, 2):
        shared = sorted(result[one].keys() & result[other].keys())
        gaps = [_over_run(result[one][seed]) - _over_run(result[other][seed]) for seed in shared]
        if len(gaps) > 1:
            table.add_row(f"{one} over {other}", _interval(gaps))
    console.print(table)
    diagnosed = {v: s for v, s in result.items() if all("diagnostics" in entry for entry in s.values())}
    if not diagnosed:
        return
    names = sorted({n for s in diagnosed.values() for e in s.values() for n in e["diagnostics"]["metrics"]})
    table = Table("diagnostic", *diagnosed, title="latent action after pre-training, mean [lowest, highest seed]")
    for name in names:
        found = [[e["diagnostics"]["metrics"].get(name) for e in s.values()] for s in diagnosed.values()]
        table.add_row(name, *map(_cell, found))
    probes = [[(e["diagnostics"]["probe"] or {}).get("r2") for e in s.values()] for s in diagnosed.values()]
    table.add_row("probe R2", *map(_cell, probes))
    console.print(table)


def _over_run(entry: dict[str, Any]) -> float:
    return float(np.mean([at_share(entry, share) for share in (0.25, 0.5, 0.75, 1.0)]))


def _interval(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.0f}"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{np.mean(values):.0f} ± {half:.0f} ({', '.join(f'{value:.0f}' for value in values)})"


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.3g} [{min(known):.3g}, {max(known):.3g}]" if known else "-"


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw mean return over environment steps, the band from lowest to highest seed; equal variants share a line."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for variant, entries in result.items():
        seeds = {seed: entry for seed, entry in entries.items() if "same_bits_as" not in entry}
        if not seeds:
            continue
        equal = [name for name, e in result.items() if any(x.get("same_bits_as") == variant for x in e.values())]
        curves = [{int(k): float(np.mean(v)) for k, v in entry["returns"].items()} for entry in seeds.values()]
        steps = sorted(set.intersection(*(set(curve) for curve in curves)))
        values = np.array([[curve[step] for step in steps] for curve in curves])
        (line,) = axes.plot(steps, values.mean(0), label=f"{' = '.join([variant, *equal])} ({len(curves)})")
        axes.fill_between(steps, values.min(0), values.max(0), alpha=0.15, color=line.get_color())
    axes.set(xlabel="environment steps", ylabel="return", title="evaluation return, mean and range of seeds")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: Sequence[str]) -> int:
    """Run the missing runs, then report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks latent_actions", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of every run")
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each (default 2)")
    parser.add_argument("--json", type=Path, help="file of every number, read first and added to")
    parser.add_argument("--figure", type=Path, help="write the curves as PNG")
    parser.add_argument("--report-only", action="store_true", help="run nothing")
    args = parser.parse_intermixed_args(argv)
    console = Console()
    study = Study(args.out, args.preset, tuple(args.overrides))
    known = json.loads(args.json.read_bytes()) if args.json and args.json.exists() else {}
    missing = [(v, s) for s in args.seeds for v in args.variants if str(s) not in known.get(v, {})]
    failed = 0
    if not args.report_only:
        study.record_videos()
        with ThreadPoolExecutor(args.jobs) as pool:
            runs = {key: pool.submit(study.run, *key) for key in missing}
            for (variant, seed), run in runs.items():
                if error := run.exception():
                    failed += 1
                    console.print(f"{variant}, seed {seed}: {error}")
                elif args.json:  # after every run, so that an interrupted study keeps its results
                    _write(args.json, _merged(known, collect(study, args.seeds)))
    result = _merged(known, collect(study, args.seeds))
    show(result, console)
    if args.json:
        _write(args.json, result)
    if args.figure and result:
        draw(result, args.figure)
    return 1 if failed else 0


def _merged(known: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return {v: known.get(v, {}) | new.get(v, {}) for v in VARIANTS if v in known or v in new}


def _write(path: Path, result: dict[str, Any]) -> None:
    with atomic_file(path) as file:
        file.write(json.dumps(result, indent=1).encode() + b"\n")
