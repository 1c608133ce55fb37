from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from prelar_ray.models.noise import Deterministic, Noise


@settings(max_examples=100)
@given(st.integers(2, 60), st.integers(0, 2**63 - 1))
def test_derangement_is_a_permutation_without_a_fixed_point(n: int, seed: int) -> None:
    permutation = Noise(seed).derangement(n)
    assert sorted(permutation.tolist()) == list(range(n))
    assert (permutation != torch.arange(n)).all()


def test_each_row_is_exchanged_for_every_other_one_equally_often() -> None:
    noise = Noise(0)
    counts = np.zeros((4, 4))
    for _ in range(3000):
        counts[np.arange(4), noise.derangement(4)] += 1
    assert stats.chisquare(counts[~np.eye(4, dtype=bool)]).pvalue > 1e-3


def test_draws_follow_their_distributions() -> None:
    noise = Noise(0, dtype=torch.float64)
    for sample, name in (
        (noise.gumbel(5000), "gumbel_r"),
        (noise.normal(5000), "norm"),
        (noise.uniform(5000), "uniform"),
    ):
        assert sample is not None
        assert sample.dtype == torch.float64
        assert stats.kstest(sample, name).pvalue > 1e-3


def test_a_restored_generator_repeats_the_draws() -> None:
    noise = Noise(1)
    noise.normal(3)
    state = noise.state_dict()

    def draws(of: Noise) -> list[torch.Tensor]:
        values = [of.gumbel(2, 3), of.normal(4), of.uniform(5), of.derangement(6)]
        assert all(value is not None for value in values)
        return [value for value in values if value is not None]

    first = draws(noise)
    restored = Noise(2)
    assert not all(torch.equal(a, b) for a, b in zip(first, draws(restored), strict=True))
    restored.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(first, draws(restored), strict=True))


def test_draws_do_not_touch_the_global_generator() -> None:
    before = torch.get_rng_state()
    noise = Noise(0)
    noise.gumbel(3)
    noise.derangement(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_deterministic_noise_asks_for_modes_and_swaps_with_the_next_row() -> None:
    noise = Deterministic()
    assert noise.gumbel(2) is noise.normal(2) is noise.uniform(2) is None
    assert noise.derangement(3).tolist() == [1, 2, 0]
    assert Deterministic(torch.tensor([2, 0, 1])).derangement(3).tolist() == [2, 0, 1]
