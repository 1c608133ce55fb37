"""Compiled and eager learners do the same."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from prelar_ray.errors import ResourceError
from prelar_ray.learning.compilation import compiles, or_eagerly
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from tests.tiny import ACTION, tiny_batch, tiny_clips, tiny_config

Learners = tuple[PretrainLearner, FinetuneLearner]


def learners(*overrides: str) -> Learners:
    """Both phases, after three updates."""
    config = tiny_config(*overrides)
    pretrain, finetune = PretrainLearner(config), FinetuneLearner(config, ACTION)
    for seed in range(3):
        pretrain.update(tiny_clips(seed))
        finetune.update(tiny_batch(seed))
    return pretrain, finetune


def assert_same(compiled: Learners, eager: Learners, **tolerance: float) -> None:
    for one, other in zip(compiled, eager, strict=True):
        reference = other.metrics()
        assert one.metrics() == pytest.approx(reference, rel=tolerance.get("rtol", 0) or 1e-12)
        for key, value in other.model.state_dict().items():
            torch.testing.assert_close(one.model.state_dict()[key], value, **tolerance)


def test_traced_learners_equal_eager_ones_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    eager = learners()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    traced = learners("compile=true")
    assert_same(traced, eager, rtol=0, atol=0)
    clips = tiny_clips(9)
    assert traced[0].validate(clips) == eager[0].validate(clips)
    assert (traced[0].predict(clips[0], 2)[1] == eager[0].predict(clips[0], 2)[1]).all()


def test_a_missing_compiler_is_named_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.raises(ResourceError, match="compile=true: CXX=/nowhere/g.. is not there; install one"):
        PretrainLearner(tiny_config("compile=true"))
    PretrainLearner(tiny_config())


@pytest.mark.parametrize(
    ("wanted", "on_cpu", "on_gpu"), [("auto", False, True), (True, True, True), (False, False, False)]
)
def test_networks_are_compiled_on_a_gpu_unless_asked_otherwise(wanted: Any, on_cpu: bool, on_gpu: bool) -> None:
    assert compiles(wanted, torch.device("cpu")) == on_cpu
    assert compiles(wanted, torch.device("cuda")) == on_gpu


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["apv", "contextwm"])
def test_other_methods_are_traced_too(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    eager, traced = (learners(f"method={name}", f"compile={x}") for x in ("false", "true"))
    assert_same(traced, eager, rtol=0, atol=0)


@pytest.mark.nightly
def test_learners_compiled_to_machine_code_agree_with_eager_ones() -> None:
    assert_same(learners("compile=true"), learners(), rtol=1e-3, atol=1e-4)


def test_where_compiling_fails_updates_continue_without_and_say_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(module: object, inputs: object) -> None:
        raise RuntimeError("no compiler here")

    eager, _ = learners()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    learner = PretrainLearner(tiny_config("compile=true"))
    learner._run = or_eagerly(learner._compute, learner._forget_gradients)  # as compile=auto does on a GPU
    try:
        for seed in range(3):
            learner.update(tiny_clips(seed))
    finally:
        torch.compiler.set_stance("default")
    (said,) = [record.message for record in caplog.records if record.name.startswith("prelar_ray")]
    assert said.startswith("updates run uncompiled: torch.compile failed (backend='broken' raised")
    assert "no compiler here" in said
    assert learner.metrics() == pytest.approx(eager.metrics(), rel=1e-3)
