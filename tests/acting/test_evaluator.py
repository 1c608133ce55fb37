from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from prelar_ray.acting.evaluator import EvaluationResult, Evaluator
from prelar_ray.config import RunConfig, load_config
from prelar_ray.errors import EnvironmentFailure

Weights = dict[str, npt.NDArray[Any]]


def evaluator(config: RunConfig, envs: int, *overrides: str) -> Evaluator:
    return Evaluator(load_config(None, None, [f"evaluation.envs={envs}", *overrides], base=config))


def assert_same(one: EvaluationResult, two: EvaluationResult, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(one.returns, two.returns, atol=tolerance)
    assert (one.successes, one.lengths) == (two.successes, two.lengths)
    for left, right in zip(one.frames, two.frames, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.usefixtures("envs")
@pytest.mark.parametrize("random", [True, False])
@pytest.mark.parametrize("envs_together", [2, 3, 7, 12])
def test_the_episodes_are_the_same_however_many_are_stepped_together(
    minute_config: RunConfig, weights: Weights, envs_together: int, random: bool
) -> None:
    chosen = None if random else weights
    one, other = (evaluator(minute_config, k).evaluate(chosen, 7, keep_frames=7) for k in (1, envs_together))
    assert len(set(one.lengths)) > 2
    assert_same(one, other)


@pytest.mark.usefixtures("short_episodes")
def test_the_same_holds_in_a_real_environment(minute_config: RunConfig, weights: Weights) -> None:
    one, other = (evaluator(minute_config, k).evaluate(weights, 3, keep_frames=1) for k in (1, 3))
    assert one.lengths == (20, 20, 20)
    assert [len(frames) for frames in one.frames] == [21]
    assert len(set(one.returns)) == 3
    assert_same(one, other)


@pytest.mark.usefixtures("envs")
def test_a_round_repeats_exactly_and_rounds_differ(minute_config: RunConfig, weights: Weights) -> None:
    role = evaluator(minute_config, 2)
    first = role.evaluate(weights, 4, round_=1, keep_frames=4)
    assert_same(first, role.evaluate(weights, 4, round_=1, keep_frames=4), tolerance=0)
    other = role.evaluate(weights, 4, round_=2, keep_frames=4)
    assert not {frames[0].tobytes() for frames in first.frames} & {frames[0].tobytes() for frames in other.frames}


@pytest.mark.usefixtures("envs")
def test_the_policy_acts_on_the_share_of_a_gpu_that_is_asked_for(
    minute_config: RunConfig, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def device(gpus: float) -> torch.device:
        asked.append(gpus)
        return torch.device("cpu")

    monkeypatch.setattr("prelar_ray.acting.evaluator.acting_device", device)
    evaluator(minute_config, 1, "evaluation.gpus=0.25").evaluate(weights, 1)
    assert asked == [0.25]


@pytest.mark.usefixtures("envs")
def test_exactly_as_many_episodes_as_asked_for_are_counted(minute_config: RunConfig) -> None:
    for episodes in (1, 2, 5):
        result = evaluator(minute_config, 3).evaluate(None, episodes, keep_frames=2)
        assert len(result.returns) == len(result.successes) == len(result.lengths) == episodes
        assert len(result.frames) == min(2, episodes)


@pytest.mark.usefixtures("envs")
def test_success_is_any_step_and_length_counts_agent_steps(minute_config: RunConfig) -> None:
    result = evaluator(minute_config, 2).evaluate(None, 4, keep_frames=4)
    assert result.successes == (True,) * 4  # RandomLength succeeds at its last step only
    assert result.lengths == tuple(len(frames) - 1 for frames in result.frames)


def test_environments_are_closed_afterwards_also_when_one_fails(
    minute_config: RunConfig, envs: list[Any], random_length: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = evaluator(minute_config, 2)
    role.evaluate(None, 3)
    assert len(envs) == 2

    def fail(self: Any, action: Any) -> Any:
        raise ValueError("unstable")

    monkeypatch.setattr(random_length, "step", fail)
    with pytest.raises(EnvironmentFailure, match="^environment 0, episode 3, step 1: ValueError: unstable; mend"):
        role.evaluate(None, 3)
    assert all(env.closed for env in envs)


def test_an_episode_that_fails_is_replaced_by_another_and_counted(
    minute_config: RunConfig, random_length: Any, envs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    reset = random_length.reset
    resets = itertools.count(1)

    def failing_once(self: Any, **options: Any) -> Any:
        if next(resets) == 3:
            raise ValueError("unstable")
        return reset(self, **options)

    monkeypatch.setattr(random_length, "reset", failing_once)
    result = evaluator(minute_config, 2).evaluate(None, 5)
    assert len(result.returns) == 5
    assert len(envs) == 3
    assert result.replaced == 1
