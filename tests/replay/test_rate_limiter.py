from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelar_ray.replay.rate_limiter import RateLimiter


def paid(env_steps: int, random_steps: int, per_update: int, initial: int) -> int:
    """Updates that so many environment steps pay for."""
    return initial + (env_steps - random_steps) // per_update if env_steps >= random_steps else 0


@pytest.mark.parametrize(
    ("env_steps", "due"), [(0, 0), (19, 0), (20, 3), (24, 3), (25, 4), (29, 4), (30, 5), (1020, 203)]
)
def test_initial_updates_come_with_the_last_random_step_and_one_more_every_few_steps(env_steps: int, due: int) -> None:
    limiter = RateLimiter(random_steps=20, env_steps_per_update=5, initial_updates=3)
    limiter.insert(env_steps)
    assert limiter.updates_due == due


def test_an_update_that_nothing_paid_for_is_refused() -> None:
    limiter = RateLimiter(random_steps=4, env_steps_per_update=2, initial_updates=1)
    with pytest.raises(RuntimeError, match="no update is due after 0 environment steps and 0 updates"):
        limiter.take()
    limiter.insert(5)
    limiter.take()
    with pytest.raises(RuntimeError, match="no update is due after 5 environment steps and 1 updates"):
        limiter.take()
    assert limiter.updates == 1


@settings(max_examples=150)
@given(
    random_steps=st.integers(0, 30),
    per_update=st.integers(1, 7),
    initial=st.integers(0, 4),
    # a number is environment steps that arrive, None an attempt at an update
    events=st.lists(st.one_of(st.none(), st.integers(0, 12)), max_size=60),
)
def test_updates_never_run_ahead_and_catch_up_exactly(
    random_steps: int, per_update: int, initial: int, events: list[int | None]
) -> None:
    limiter = RateLimiter(random_steps, per_update, initial)
    env_steps = updates = 0
    for event in events:
        if event is not None:
            limiter.insert(event)
            env_steps += event
        elif updates < paid(env_steps, random_steps, per_update, initial):
            limiter.take()
            updates += 1
        else:
            with pytest.raises(RuntimeError):
                limiter.take()
        assert (limiter.env_steps, limiter.updates) == (env_steps, updates)
        assert limiter.updates_due == paid(env_steps, random_steps, per_update, initial) - updates
    while limiter.updates_due:
        limiter.take()
    assert limiter.updates == paid(env_steps, random_steps, per_update, initial)


def test_after_a_restore_what_was_sampled_but_not_learnt_is_due_again() -> None:
    limiter = RateLimiter(random_steps=10, env_steps_per_update=5, initial_updates=2)
    limiter.insert(30)
    for _ in range(5):
        limiter.take()
    resumed = RateLimiter(random_steps=10, env_steps_per_update=5, initial_updates=2)
    resumed.restore(limiter.env_steps, updates=3)
    assert resumed.updates_due == limiter.updates_due + 2 == 3
