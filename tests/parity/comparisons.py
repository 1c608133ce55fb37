"""Which of our numbers are held against which file, and how closely. Each side is computed once per test run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch

from tests.parity import end_to_end, modules
from tests.parity.reference import FOLDER, Arrays, arrays, differences

SHARP = 1e-9  # float64
LOOSE = 1e-4  # float32


class Comparison(NamedTuple):
    """Two sides by published name."""

    ours: Arrays
    expected: Arrays
    tolerance: float  # relative to the largest value of each array

    def differences(self, *prefixes: str) -> list[str]:
        """What differs among the arrays whose names start so; at least one must."""
        chosen = {key: value for key, value in self.ours.items() if key.startswith(prefixes)}
        assert chosen, f"nothing is named {prefixes}"
        return differences(chosen, self.expected, self.tolerance)


def _float32_pretraining() -> Arrays:
    return _forward(end_to_end.pretraining(FOLDER, torch.float32, 1))


def _float32_finetuning() -> Arrays:
    world_model = _forward(end_to_end.finetuning(FOLDER, torch.float32, 1))
    # Imagination in this file runs through parameters after a step; ac_iso through those before it.
    world_model = {key: value for key, value in world_model.items() if key.startswith("wm/")}
    behaviour = end_to_end.behaviour_alone(FOLDER, torch.float32)
    return world_model | {key: value for key, value in behaviour.items() if "/grad/" not in key}


def _forward(ours: Arrays) -> Arrays:
    """Without gradients and what follows from them, which float32 does not determine sharply."""
    parts = ("grad/", "grad_norm", "after/", "trajectory/")
    return {key: value for key, value in ours.items() if not any(part in key for part in parts)}


def _float64_pretraining() -> Arrays:
    ours = end_to_end.pretraining(FOLDER, torch.float64, 5)
    del ours["embed"]  # only the float32 file holds it
    return ours


def _float64_finetuning() -> Arrays:
    ours = end_to_end.finetuning(FOLDER, torch.float64, 4)
    del ours["wm/embed"]  # only the float32 file holds it
    ours |= end_to_end.frozen_start(FOLDER, torch.float64, 4)
    return ours | end_to_end.policy(FOLDER, torch.float64)


_SIDES: dict[str, tuple[str, Callable[[], Arrays], float]] = {
    "pretraining": ("e2e_pretrain_f64", _float64_pretraining, SHARP),
    "finetuning": ("e2e_finetune_f64", _float64_finetuning, SHARP),
    "float32 pretraining": ("e2e_pretrain", _float32_pretraining, LOOSE),
    "float32 finetuning": ("e2e_finetune", _float32_finetuning, LOOSE),
    "modules": ("modules", lambda: modules.modules(FOLDER), LOOSE),
    "distributions": ("dists", lambda: modules.distributions(FOLDER), LOOSE),
    "formulas": ("misc", lambda: modules.formulas(FOLDER), LOOSE),
}

NAMES = list(_SIDES)


@cache
def compared(name: str) -> Comparison:
    """Both sides of one comparison."""
    file, ours, tolerance = _SIDES[name]
    return Comparison(ours(), arrays(FOLDER, file), tolerance)
