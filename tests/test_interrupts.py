from __future__ import annotations

import signal
import threading

import pytest

from prelar_ray.interrupts import interrupts_deferred


def test_a_signal_within_the_block_takes_effect_after_it() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 what happens inside is the point
        with interrupts_deferred():
            signal.raise_signal(signal.SIGINT)
            done.append("the rest of the block")
        done.append("after the block")
    assert done == ["the rest of the block"]


def test_a_second_signal_interrupts_at_once() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts_deferred():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        done.append("first")
        signal.raise_signal(signal.SIGINT)
        done.append("second")
    assert done == ["first"]


def test_without_a_signal_nothing_happens_and_handlers_are_as_before() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with interrupts_deferred():
        pass
    with pytest.raises(ZeroDivisionError), interrupts_deferred():
        _ = 1 / 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_keeps_the_meaning_it_had() -> None:
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with interrupts_deferred():
            signal.raise_signal(signal.SIGTERM)
            assert seen == []
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_blocks_nest() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts_deferred():  # noqa: PT012
        with interrupts_deferred():
            signal.raise_signal(signal.SIGINT)
        done.append("the rest of the outer block")
    assert done == ["the rest of the outer block"]


def test_other_threads_may_use_it() -> None:
    done = []

    def work() -> None:
        with interrupts_deferred():
            done.append("work")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["work"]
