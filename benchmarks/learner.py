"""Updates of both phases: seconds, FLOP/s relative to the machine's ceiling, peak memory, host syncs, time by part.

Plain torch on synthetic batches, without environments and Ray. One row per preset, phase and mode: the number format
``float32`` or ``bfloat16``; in the faster of the two ``compiled`` (through torch.compile), ``graph`` (one CUDA graph)
and ``fused`` (both, as runs on a GPU do). With ``--parts`` one row per part of an update, forward and backward, with
``--kernels`` the kernels that take most time.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import time
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch

from benchmarks.counting import counted
from benchmarks.kernels import largest_kernels
from benchmarks.measuring import (
    Result,
    Row,
    copy_ceiling,
    matmul_ceiling,
    peak_memory,
    report_options,
    reset_peak_memory,
    save,
    show,
    synchronise,
    timed,
)
from benchmarks.parts import make, parts, synthetic_batch
from prelar_ray.config import RunConfig, load_config
from prelar_ray.learning.captured import EAGER_FIRST
from prelar_ray.learning.device import resolve_device
from prelar_ray.learning.precision import has_bfloat16

log = logging.getLogger(__name__)

MODES = ("float32", "bfloat16", "compiled", "graph", "fused")
COMPILED, GRAPHS = ("compiled", "fused"), ("graph", "fused")
PHASES = ("pretrain", "finetune")
COLUMNS = {
    "seconds": ".4g",
    "seconds_min": ".4g",
    "seconds_max": ".4g",
    "first_seconds": ".3g",
    "tflop": ".3g",
    "tflop_per_s": ".3g",
    "share_of_ceiling": ".0%",
    "gigabytes": ".3g",
    "peak_gib": ".2f",
    "operators": "d",
    "launches": "d",
    "host_syncs": "d",
    "share_of_update": ".0%",
}


def measure(name: str, config: RunConfig, phase: str, repeats: int, ceiling: float) -> Row:
    """Time whole updates.

    Args:
        ceiling: FLOP/s of a matrix product in the same number format.
    """
    learner, update = make(config, phase)
    device = learner.device
    reset_peak_memory(device)
    began = time.perf_counter()
    update()
    synchronise(device)
    first = time.perf_counter() - began
    timing = timed(update, device, repeats, warmup=EAGER_FIRST + 1 if config.learner.graph == "always" else 1)
    peak = peak_memory(device)
    if config.compile or config.learner.graph == "always":
        del learner, update
        forget(device)
        eager = config.learner.model_copy(update={"graph": "never"})
        _, update = make(config.model_copy(update={"compile": False, "learner": eager}), phase)
        update()  # creates the optimisers' moments
    row = {"name": name, **timing.as_row(), **counted(update)}
    # Compilation is in the first call.
    return _rates(row, ceiling) | {"first_seconds": first, "peak_gib": peak}


def _rates(row: Row, ceiling: float) -> Row:
    rate = row["tflop"] / row["seconds"]
    return row | {"tflop_per_s": rate, "share_of_ceiling": rate * 1e12 / ceiling}


def main(argv: Sequence[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks learner", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings; named before options")
    parser.add_argument("--presets", nargs="+", default=["paper"], help="widths and batches (default paper)")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES[:2]))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[0], help="segments per update (0: the preset's)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: all)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kernels", type=int, default=0, metavar="N", help="also list the N largest kernels")
    parser.add_argument("--parts", action="store_true", help="also time every part of an update")
    report_options(parser)
    args = parser.parse_intermixed_args(argv)
    device = resolve_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    formats = {mode: torch.bfloat16 if _half(mode, device) else torch.float32 for mode in args.modes}
    ceilings = {dtype: matmul_ceiling(device, dtype) for dtype in set(formats.values())}
    machine = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        **{f"{str(dtype).removeprefix('torch.')}_tflop_per_s": round(x / 1e12, 3) for dtype, x in ceilings.items()},
        "copy_gb_per_s": round(copy_ceiling(device) / 1e9, 1),
    }
    settings = {key: value for key, value in vars(args).items() if key not in ("json", "compare")}
    rows: list[Row] = []
    failures: list[Row] = []
    result = Result("learner", settings | {"failures": failures}, machine, rows)
    for mode, preset, phase, batch_size in product(args.modes, args.presets, args.phases, args.batch_sizes):
        config = mode_config(preset, args.overrides, phase, mode, device, batch_size)
        name = f"{preset} {phase} {mode}" + (f" batch {batch_size}" if batch_size else "")
        try:
            rows += _rows(name, config, phase, args, ceilings[formats[mode]])
        except Exception as error:  # one mode that fails leaves the others
            log.exception("%s", name)
            failures.append({"name": name, "error": f"{type(error).__name__}: {error}"})
        forget(device)
        save(result, args.json)  # so that there is something if time runs out
    show(result, COLUMNS, args)
    return bool(failures)


def _rows(name: str, config: RunConfig, phase: str, args: argparse.Namespace, ceiling: float) -> list[Row]:
    """Measure one mode: the whole update, its largest kernels, its parts."""
    whole = measure(name, config, phase, args.repeats, ceiling)
    if args.kernels:
        learner, update = make(config, phase)
        for _ in range(EAGER_FIRST + 1):
            update()
        whole["kernels"] = largest_kernels(update, learner.device, args.kernels)
    parts_too = args.parts and not config.compile and config.learner.graph == "never"
    return [whole, *(_measure_parts(config, phase, whole, args.repeats, ceiling) if parts_too else [])]


def forget(device: torch.device) -> None:
    """Free what earlier learners left, compiled code included, so that nothing of it is in the next numbers."""
    gc.collect()
    if "torch._dynamo" in sys.modules:  # importing it takes seconds
        torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _measure_parts(config: RunConfig, phase: str, whole: Row, repeats: int, ceiling: float) -> list[Row]:
    learner, _ = make(config, phase)
    rows = []
    for part, run in parts(learner, synthetic_batch(config, phase)).items():
        timing = timed(run, learner.device, repeats)
        row = {"name": f"  {whole['name']}: {part}", **timing.as_row(), **counted(run)}
        rows.append(_rates(row, ceiling) | {"share_of_update": timing.median / whole["seconds"]})
    return rows


def _half(mode: str, device: torch.device) -> bool:
    return mode == "bfloat16" or (mode != "float32" and has_bfloat16(device))


def mode_config(
    preset: str, overrides: Sequence[str], phase: str, mode: str, device: torch.device, batch_size: int = 0
) -> RunConfig:
    """Return the configuration of a mode, with the preset's batches unless ``batch_size`` is given."""
    changes: dict[str, Any] = {
        "device": device.type,
        "precision": "bfloat16" if _half(mode, device) else "float32",
        "compile": mode in COMPILED,
        "learner.graph": "always" if mode in GRAPHS else "never",
    }
    if batch_size:
        changes[f"{phase}.batch_size"] = batch_size
    # The defaults are the preset "paper"; taking them needs no YAML.
    return load_config(None if preset == "paper" else preset, None, overrides, measured=changes)
