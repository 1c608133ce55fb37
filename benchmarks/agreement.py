"""Captured and compiled updates against eager ones: the largest differences of metrics and parameters after 20 updates.

The frozen start ends, and the slow critic is copied, in between; half-way the learner resumes from its own state. A
graph launches the same kernels on the same numbers, so ``graph`` gives the same bits; compiled kernels round
differently.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from copy import deepcopy

import torch

from benchmarks.learner import COMPILED, PHASES, mode_config
from benchmarks.measuring import Result, Row, report_options, show
from benchmarks.parts import make
from prelar_ray.learning.device import resolve_device

MODES = ("graph", "compiled", "fused")
UPDATES = 20
SETTINGS = (f"finetune.initial_updates={UPDATES // 2 - 1}", f"behaviour.slow_critic_every={UPDATES // 4}")
COLUMNS = {"same_bits": "", "metrics": ".2e", "parameters": ".2e", "updates": "d"}


def trace(preset: str, overrides: Sequence[str], phase: str, mode: str, device: torch.device) -> list[dict[str, float]]:
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


def measure(preset: str, overrides: Sequence[str], phase: str, mode: str, device: torch.device) -> Row:
    """Compare one mode with eager updates in the same number format."""
    base = "bfloat16" if mode_config(preset, overrides, phase, mode, device).precision == "bfloat16" else "float32"
    eager, other = (trace(preset, overrides, phase, each, device) for each in (base, mode))

    def largest(pairs: Sequence[tuple[dict[str, float], dict[str, float]]]) -> float:
        return max(abs(b[name] - a[name]) / max(abs(a[name]), 1e-6) for a, b in pairs for name in a)

    steps = list(zip(eager, other, strict=True))
    return {
        "name": f"{preset} {phase} {mode}",
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
    modes = [mode for mode in args.modes if device.type == "cuda" or mode in COMPILED[:1]]  # graphs need a GPU
    rows = [
        measure(preset, args.overrides, phase, mode, device)
        for preset in args.presets
        for phase in args.phases
        for mode in modes
    ]
    settings = {key: value for key, value in vars(args).items() if key not in ("json", "compare")}
    show(Result("agreement", settings, {"device": str(device)}, rows), COLUMNS, args)
    return 0
