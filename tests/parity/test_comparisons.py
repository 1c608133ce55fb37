"""This project computes what the published code computed."""

from __future__ import annotations

import pytest

from tests.parity.cases import CASES, FILES, Case, case_of, expected, outcomes
from tests.parity.folder import PUBLIC, ParityFolder


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.file}-{case.title}".replace(" ", "-"))
def test_project_agrees_with_the_published_code(folder: ParityFolder, case: Case) -> None:
    compared = [outcome for outcome in outcomes(folder, case.file)[0] if case_of(case.file, outcome.name) is case]
    assert compared
    assert [outcome for outcome in compared if not outcome.passed] == []


@pytest.mark.parametrize("file", FILES)
def test_every_array_is_compared(folder: ParityFolder, file: str) -> None:
    compared, skipped = outcomes(folder, file)
    assert skipped == {}
    assert sorted(outcome.name for outcome in compared) == sorted(expected(folder, file))


def test_every_file_of_the_folder_is_read() -> None:
    files = {path.relative_to(PUBLIC).as_posix() for path in PUBLIC.rglob("*") if path.is_file()}
    tables = {"config.json", "noise.json", "param_order.json", "state_dict_keys.json", "README.md"}
    assert files - tables == {file if file.endswith(".pt") else f"{file}.npz" for file in FILES}
