from __future__ import annotations

from typing import Any

import pytest
import torch

from prelar_ray.config import BonusConfig
from prelar_ray.learning.intrinsic_bonus import IntrinsicBonus, nearest_distances, windows_in_episodes

E = 6


def bonus(**changes: Any) -> IntrinsicBonus:
    settings: dict[str, Any] = {"window": 3, "projection": 4, "queue": 32, "neighbours": 3, "momentum": 1.0}
    return IntrinsicBonus(E, BonusConfig(**(settings | changes)))


def test_there_is_one_bonus_per_whole_window() -> None:
    normalised, raw = bonus()(torch.randn(2, 7, E))
    assert normalised.shape == raw.shape == (2, 5)


def test_bonus_is_the_mean_distance_of_a_window_to_its_nearest_neighbours() -> None:
    module = bonus()
    first, second = torch.randn(2, 7, E), torch.randn(2, 7, E)
    module(first)
    _, raw = module(second)

    def windows(embed: torch.Tensor) -> torch.Tensor:
        means = [embed[:, t : t + 3].mean(1) for t in range(5)]
        return (torch.stack(means, 1) @ module.projection).reshape(10, -1)

    rows = windows(second)
    every = torch.cat([rows, windows(first)])
    distances = (rows[:, None] - every[None]).norm(dim=-1).sort(dim=-1).values  # a window finds itself at zero
    torch.testing.assert_close(raw.flatten(), distances[:, :3].mean(-1))


def test_empty_places_of_the_queue_are_nobodys_neighbours() -> None:
    module = bonus(neighbours=20)
    embed = 100 + torch.randn(1, 5, E)  # far from the zeros that the queue starts with
    _, raw = module(embed)
    rows = torch.stack([embed[0, t : t + 3].mean(0) for t in range(3)]) @ module.projection
    expected = (rows[:, None] - rows[None]).norm(dim=-1).mean(-1)  # over the three that there are
    torch.testing.assert_close(raw[0], expected, rtol=1e-3, atol=1e-5)


def test_repeated_clips_earn_nothing_and_a_new_one_does() -> None:
    module, known = bonus(), torch.randn(1, 3, E)
    for _ in range(4):
        _, raw = module(known)
    assert raw.item() == 0
    _, raw = module(known + 1)
    assert raw.item() > 0.01


def test_queue_forgets_the_oldest_rows_first() -> None:
    module = bonus(queue=4, neighbours=2)
    clips = torch.randn(3, 2, 4, E)
    for clip in clips:
        module(clip)
    expected = [torch.stack([clip[:, t : t + 3].mean(1) for t in range(2)], 1).reshape(4, E) for clip in clips]
    torch.testing.assert_close(module.queue, expected[-1] @ module.projection)
    assert module.filled == 4
    module(clips[0][:1])
    torch.testing.assert_close(module.queue[2:], (expected[-1] @ module.projection)[:2])


def test_weight_scales_the_bonus_and_the_running_magnitude_divides_it() -> None:
    embed = torch.randn(2, 7, E)
    module = bonus(weight=2.0, momentum=0.9)
    normalised, raw = module(embed)
    magnitude = 0.9 + 0.1 * raw.mean().item()
    assert module.normaliser.magnitude.item() == pytest.approx(magnitude)
    torch.testing.assert_close(normalised, 2.0 * raw / magnitude)


def test_bonus_carries_no_gradient() -> None:
    normalised, _ = bonus()(torch.randn(2, 7, E, requires_grad=True))
    assert not normalised.requires_grad


def test_more_windows_than_the_queue_holds_give_finite_bonuses() -> None:
    normalised, _ = bonus(queue=3)(torch.randn(2, 9, E))
    assert normalised.shape == (2, 7)
    assert normalised.isfinite().all()


@pytest.mark.parametrize("spread", [1.0, 1e-3])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_nearest_distances_are_those_of_all_differences_also_among_crowded_rows(spread: float, offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = offset + spread * torch.randn(40, 16, generator=generator)
    far = torch.randn(200, 16, generator=generator)
    others = torch.cat([rows, rows + 0.1 * spread * torch.randn(40, 16, generator=generator), far])
    ignored = torch.arange(len(others)) >= 260
    every = torch.linalg.vector_norm(rows[:, None].double() - others[None, :260].double(), dim=-1)
    expected = every.sort(dim=-1).values[:, :8].float()
    found = nearest_distances(rows, others, ignored, 8)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    few = nearest_distances(rows, others[:10], torch.arange(10) >= 5, 8)
    assert few.isfinite().sum(-1).tolist() == [5] * 40


def test_windows_stand_still_at_the_last_step_of_their_episode() -> None:
    is_first = torch.tensor([[1.0, 0, 0, 1, 0, 0]])
    expected = [[0, 1, 2], [1, 2, 2], [2, 2, 2], [3, 4, 5], [4, 5, 5], [5, 5, 5]]
    assert windows_in_episodes(is_first, 3).tolist() == [expected]


def test_whole_windows_have_the_same_bonus_however_they_are_given() -> None:
    modules, embed = [bonus(), bonus()], torch.randn(2, 7, E)
    modules[1].load_state_dict(modules[0].state_dict())
    steps = windows_in_episodes(torch.eye(7)[:1].expand(2, 7), 3)
    torch.testing.assert_close(modules[0](embed)[1], modules[1](embed, steps[:, :5])[1])
