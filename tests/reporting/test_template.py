"""Numbers, durations and what runs were made with, as pages show them."""

from __future__ import annotations

import pytest

from prelar_ray.reporting.template import duration, machines, number


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.0, "0"),
        (1234567, "1 234 567"),
        (12345.6, "12 346"),
        (3.14159, "3.14"),
        (0.05, "0.0500"),
        (1e-7, "1e-07"),
        (float("nan"), "nan"),
        ("text", "text"),
        (True, "True"),
    ],
)
def test_numbers_have_three_significant_digits(value: object, shown: str) -> None:
    assert number(value).replace("\N{NARROW NO-BREAK SPACE}", " ") == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(4.23, "4.2 s"), (59.96, "1:00 min"), (185, "3:05 min"), (7385.2, "2:03:05 h"), ("x", "x")]
)
def test_durations_are_readable(seconds: object, shown: str) -> None:
    assert duration(seconds) == shown


def test_runs_of_one_machine_and_commit_stand_together() -> None:
    old, new = {"commit": "a", "versions": {}, "hardware": {}}, {"commit": "b", "versions": {}, "hardware": {}}
    groups = machines([("first", old), ("second", new), ("first", {**old, "status": "failed"})])
    assert [group["runs"] for group in groups] == [["first", "first"], ["second"]]
    assert groups[1]["made_with"]["commit"] == "b"
