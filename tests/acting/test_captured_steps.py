"""Captured steps against eager ones: with a stand-in for the graph on the CPU, with CUDA graphs on a GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from prelar_ray.acting import captured_steps
from prelar_ray.acting.captured_steps import CapturedSteps
from prelar_ray.acting.policy import ActingNoise, Policy, PolicyState
from prelar_ray.config import RunConfig
from prelar_ray.learning.learner import FinetuneLearner
from tests.tiny import tiny_config

Weights = dict[str, npt.NDArray[Any]]
Function = Callable[[], None]
T = 8
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
METHODS = ["prelar", "apv"]
"""With one RSSM, and with two, whose state holds another."""


class StandIn:
    """Takes the place of a graph's capture: keeps the functions, and replays by calling them."""

    def __init__(self) -> None:
        self.captured = 0

    def __call__(self, function: Function, device: torch.device) -> Function:
        self.captured += 1
        function()  # a warm-up: leaves junk in the buffers
        return function


class Inputs:
    """What ``n`` environments show and draw at each of ``T`` steps; some begin an episode in between."""

    def __init__(self, policy: Policy, n: int, seed: int = 0, sample: bool = True) -> None:
        rng = np.random.default_rng(seed)
        self.image = rng.integers(0, 256, (T, n, 64, 64, 3), dtype=np.uint8)
        self.is_first = rng.random((T, n)) < 0.3
        self.is_first[0] = True
        self.gumbel = rng.gumbel(size=(T, n, *policy.noise_shape)).astype(np.float32)
        self.uniform = rng.random((T, n, policy.actions.size), dtype=np.float32)
        self.sample = sample

    def at(self, t: int) -> tuple[Any, Any, ActingNoise]:
        noise = ActingNoise(self.gumbel[t], self.uniform[t] if self.sample else None)
        return self.image[t], self.is_first[t], noise


@pytest.fixture(params=METHODS)
def config(request: pytest.FixtureRequest) -> RunConfig:
    return tiny_config(f"method={request.param}")


def weights_of(config: RunConfig, seed: int) -> Weights:
    torch.manual_seed(seed)
    learner = FinetuneLearner(config, 2)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in (*learner.model.state_dict().values(), *learner.actor_critic.state_dict().values()):
            if value.is_floating_point():
                value += 0.3 * torch.randn(value.shape, generator=generator)
    return learner.policy_weights()


def pair(config: RunConfig, device: str) -> tuple[Policy, Policy, CapturedSteps, StandIn | None]:
    """Two policies of the same weights, and the steps of the second, captured."""
    weights = weights_of(config, 1)
    eager, other = Policy(config, 2).to(device), Policy(config, 2).to(device)
    for policy in (eager, other):
        policy.load_weights(weights, 1)
    stand_in = StandIn() if device == "cpu" else None
    return eager, other, CapturedSteps(other.step, stand_in), stand_in


def step_both(
    eager: Policy, captured: CapturedSteps, inputs: Inputs, t: int, states: tuple[PolicyState, PolicyState]
) -> tuple[PolicyState, PolicyState]:
    """A step of each, equal; on a GPU within rounding, where libraries may choose other kernels."""
    image, is_first, noise = inputs.at(t)
    expected, one = eager.act_eagerly(image, is_first, states[0], noise)
    found = captured(image, is_first, states[1], noise)
    assert found is not None
    actions, two = found
    tolerance = 0.0 if one.action.device.type == "cpu" else 1e-5
    assert actions.dtype == np.float32
    np.testing.assert_allclose(actions, expected, rtol=0, atol=tolerance)
    for left, right in zip(one.tensors, two.tensors, strict=True):
        torch.testing.assert_close(right, left, rtol=0, atol=tolerance)
    return one, two


@pytest.mark.parametrize("sample", [True, False])
@pytest.mark.parametrize("device", DEVICES)
@torch.inference_mode()
def test_captured_steps_are_the_eager_ones_over_resets_and_new_weights(
    config: RunConfig, device: str, sample: bool
) -> None:
    eager, other, captured, stand_in = pair(config, device)
    inputs = Inputs(eager, 3, sample=sample)
    states = eager.initial(3), other.initial(3)
    actions = []
    for t in range(T):
        if t == T // 2:
            for policy in (eager, other):
                policy.load_weights(weights_of(config, 2), 2)
        states = step_both(eager, captured, inputs, t, states)
        actions.append(states[0].action.cpu().numpy())
    assert np.abs(np.diff(actions, axis=0)).max() > 0.05  # they do differ
    assert stand_in is None or stand_in.captured == 1


