from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prelar_ray.errors import ConfigError
from prelar_ray.sources.selection import Selection

TIMES = st.lists(st.floats(0, 2, allow_subnormal=False), min_size=1, max_size=30).map(
    lambda gaps: [sum(gaps[:index]) for index in range(len(gaps))]
)
RATES = st.sampled_from([0.5, 1.0, 3.0, 10.0, 29.97])


@given(TIMES)
def test_all_pictures_are_kept_as_they_are_unless_asked(times: list[float]) -> None:
    selection = Selection()
    assert selection.keeps_all
    assert [*selection.select((time, index) for index, time in enumerate(times))] == [*range(len(times))]


@given(TIMES, RATES)
def test_every_moment_gets_the_nearest_picture(times: list[float], fps: float) -> None:
    kept = [*Selection(fps=fps).select((time, time) for time in times)]
    for moment, time in enumerate(kept):
        nearest = min(abs(other - moment / fps) for other in times)
        assert abs(time - moment / fps) == pytest.approx(nearest, abs=1e-9)
    assert kept == sorted(kept)
    assert len(kept) / fps == pytest.approx(times[-1], abs=1.51 / fps)  # no longer and no shorter than the episode


@given(st.integers(2, 60), st.sampled_from([5.0, 10.0, 25.0, 30.0]))
def test_the_rate_that_the_pictures_have_keeps_each_once(number: int, fps: float) -> None:
    assert [*Selection(fps=fps).select((index / fps, index) for index in range(number))] == [*range(number)]


@given(st.integers(1, 40), st.integers(1, 7))
def test_every_nth_picture_is_kept_from_the_first(number: int, every: int) -> None:
    selection = Selection(every=every)
    assert selection.keeps_all == (every == 1)
    assert [*selection.select((None, index) for index in range(number))] == [*range(0, number, every)]


def test_a_rate_needs_times() -> None:
    with pytest.raises(ConfigError, match="--every"):
        [*Selection(fps=5).select(iter([(None, 0), (None, 1)]))]


def test_pictures_are_asked_for_one_by_one() -> None:
    asked: list[int] = []

    def pictures() -> list[tuple[float, int]]:
        for index in range(100):
            asked.append(index)
            yield index / 10, index

    kept = Selection(fps=5).select(pictures())
    assert [next(kept), next(kept)] == [0, 2]
    assert len(asked) <= 5


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"fps": float("inf")}, {"every": 0}, {"min_frames": 0}])
def test_values_without_meaning_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Selection.model_validate(wrong)


def test_more_frames_at_least_than_at_most_are_refused() -> None:
    with pytest.raises(ValidationError, match="--min-frames 30: above --max-frames 20"):
        Selection(min_frames=30, max_frames=20)
