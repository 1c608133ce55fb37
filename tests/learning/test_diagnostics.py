"""Is the latent action any good: known answers on a world model worked out by hand, and sound ones on real ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from prelar_ray.learning.diagnostics import Measurement, diagnostic_metrics, mean_kl, measure, rank_correlation
from prelar_ray.learning.learner import PretrainLearner
from prelar_ray.learning.prediction import roll_out
from prelar_ray.models.noise import Deterministic, Noise
from prelar_ray.telemetry.metrics import METRICS
from tests.learning.toy_world import toy_clips, toy_model
from tests.tiny import tiny_clips, tiny_config

PIXELS = 3 * 64 * 64


def diagnose(listens: bool = True, scale: float = 1.0) -> dict[str, float]:
    measured = measure(toy_model(listens), toy_clips(6, 12, scale), 2, Deterministic())
    assert measured is not None
    return diagnostic_metrics([measured])


def test_a_model_that_listens_predicts_by_its_own_latent_actions_only() -> None:
    found = diagnose()
    assert found["open_loop/own"] == pytest.approx(0, abs=1e-6)
    assert found["open_loop/shuffled"] > 0.3 * PIXELS
    assert found["open_loop/zero"] == pytest.approx(found["open_loop/repeated"])
    assert found["open_loop/repeated"] > 0.3 * PIXELS
    assert found["open_loop/shuffled_over_own"] > 1e3


def test_a_model_that_does_not_listen_predicts_the_same_whatever_it_is_given() -> None:
    found = diagnose(listens=False)
    assert found["open_loop/own"] == found["open_loop/shuffled"] == found["open_loop/zero"]
    assert found["open_loop/shuffled_over_own"] == 1


def test_the_error_is_half_the_squared_error_summed_over_pixels() -> None:
    level = torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, -1.0]])
    clips = level[..., None, None, None].expand(2, 3, 3, 64, 64)
    measured = measure(toy_model(), clips, 2, Deterministic())
    assert measured is not None
    np.testing.assert_allclose(measured.error["repeated"], [0.5 * 9 * PIXELS, 0.5 * 1 * PIXELS])
    np.testing.assert_allclose(measured.error["shuffled"], [0.5 * 16 * PIXELS] * 2)  # each gets the other's step


def test_distances_rank_alike_where_latent_actions_drive_states_and_not_where_they_do_not() -> None:
    assert diagnose()["latent/spearman"] > 0.99
    assert diagnose(listens=False)["latent/spearman"] == 0


def test_rank_correlation_knows_order_only() -> None:
    x = np.linspace(0, 1, 30)
    assert rank_correlation(x, np.exp(5 * x)) == pytest.approx(1)
    assert rank_correlation(x, -(x**3)) == pytest.approx(-1)
    assert abs(rank_correlation(x, np.random.default_rng(0).permutation(x))) < 0.4
    assert rank_correlation(x, np.zeros(30)) == 0  # no warning, no NaN


def measurement(point: np.ndarray, kl: np.ndarray | None = None) -> Measurement:
    distance = np.arange(len(point), dtype=np.float64)
    error = dict.fromkeys(("own", "shuffled", "zero", "repeated"), np.ones(3))
    return Measurement(distance, distance, point, kl, error)


def test_dimensions_that_carry_information_are_counted() -> None:
    rng = np.random.default_rng(0)
    point = rng.normal(size=(4000, 8)) * [1, 1, 1, 0.2, 0.05, 0.01, 0, 0]  # variances 1, 1, 1, 0.04, 0.0025, ...
    found = diagnostic_metrics([measurement(point)])
    assert found["latent/active_units"] == 4
    assert found["latent/participation_ratio"] == pytest.approx(3, abs=0.1)


def test_directions_are_counted_however_they_lie() -> None:
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.normal(size=(16, 16)))
    point = rng.normal(size=(4000, 2)) @ axes[:2]  # two directions, spread over sixteen dimensions
    found = diagnostic_metrics([measurement(point)])
    assert found["latent/active_units"] > 10
    assert found["latent/participation_ratio"] == pytest.approx(2, abs=0.05)


def test_a_collapsed_latent_action_shows_in_every_number() -> None:
    found = diagnose(scale=0.0)
    assert found["latent/active_units"] == found["latent/participation_ratio"] == found["latent/spearman"] == 0
    assert all(math.isfinite(value) for value in found.values())


def test_the_kl_of_each_dimension_is_that_to_the_prior() -> None:
    clips = toy_clips(4, 9)
    measured = measure(toy_model(), clips, 2, Deterministic())
    assert measured is not None
    kl = mean_kl([measured])
    assert kl is not None
    square = clips[:, :, 0, 0, 0].diff(dim=1).square().mean().item()
    np.testing.assert_allclose(kl, [0.5 * (0.25 + square - 1) - math.log(0.5), 0, 0], atol=1e-6)
    found = diagnostic_metrics([measured])
    assert found["latent/kl"] == pytest.approx(kl.sum())
    assert found["latent/kl_largest"] == pytest.approx(kl[0])


def test_batches_are_measured_together() -> None:
    rng = np.random.default_rng(0)
    point, kl = rng.normal(size=(60, 3)), rng.uniform(size=(60, 3))
    whole = diagnostic_metrics([measurement(point, kl)])
    parts = [measurement(part, one) for part, one in zip(np.split(point, 2), np.split(kl, 2), strict=True)]
    for name in ("latent/participation_ratio", "latent/kl", "latent/kl_largest", "open_loop/own"):
        assert diagnostic_metrics(parts)[name] == pytest.approx(whole[name])


def test_a_roll_out_starts_after_the_last_seen_frame_and_takes_each_action_in_turn() -> None:
    seen = toy_clips(2, 3)
    action = torch.tensor([9.0, 9, 9, 1, 10, 100]).reshape(1, 6, 1).expand(2, -1, 3)
    level = roll_out(toy_model(), seen, action)[:, :, 0, 0, 0] - seen[:, -1:, 0, 0, 0]
    torch.testing.assert_close(level, torch.tensor([[1.0, 11, 111]] * 2))


DISTRIBUTIONS = {
    "gaussian": (),
    "deterministic": ("loss.action_kl_weight=0",),
    "categorical": ("world_model.latent_action=4", "world_model.latent_action_classes=2"),
}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_every_latent_action_can_be_diagnosed_while_training_continues(distribution: str) -> None:
    overrides = f"world_model.latent_action_distribution={distribution}", *DISTRIBUTIONS[distribution]
    learner, undisturbed = PretrainLearner(tiny_config(*overrides)), PretrainLearner(tiny_config(*overrides))
    held_out = tiny_clips(9)
    for seed in range(2):
        undisturbed.update(tiny_clips(seed))
        learner.update(tiny_clips(seed))
        found = learner.validate(held_out)
    assert found == learner.validate(held_out)
    assert all(math.isfinite(value) for value in found.values())
    assert found.keys() <= METRICS.keys()
    assert ("latent/kl" in found) == (distribution != "deterministic")
    assert {"validation/image", "latent/spearman", "open_loop/own"} <= found.keys()
    for one, other in zip(learner.model.state_dict().values(), undisturbed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_an_action_free_model_has_losses_and_nothing_else_to_measure() -> None:
    learner = PretrainLearner(tiny_config("method=apv"))
    learner.update(tiny_clips(0))
    assert learner.validate(tiny_clips(1)).keys() == {f"validation/{x}" for x in ("total", "image", "dynamics_kl")}
    assert measure(learner.model, torch.zeros(2, 4, 3, 64, 64), 1, Noise(0)) is None


def test_a_context_branch_sees_one_frame_and_no_future() -> None:
    config = tiny_config(
        *("world_model.context.enabled=true", "world_model.context.heads=2"),
        *("world_model.rssm.stoch=8", "world_model.rssm.classes=8"),
    )
    model = PretrainLearner(config).model
    image = torch.rand(2, 6, 3, 64, 64) - 0.5
    action = torch.randn(2, 6, 3)
    assert roll_out(model, image[:, :2], action).shape == (2, 4, 3, 64, 64)
