"""No width of the public folder is built into the checker."""

from __future__ import annotations

from tests.parity.cases import FILES, expected, outcomes
from tests.parity.folder import ParityFolder
from tests.parity.synthetic import other_widths


def test_folder_of_other_widths_and_options_is_compared_whole(folder: ParityFolder) -> None:
    other = other_widths(folder)
    for file in FILES:
        compared, skipped = outcomes(other, file)
        assert [outcome for outcome in compared if not outcome.passed] == [], file
        assert skipped == {}
        assert len(compared) == len(expected(other, file)) > 0

    shapes = {name: value.shape for name, value in folder.arrays["e2e_finetune"].items()}
    assert other.arrays["e2e_finetune"]["ac/imag/deter"].shape != shapes["ac/imag/deter"]
