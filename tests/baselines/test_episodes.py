"""What an iteration says of the episodes that ended in it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from prelar_ray.baselines.episodes import FinishedEpisodes


def test_finished_episodes_are_read_in_order() -> None:
    noted = {"return": [1.5, 2.0], "success": [False, True], "steps": [3, 4]}
    assert FinishedEpisodes.of({"env_runners": {"finished": noted}}) == FinishedEpisodes(
        (1.5, 2.0), (False, True), (3, 4)
    )


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"env_runners": {}},
        {"env_runners": {"finished": {"return": math.nan, "success": math.nan, "steps": math.nan}}},
    ],
    ids=["no sample", "no episode yet", "no episode since"],
)
def test_an_iteration_in_which_no_episode_ended_says_so(result: dict[str, Any]) -> None:
    assert FinishedEpisodes.of(result) == FinishedEpisodes()
