"""Environments in worker processes: the same episodes, faults that stay with their environment, nothing left behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest

from prelar_ray.acting import environment_workers
from prelar_ray.acting.collector import Collector
from prelar_ray.acting.environment_workers import make_environments
from prelar_ray.acting.environments import MakeEnv, Step
from prelar_ray.acting.evaluator import Evaluator
from prelar_ray.acting.policy import Policy
from prelar_ray.acting.rollout import Rollout
from prelar_ray.config import EnvConfig, RunConfig, load_config
from prelar_ray.envs import make_env
from prelar_ray.errors import ConfigError, EnvironmentFailure
from prelar_ray.seeding import derive_seed, generator
from prelar_ray.types import Episode
from tests.acting.breaking import STEP, make_breaking, make_killing, make_none

Weights = dict[str, npt.NDArray[Any]]
Same = Callable[..., None]
POINT_REACH = EnvConfig(task="prelar/point-reach")
MINE = 3
"""Environments of a rollout here."""


def seeds(env_index: int, number: int) -> tuple[int, np.random.Generator]:
    return derive_seed(0, "env", env_index, number), generator(0, "acting", env_index, number)


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """No process, and no descriptor of a pipe or of memory."""
    processes, descriptors = children(), len(os.listdir("/proc/self/fd"))
    yield
    assert children() <= processes
    assert len(os.listdir("/proc/self/fd")) <= descriptors


@pytest.fixture
def opened() -> Iterator[Callable[..., Rollout]]:
    """Makes rollouts, and closes them after the test."""
    made: list[Rollout] = []

    def make(make_env: MakeEnv, workers: int, timeout: float = 60, failures_allowed: int = 3) -> Rollout:
        indices = list(range(MINE))
        made.append(
            Rollout(make_env, POINT_REACH, indices, [0] * MINE, seeds, failures_allowed, timeout, workers=workers)
        )
        return made[-1]

    yield make
    for rollout in made:
        rollout.close()


def collected(config: RunConfig, workers: int, steps: int, weights: Weights | None, envs: int = MINE) -> list[Episode]:
    overrides = [f"collect.envs_per_collector={envs}", f"collect.workers={workers}", "collect.synchronous=true"]
    collector = Collector(load_config(None, None, overrides, base=config), 0, [0] * envs)
    try:
        return collector.collect(steps, weights is None, 1, weights)[1]
    finally:
        collector.close()


@pytest.fixture(scope="module")
def in_this_process(minute_config: RunConfig, weights: Weights) -> list[Episode]:
    return collected(minute_config, 0, 110, weights)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_seed_gives_the_same_bits_whatever_the_number_of_workers(
    minute_config: RunConfig,
    weights: Weights,
    in_this_process: list[Episode],
    assert_same_episode: Same,
    workers: int,
) -> None:
    episodes = collected(minute_config, workers, 110, weights)
    assert len(episodes) == len(in_this_process) == MINE
    for one, two in zip(episodes, in_this_process, strict=True):
        assert len(one) == 101
        assert_same_episode(one, two)


def test_frames_of_128_come_back_from_a_worker() -> None:
    config = EnvConfig(task="prelar/point-reach", image_size=128)
    here, there = (make_environments(make_env, config, {0: 1}, workers, 60.0) for workers in (0, 1))
    try:
        steps = [environments.reset({0: 2})[0] for environments in (here, there)]
    finally:
        here.close()
        there.close()
    assert all(isinstance(step, Step) for step in steps)
    one, two = (step.image for step in steps if isinstance(step, Step))
    assert one.shape == two.shape == (128, 128, 3)
    assert np.array_equal(one, two)


@pytest.mark.nightly
@pytest.mark.render
def test_drawn_episodes_are_the_same_too(minute_config: RunConfig, assert_same_episode: Same) -> None:
    overrides = ["env.task=dmc/cartpole-balance", "env.action_repeat=100", "finetune.env_steps_per_update=100"]
    config = load_config(None, None, overrides, base=minute_config)
    here, there = (collected(config, workers, 10, None, envs=2) for workers in (0, 2))
    assert len(here) == len(there) == 2
    for one, two in zip(here, there, strict=True):
        assert_same_episode(one, two)


def test_an_evaluation_is_the_same_with_workers(minute_config: RunConfig) -> None:
    results = []
    for workers in (0, 2):
        overrides = ["evaluation.envs=2", f"evaluation.workers={workers}"]
        results.append(Evaluator(load_config(None, None, overrides, base=minute_config)).evaluate(None, 3))
    assert results[0] == results[1]


def test_workers_tell_what_environments_are_like(minute_config: RunConfig) -> None:
    collector = Collector(load_config(None, None, ["collect.workers=2"], base=minute_config), 0, [0, 0])
    assert (collector.actions().size, collector.episode_steps()) == (2, 100)
    collector.close()


def broken(fault: str) -> MakeEnv:
    """Breaks in the first episode of environment 1."""
    return partial(make_breaking, fault=fault, seed_at_fault=seeds(1, 0)[0])


def numbers(rollout: Rollout, policy: Policy, steps: int) -> set[tuple[int, int]]:
    """Environment and number of the episodes of so many steps."""
    found = [rollout.step(policy, True, sample=True) for _ in range(steps)]
    return {(episode.env_index, episode.number) for finished in found for _, episode in finished}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raises", "KeyError: 'gripper'"),
        ("answers NaN", "ValueError: the reward is nan"),
        ("answers a wrong shape", "DataError: image: frames have shape (1, 32, 64, 3), expected (T, 64, 64, 3); "),
        ("hangs", "TimeoutError: no answer for 0.5 s"),
    ],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_an_environment_that_fails_is_replaced_within_its_worker(
    opened: Callable[..., Rollout], policy: Policy, fault: str, reason: str, workers: int
) -> None:
    rollout = opened(broken(fault), workers, timeout=0.5)
    before = children()
    whole = numbers(rollout, policy, 110)
    (failure,) = rollout.failures
    assert failure.startswith(f"environment 1, episode 0, step {STEP}: {reason}")
    assert whole == {(0, 0), (1, 1), (2, 0)}
    assert children() == before


@pytest.mark.faults
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("is killed", "EnvironmentFailure: its worker process died: SIGKILL"),
        ("crashes", "EnvironmentFailure: its worker process died: SIGSEGV"),
        ("exits", "EnvironmentFailure: its worker process died: exit status 3"),
        ("hangs in native code", "EnvironmentFailure: no answer for 2 s, so its worker process was killed"),
    ],
)
def test_a_worker_that_dies_or_hangs_is_replaced_and_only_its_environment_at_fault_has_failed(
    opened: Callable[..., Rollout], policy: Policy, monkeypatch: pytest.MonkeyPatch, fault: str, reason: str
) -> None:
    """Environments 0 and 1 share a worker."""
    monkeypatch.setattr(environment_workers, "GRACE_SECONDS", 1)
    rollout = opened(broken(fault), workers=2, timeout=1, failures_allowed=1)
    before = children()
    whole = numbers(rollout, policy, 110)
    assert rollout.failures == [
        f"environment 1, episode 0, step {STEP}: {reason}",
        f"environment 0, episode 0, step {STEP}: EpisodeLost: another environment of its worker process failed "
        f"({reason.partition(': ')[2]})",
    ]
    assert whole == {(0, 1), (1, 1), (2, 0)}
    assert len(children() - before) == 1


@pytest.mark.faults
def test_a_worker_killed_from_outside_again_and_again_ends_the_run_by_name(
    opened: Callable[..., Rollout], policy: Policy
) -> None:
    rollout = opened(make_breaking, workers=1, failures_allowed=1)
    rollout.step(policy, True, sample=True)
    psutil.Process().children()[0].kill()
    rollout.step(policy, True, sample=True)
    told = [failure.partition(":")[0] for failure in rollout.failures]
    assert told == [f"environment {i}, episode 0, step 2" for i in range(MINE)]
    psutil.Process().children()[0].kill()
    with pytest.raises(EnvironmentFailure, match=r"^environment 0, episode 1, reset: .* its worker process died: SIGK"):
        rollout.step(policy, True, sample=True)


@pytest.mark.faults
def test_a_worker_that_dies_while_it_makes_an_environment_again_is_replaced(
    opened: Callable[..., Rollout], policy: Policy
) -> None:
    """One failure is allowed; environments that are lost twice, or fail once and are lost once, continue."""
    rollout = opened(partial(make_killing, seed_at_fault=seeds(1, 1)[0]), workers=1, failures_allowed=1)
    rollout.step(policy, True, sample=True)
    psutil.Process().children()[0].kill()
    assert numbers(rollout, policy, 110) == {(0, 2), (1, 2), (2, 2)}
    assert [failure for failure in rollout.failures if "EpisodeLost" not in failure] == [
        "environment 0, episode 0, step 2: EnvironmentFailure: its worker process died: SIGKILL",
        "environment 1, episode 1, making it: EnvironmentFailure: its worker process died: SIGKILL",
    ]
    assert len(rollout.failures) == 6


def test_what_cannot_be_made_is_refused_as_in_this_process(opened: Callable[..., Rollout]) -> None:
    for workers in (0, 2):
        with pytest.raises(ConfigError, match=r"^env\.camera=default: no such camera$"):
            opened(make_none, workers)


@pytest.mark.faults
def test_a_worker_that_cannot_be_started_again_at_once_is_tried_again(
    opened: Callable[..., Rollout],
    policy: Policy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rollout = opened(make_breaking, workers=1)
    start, refusals = subprocess.Popen, iter([True])

    def scarce(*args: Any, **kwargs: Any) -> Any:
        if next(refusals, False):
            raise OSError("Cannot allocate memory")
        return start(*args, **kwargs)

    monkeypatch.setattr(environment_workers.subprocess, "Popen", scarce)
    psutil.Process().children()[0].kill()
    assert numbers(rollout, policy, 110) == {(i, 2) for i in range(MINE)}
    assert "a worker process could not be started: Cannot allocate memory" in caplog.text


@pytest.mark.faults
def test_closing_does_not_wait_for_a_worker_that_hangs(
    opened: Callable[..., Rollout], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment_workers, "CLOSE_SECONDS", 0.5)
    before = children()
    rollout = opened(make_breaking, workers=2)
    psutil.Process().children()[-1].suspend()
    rollout.close()
    assert children() == before


def test_closing_closes_the_environments(opened: Callable[..., Rollout], tmp_path: Path) -> None:
    rollout = opened(partial(make_breaking, closed=tmp_path), workers=2)
    rollout.close()
    assert len(list(tmp_path.iterdir())) == MINE
