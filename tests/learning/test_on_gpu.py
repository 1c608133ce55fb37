"""Learners on a GPU: captured and eager updates, what a resume brings back, batches and times."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from prelar_ray.config import native_methods
from prelar_ray.learning.captured import EAGER_FIRST, CapturedUpdate
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.learning.transfer import Transfer
from tests.learning.test_captured import assert_equal_states, update
from tests.parity.check import main as check_parity
from tests.tiny import ACTION, ROBUST, tiny_batch, tiny_config, tiny_method

pytestmark = pytest.mark.gpu

Learner = PretrainLearner | FinetuneLearner
GPU = torch.device("cuda")


def learner(phase: str, *overrides: str, method: str = "prelar") -> Learner:
    config = tiny_method(method, *overrides, "device=cuda")
    return PretrainLearner(config) if phase == "pretrain" else FinetuneLearner(config, ACTION)


@pytest.fixture(autouse=True)
def _deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
@pytest.mark.parametrize("method", native_methods())
def test_captured_updates_equal_eager_ones_across_frozen_start_slow_critic_and_resume(method: str, phase: str) -> None:
    settings = (
        *("compile=false", "world_model.context.dropout=0"),  # which draws from one generator
        *("finetune.initial_updates=8", "behaviour.slow_critic_every=5"),
    )
    if phase == "pretrain" and tiny_method(method, *settings).world_model.latent_action_source == "none":
        pytest.skip("learns from scratch")
    eager, captured = (
        learner(phase, *settings, f"learner.graph={graph}", method=method) for graph in ("never", "always")
    )
    for seed in range(20):
        if seed == 12:
            captured.load_state_dict(deepcopy(captured.state_dict()))
        assert update(captured, seed) == pytest.approx(update(eager, seed), rel=1e-5)
    assert isinstance(captured._run, CapturedUpdate)
    assert captured._run._replay is not None
    assert_equal_states(captured, eager)


@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
def test_captured_updates_of_robust_parts_equal_eager_ones(phase: str) -> None:
    settings = (*ROBUST, "behaviour.return_momentum=0.5", "compile=false")
    eager, captured = (learner(phase, *settings, f"learner.graph={graph}") for graph in ("never", "always"))
    for seed in range(EAGER_FIRST + 8):
        assert update(captured, seed) == pytest.approx(update(eager, seed), rel=1e-5)
    assert_equal_states(captured, eager)


@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
@pytest.mark.parametrize("settings", [(), ROBUST], ids=["published", "robust"])
def test_compiled_captured_updates_stay_near_eager_ones(settings: tuple[str, ...], phase: str) -> None:
    eager = learner(phase, *settings, "compile=false", "learner.graph=never")
    fused = learner(phase, *settings, "compile=true", "learner.graph=always")
    for seed in range(EAGER_FIRST + 5):
        assert update(fused, seed) == pytest.approx(update(eager, seed), rel=2e-2, abs=1e-3)


def test_a_run_on_a_gpu_captures_by_default_and_float16_stays_eager() -> None:
    assert isinstance(learner("finetune")._run, CapturedUpdate)
    assert not isinstance(learner("finetune", "precision=float16")._run, CapturedUpdate)


def test_a_checkpoint_of_a_gpu_continues_on_a_cpu_and_back() -> None:
    on_gpu = learner("finetune", "compile=false")
    for seed in range(EAGER_FIRST + 2):
        update(on_gpu, seed)
    on_cpu = FinetuneLearner(tiny_config("device=cpu"), ACTION)
    on_cpu.load_state_dict(deepcopy(on_gpu.state_dict()))
    update(on_cpu, 9)
    on_gpu.load_state_dict(deepcopy(on_cpu.state_dict()))
    for seed in range(EAGER_FIRST + 2):
        update(on_gpu, seed)
    assert on_gpu.updates == 2 * (EAGER_FIRST + 2) + 1


def test_read_only_arrays_arrive_whole_while_earlier_ones_are_in_use() -> None:
    transfer = Transfer(GPU)
    sums = []
    for number in range(8):
        array = np.full((4, 5, 64, 64, 3), number, np.uint8)
        array.flags.writeable = False
        (placed,) = transfer([array])
        torch.cuda._sleep(20_000_000)  # the device lags behind
        sums.append(placed.sum())
        transfer.release()
    assert [int(x) for x in sums] == [number * array.size for number in range(8)]


def test_times_are_those_of_the_device() -> None:
    subject = learner("finetune", "compile=false")
    for seed in range(EAGER_FIRST + 3):
        subject.update(tiny_batch(seed))
    values = subject.clock.read()
    assert values["time/update"] > 0
    assert 0 <= values["gpu/replayed"] <= 1
    assert 0 < values["gpu/busy"] <= 1
    assert values["gpu/memory"] > 0
    assert subject.clock.read() == {}


def test_parity_holds_on_the_device() -> None:
    assert check_parity([str(Path(__file__).parents[1] / "data" / "parity"), "--device", "cuda"]) == 0
