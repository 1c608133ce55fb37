"""Running means of metrics and the running magnitude."""

from __future__ import annotations

import pytest
import torch

from prelar_ray.errors import NonFiniteError
from prelar_ray.learning.running_magnitude import RunningMagnitude
from prelar_ray.learning.running_mean import RunningMean

NAN, INF = float("nan"), float("inf")


def added(*updates: tuple[float, float]) -> RunningMean:
    mean = RunningMean()
    for number, (first, second) in enumerate(updates, 1):
        mean.add(number, {"loss/image": torch.tensor(first), "loss/total": torch.tensor(second, dtype=torch.float64)})
    return mean


def test_read_returns_means_and_starts_again() -> None:
    mean = added((1.0, 10.0), (2.0, 30.0))
    assert mean.read() == {"loss/image": 1.5, "loss/total": 20.0}
    assert mean.read() == {}
    mean.add(3, {"loss/other": torch.tensor(7.0)})
    assert mean.read() == {"loss/other": 7.0}


def test_means_carry_no_gradient_history() -> None:
    mean = RunningMean()
    mean.add(1, {"loss/image": torch.tensor(1.0, requires_grad=True) * 2})
    assert mean.read() == {"loss/image": 2.0}


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_the_earliest_non_finite_metric_is_named_with_its_update(bad: float) -> None:
    mean = added((1.0, 1.0), (1.0, bad), (bad, bad))
    for ask in (mean.check, mean.read):
        with pytest.raises(NonFiniteError, match="update 2: loss/total is not finite"):
            ask()


def test_of_one_update_the_metric_computed_first_is_named() -> None:
    with pytest.raises(NonFiniteError, match="update 1: loss/image "):
        added((NAN, NAN)).check()


def test_finite_metrics_and_no_metrics_pass_the_check() -> None:
    added((1.0, 1.0)).check()
    RunningMean().check()


def test_magnitude_follows_the_mean_of_absolute_values() -> None:
    normaliser = RunningMagnitude(0.75)
    out = normaliser(torch.tensor([-3.0, 5.0]))
    assert normaliser.magnitude.item() == pytest.approx(0.75 * 1 + 0.25 * 4)
    torch.testing.assert_close(out, torch.tensor([-3.0, 5.0]) / 1.75)


def test_with_momentum_one_values_stay_as_they_are() -> None:
    normaliser = RunningMagnitude(1.0)
    x = torch.tensor([100.0, -2.0])
    for _ in range(3):
        torch.testing.assert_close(normaliser(x), x)


def test_gradient_passes_through_the_division_but_not_through_the_magnitude() -> None:
    normaliser = RunningMagnitude(0.5)
    x = torch.tensor([3.0], requires_grad=True)
    normaliser(x).backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor([1 / 2.0]))
