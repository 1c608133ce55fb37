from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelar_ray.sources.clock import Clock

TICK = Fraction(1, 100)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=20), st.integers(0, 500))
def test_packets_with_times_of_decoding_give_frames_the_sorted_times(runs: list[int], start: int) -> None:
    """Groups of a later frame followed by those shown before it, as codecs with B-frames send them."""
    clock, times, sent = Clock(25.0), [], start
    for run in runs:
        group = range(sent, sent + run + 1)
        for ticks in group:
            clock.give(None if ticks % 2 else ticks, ticks, TICK)
        shown = [*group[1:], group[0]]  # the frame of the first packet is shown last
        times += [clock.take(ticks / 100, reordered=True) for ticks in shown]
        sent += run + 1
    assert times == pytest.approx([index / 100 for index in range(len(times))])


@given(st.lists(st.integers(0, 90), min_size=2, max_size=40))
def test_times_never_fall(ticks: list[int]) -> None:
    clock = Clock(25.0)
    times = []
    for value in ticks:
        clock.give(value, value, TICK)
        times.append(clock.take(value / 100, reordered=False))
    assert times == sorted(times)
    assert times[0] == 0


def test_a_packet_without_a_frame_delays_no_other() -> None:
    clock = Clock(25.0)
    for ticks in range(10):
        clock.give(ticks, ticks, TICK)
    taken = [clock.take(ticks / 100, reordered=False) for ticks in range(10) if ticks != 4]
    assert taken == pytest.approx([0, 0.01, 0.02, 0.03, 0.05, 0.06, 0.07, 0.08, 0.09])


def test_frames_without_times_follow_each_other_at_the_rate() -> None:
    clock = Clock(50.0)
    for _ in range(3):
        clock.give(None, None, TICK)
    assert [clock.take(None, reordered=True) for _ in range(3)] == pytest.approx([0, 0.02, 0.04])


def test_times_that_start_again_continue_and_are_counted() -> None:
    clock, times = Clock(10.0), []
    for ticks in (500, 510, 520, 0, 10, 20):
        clock.give(ticks, ticks, TICK)
        times.append(clock.take(ticks / 100, reordered=False))
    assert times == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert clock.restarts == 1
