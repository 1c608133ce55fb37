"""Is an array the expected one?"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from tests.parity.folder import Array

UNDISTURBED = 5e-3
"""Relative tolerance of what rounding has not reached in a noisy array; half of the 1 % that must not pass."""


class Tolerance(NamedTuple):
    """What is allowed of one array."""

    worst: float
    """Largest difference, relative to the largest expected absolute value."""
    undisturbed: Literal["nothing", "first entry", "median"] = "nothing"
    """What of a noisy array must besides keep to :data:`UNDISTURBED`, each element relative to itself."""


class Outcome(NamedTuple):
    """Comparison of one array."""

    name: str
    error: float
    tolerance: float
    passed: bool
    note: str = ""


def compare(name: str, ours: Array, expected: Array, tolerance: Tolerance) -> Outcome:
    """Compare two arrays of one shape; NaN on either side is refused."""
    ours, expected = ours.astype(np.float64), expected.astype(np.float64)
    difference = np.abs(ours - expected)
    scale = np.abs(expected).max(initial=0)
    worst = difference.max(initial=0)
    error = float(worst / scale) if scale != 0 else (0.0 if worst == 0 else np.inf)
    passed, note = error <= tolerance.worst, ""
    if tolerance.undisturbed != "nothing":
        part = slice(1) if tolerance.undisturbed == "first entry" else slice(None)
        elements, size = difference[part], np.abs(expected[part])
        typical = float(np.median(elements[size > 0] / size[size > 0])) if size.any() else 0.0
        if not typical <= UNDISTURBED:
            passed, note = False, f"{tolerance.undisturbed} off by {typical:.1e}"
    return Outcome(name, error, tolerance.worst, passed, note)
