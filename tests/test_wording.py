from __future__ import annotations

import pytest

from prelar_ray.wording import counted


@pytest.mark.parametrize(("number", "words"), [(0, "0 episodes"), (1, "1 episode"), (2, "2 episodes")])
def test_one_is_singular(number: int, words: str) -> None:
    assert counted(number, "episode") == words
