"""Half-width formats train as float32 does, within stated bands, and keep what is delicate in float32."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from prelar_ray.errors import NonFiniteError
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.learning.precision import Precision, has_bfloat16
from tests.tiny import ACTION, tiny_batch, tiny_clips, tiny_config

CPU = torch.device("cpu")
WIDER = (
    *(f"world_model.{part}.depth=8" for part in ("encoder", "decoder", "inverse_dynamics")),
    *("world_model.rssm.deter=32", "world_model.rssm.hidden=32", "world_model.rssm.stoch=4"),
)


@cache
def losses(precision: str, phase: str, updates: int) -> list[dict[str, float]]:
    """Metrics of every update, all formats seeing the same batches."""
    config = tiny_config(*WIDER, f"precision={precision}")
    result = []
    learner = PretrainLearner(config) if phase == "pretrain" else FinetuneLearner(config, ACTION)
    if precision == "float16":  # as large as fits from the first update on, so that none is skipped
        learner.precision.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for i in range(updates):
        if isinstance(learner, PretrainLearner):
            learner.update(tiny_clips(i % 3))
        else:
            learner.update(tiny_batch(i % 3))
        result.append(learner.metrics())
    return result


@pytest.mark.parametrize("updates", [4, pytest.param(20, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_updates_stay_within_eight_percent_of_float32(phase: str, precision: str, updates: int):
    # The formats also sample other latent states once two classes are nearly tied, hence not closer.
    reference, half = losses("float32", phase, updates), losses(precision, phase, updates)
    for name in ("loss/total", "loss/image"):
        for expected, found in zip(reference, half, strict=True):
            assert found[name] == pytest.approx(expected[name], rel=0.08), name
    assert half[-1]["loss/image"] < half[0]["loss/image"]
    assert half[0]["loss/image"] != reference[0]["loss/image"], "autocast was on"


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_states_losses_and_parameters_are_float32_under_autocast(precision: str):
    learner = FinetuneLearner(tiny_config(f"precision={precision}"), ACTION)
    with learner.precision.autocast():
        image = torch.rand(2, 3, 3, 64, 64) - 0.5
        embed = learner.model.encoder(image)
        state, prior = learner.model.rssm.observe(embed, torch.zeros(2, 3, 3), torch.zeros(2, 3))
        outputs = [*state[:3], prior, learner.model.reward(state.feature), *learner.actor_critic.actor(state.feature)]
    assert embed.dtype == learner.precision.dtype
    assert {x.dtype for x in outputs} == {torch.float32}
    learner.update(tiny_batch(0))
    assert {p.dtype for p in learner.model.parameters()} == {torch.float32}


def test_float64_parameters_are_never_rounded_by_autocast():
    for name in ("auto", "bfloat16", "float16"):
        assert Precision(name, CPU, torch.float64).dtype == torch.float64


def test_auto_is_bfloat16_exactly_where_the_hardware_has_it():
    expected = torch.bfloat16 if has_bfloat16(CPU) else torch.float32
    assert Precision("auto", CPU, torch.float32).dtype == expected


def test_an_overflowing_loss_scale_skips_the_step_and_shrinks():
    learner = PretrainLearner(tiny_config("precision=float16"))
    learner.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    before = [p.detach().clone() for p in learner.model.parameters()]
    learner.update(tiny_clips(0))
    assert all(torch.equal(a, b) for a, b in zip(before, learner.model.parameters(), strict=True))
    assert learner.metrics()["precision/loss_scale"] == 2.0**125


def test_a_loss_that_is_nan_still_stops_a_float16_run():
    learner = FinetuneLearner(tiny_config("precision=float16"), ACTION)
    batch = tiny_batch(0)
    batch.reward[0, 0] = float("nan")
    learner.update(batch)
    with pytest.raises(NonFiniteError, match="loss/"):
        learner.metrics()


def test_the_loss_scale_survives_a_resume():
    config = tiny_config("precision=float16")
    learner = PretrainLearner(config)
    learner.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    learner.update(tiny_clips(0))
    restored = PretrainLearner(config)
    restored.load_state_dict(learner.state_dict())
    assert restored.precision.scaler.get_scale() == 2.0**125
