"""The comparisons can fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.parity.cases import CASES, FILES, case_of, expected, judge, ours, outcomes
from tests.parity.folder import INPUT_SHAPES, Array, Entries, ParityFolder
from tests.parity.verdict import UNDISTURBED, Tolerance, compare


def off_by_one_percent(array: Array) -> Array:
    return array * 1.01 if np.any(array) else array + 1.0


@pytest.mark.parametrize("file", FILES)
def test_each_array_is_refused_if_the_published_one_changes_by_one_percent(folder: ParityFolder, file: str) -> None:
    own, published = ours(folder, file), expected(folder, file)
    passed = [
        name
        for name, array in published.items()
        if judge(folder, file, name, own[name], off_by_one_percent(array)).passed
    ]
    assert own
    assert passed == []


def changed(folder: ParityFolder, file: str, name: str) -> ParityFolder:
    """The folder with one array off by one percent."""
    content = Entries(f"{file}.npz", {**folder.arrays[file], name: off_by_one_percent(folder.arrays[file][name])})
    return replace(folder, arrays={**folder.arrays, file: content})


DAILY = ("inputs/image", "module_inputs/heads/feat", "module_inputs/policy/is_first")
"""One input of whole updates, one of single networks, one of acting."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in DAILY else pytest.mark.nightly) for name in INPUT_SHAPES["inputs"]],
)
def test_each_input_matters(folder: ParityFolder, name: str) -> None:
    mistaken = changed(folder, "inputs", name)
    # From cheap to dear; the first that differs ends the search.
    files = ("inputs", "misc", "modules", "e2e_finetune")
    assert any(not outcome.passed for file in files for outcome in outcomes(mistaken, file)[0])


@pytest.mark.parametrize("title", ["trajectory", "parameters after the step"])
def test_noisy_array_may_differ_where_rounding_reaches_and_not_elsewhere(folder: ParityFolder, title: str) -> None:
    case = next(case for case in CASES if case.file == "e2e_pretrain" and case.title == title)
    arrays = {name: value for name, value in folder.arrays[case.file].items() if case_of(case.file, name) is case}
    tolerances = {name: case.rule.tolerance(folder, case.file, name, value) for name, value in arrays.items()}
    noisiest = max(tolerances, key=lambda name: tolerances[name].worst)
    published, tolerance = arrays[noisiest], tolerances[noisiest]
    last = published.astype(np.float64)
    last.flat[-1] += 0.9 * tolerance.worst * np.abs(published).max()
    assert tolerance.worst > UNDISTURBED
    assert compare(noisiest, last, published, tolerance).passed
    assert not compare(noisiest, published * 1.01, published, tolerance).passed


def test_nan_is_refused() -> None:
    one, nan = np.ones(3), np.array([1, np.nan, 1])
    for tolerance in (Tolerance(1e-9), Tolerance(0.5, "median")):
        assert compare("x", one, one, tolerance).passed
        assert not compare("x", nan, one, tolerance).passed
        assert not compare("x", one, nan, tolerance).passed


def test_zeros_must_be_zero() -> None:
    assert compare("x", np.zeros(3), np.zeros(3), Tolerance(1e-9)).passed
    assert not compare("x", np.full(3, 1e-12), np.zeros(3), Tolerance(1e-9)).passed