@pytest.mark.parametrize("device", DEVICES)
@torch.inference_mode()
def test_states_go_from_one_number_of_environments_to_another(config: RunConfig, device: str) -> None:
    """Environments stop, as in an evaluation; another rollout steps as many again; an action is changed by noise."""
    eager, other, captured, stand_in = pair(config, device)
    inputs = {n: Inputs(eager, n, seed=n) for n in (1, 2, 3)}
    states = eager.initial(3), other.initial(3)
    for t, rows in enumerate(([0, 1, 2], [0, 1, 2], [0, 2], [0, 1], [1], [0])):
        if len(rows) < len(states[0].action):
            states = states[0].at(rows), states[1].at(rows)
        states = step_both(eager, captured, inputs[len(rows)], t, states)
        noisy = (states[0].action + 0.1).clamp(-1, 1)
        states = states[0]._replace(action=noisy), states[1]._replace(action=noisy.clone())
    again = eager.initial(3), other.initial(3)
    step_both(eager, captured, inputs[3], 0, again)
    assert stand_in is None or stand_in.captured == 3


@torch.inference_mode()
def test_few_recordings_are_kept_those_used_last(minute_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured_steps, "KEPT", 2)
    eager, other, captured, stand_in = pair(minute_config, "cpu")
    assert stand_in is not None
    made = []
    for n in (1, 2, 1, 3, 1, 2):
        step_both(eager, captured, Inputs(eager, n), 0, (eager.initial(n), other.initial(n)))
        made.append(stand_in.captured)
    assert made == [1, 2, 2, 3, 3, 4]


def test_where_capturing_fails_the_reason_is_logged_once_and_steps_are_eager(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []

    def fail(function: Function, device: torch.device) -> Function:
        tried.append(True)
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might be ...")

    captured = CapturedSteps(policy.step, fail)
    inputs = Inputs(policy, 2)
    with caplog.at_level(logging.WARNING):
        for t in range(3):
            image, is_first, noise = inputs.at(t)
            assert captured(image, is_first, policy.initial(2), noise) is None
    assert len(tried) == 1
    (record,) = caplog.records
    assert record.getMessage() == (
        "acting stays eager: capturing its step as a CUDA graph failed (operation not permitted when stream is "
        "capturing)"
    )


def test_a_policy_on_the_cpu_acts_eagerly(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(function: Function, device: torch.device) -> Function:
        raise AssertionError("captured")

    policy._captured = CapturedSteps(policy.step, fail)
    image, is_first, noise = Inputs(policy, 2).at(0)
    policy.act(image, is_first, policy.initial(2), noise)


@pytest.mark.gpu
@pytest.mark.parametrize("one_by_one", [True, False])
def test_a_policy_on_a_gpu_replays_its_steps_unless_it_acts_one_by_one(
    minute_config: RunConfig, weights: Weights, monkeypatch: pytest.MonkeyPatch, one_by_one: bool
) -> None:
    policy = Policy(minute_config, 2, one_by_one).to("cuda")
    policy.load_weights(weights, 1)
    inputs, state = Inputs(policy, 2), policy.initial(2)
    ran = []
    step = policy.encoder.forward
    monkeypatch.setattr(policy.encoder, "forward", lambda image: ran.append(len(image)) or step(image))
    for t in range(T):
        image, is_first, noise = inputs.at(t)
        _, state = policy.act(image, is_first, state, noise)
    assert len(ran) == (2 * T if one_by_one else captured_steps.WARM_UPS + 1)


@pytest.mark.gpu
@torch.inference_mode()
def test_a_capture_that_waits_for_the_gpu_fails_and_leaves_it_usable(
    minute_config: RunConfig, weights: Weights, caplog: pytest.LogCaptureFixture
) -> None:
    policy = Policy(minute_config, 2).to("cuda")
    policy.load_weights(weights, 1)
    stream = torch.cuda.current_stream()

    def waiting(*arguments: Any) -> PolicyState:
        found = policy.step(*arguments)
        found.action.sum().item()
        return found

    image, is_first, noise = Inputs(policy, 2).at(0)
    assert CapturedSteps(waiting)(image, is_first, policy.initial(2), noise) is None
    assert "acting stays eager: capturing its step as a CUDA graph failed" in caplog.text
    assert torch.cuda.current_stream() == stream
    policy.act(image, is_first, policy.initial(2), noise)
