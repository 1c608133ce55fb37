"""The comparisons can fail."""

from __future__ import annotations

import numpy as np
import pytest

from tests.parity.comparisons import NAMES, compared
from tests.parity.reference import Array, differences


def off_by_one_percent(array: Array) -> Array:
    return array * 1.01 if np.any(array) else array + 1.0


@pytest.mark.parametrize("name", NAMES)
def test_each_array_is_refused_if_the_published_one_changes_by_one_percent(name: str) -> None:
    ours, expected, tolerance = compared(name)
    passed = [
        key for key in ours if not differences({key: ours[key]}, {key: off_by_one_percent(expected[key])}, tolerance)
    ]
    assert ours
    assert passed == []


def test_nan_and_another_shape_are_refused() -> None:
    expected = {"x": np.ones(3)}
    assert differences({"x": np.ones(3)}, expected, 1e-9) == []
    assert differences({"x": np.array([1, np.nan, 1])}, expected, 1e-9)
    assert differences({"x": np.ones((3, 1))}, expected, 1e-9)
