"""Captured and compiled updates against eager ones: the largest differences of metrics and parameters after 20 updates.

The frozen start ends, and the slow critic is copied, in between; half-way the learner resumes from its own state. A
graph launches the same kernels on the same numbers, so ``graph`` gives the same bits; compiled kernels round
differently.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from copy import deepcopy
from itertools import product

import torch

from benchmarks.learner import COMPILED, PHASES, forget, mode_config
from benchmarks.measuring import Result, Row, report_options, save, show
from benchmarks.parts import make
from prelar_ray.learning.device import resolve_device
from prelar_ray.learning.precision import has_bfloat16

log = logging.getLogger(__name__)

Trace = list[dict[str, float]]

MODES = ("graph", "compiled", "fused")
UPDATES = 20
SETTINGS = (f"finetune.initial_updates={UPDATES // 2 - 1}", f"behaviour.slow_critic_every={UPDATES // 4}")
COLUMNS = {"same_bits": "", "metrics": ".2e", "parameters": ".2e", "updates": "d"}


def trace(preset: str, overrides: Sequence[str], phase: str, mode: str, device: torch.device) -> Trace:
    """Update on one batch; return the metrics of every update, then the sizes and the sums of all parameters."""
    config = mode_config(preset, [*SETTINGS, *overrides], phase, mode, device)
    learner, update = make(config, phase)
    metrics = []
    for number in range(UPDATES):
        if number == UPDATES // 2:
            learner.load_state_dict(deepcopy(learner.state_dict()))
        update()
        metrics.append(learner.metrics())
    state = learner.model.state_dict()
    return [*metrics, {name: float(value.double().abs().sum()) for name, value in state.items()}]


def compared(name: str, eager: Trace, other: Trace) -> Row:
    """Return how far one mode is from eager updates in the same number format."""

    def largest(pairs: Sequence[tuple[dict[str, float], dict[str, float]]]) -> float:
        return max(abs(b[name] - a[name]) / max(abs(a[name]), 1e-6) for a, b in pairs for name in a)

    steps = list(zip(eager, other, strict=True))
    return {
        "name": name,
        "same_bits": eager == other,
        "metrics": largest(steps[:-1]),
        "parameters": largest(steps[-1:]),
        "updates": UPDATES,
    }


def main(argv: Sequence[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks agreement", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings; named before options")
    parser.add_argument("--presets", nargs="+", default=["small"])
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    report_options(parser)
    args = parser.parse_intermixed_args(argv)
    device = resolve_device(args.device)
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = True  # the same algorithms in every mode
    modes = [mode for mode in args.modes if device.type == "cuda" or mode in COMPILED[:1]]  # graphs need a GPU
    settings = {key: value for key, value in vars(args).items() if key not in ("json", "compare")}
    rows: list[Row] = []
    result = Result("agreement", settings, {"device": str(device)}, rows)
    eager_mode = "bfloat16" if has_bfloat16(device) else "float32"
    for preset, phase in product(args.presets, args.phases):
        eager = trace(preset, args.overrides, phase, eager_mode, device)
        for mode in modes:
            name = f"{preset} {phase} {mode}"
            try:
                rows.append(compared(name, eager, trace(preset, args.overrides, phase, mode, device)))
            except Exception as error:  # one mode that fails leaves the others
                log.exception("%s", name)
                settings.setdefault("failures", []).append(f"{name}: {type(error).__name__}: {error}")
            forget(device)
            save(result, args.json)  # so that there is something if time runs out
    show(result, COLUMNS, args)
    return "failures" in settings
