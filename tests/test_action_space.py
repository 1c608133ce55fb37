from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from prelar_ray.action_space import ActionSpace

TWO = ActionSpace.discrete(3, 2)


def test_choices_and_one_hot_vectors_are_each_other_s_inverse() -> None:
    choices = np.array([[0, 1], [2, 0], [1, 1]])
    action = TWO.one_hot(choices)
    assert action.dtype == np.float32
    assert action.tolist() == [[1, 0, 0, 0, 1], [0, 0, 1, 1, 0], [0, 1, 0, 0, 1]]
    np.testing.assert_array_equal(TWO.indices(action), choices)
    np.testing.assert_array_equal(TWO.indices(action[0]), choices[0])


def test_random_choices_are_uniform_for_every_factor_and_independent() -> None:
    draws = 6000
    actions = TWO.random(np.random.default_rng(0).random((draws, 5), dtype=np.float32))
    assert (actions.sum(axis=1) == 2).all()
    together = np.bincount(TWO.indices(actions) @ [2, 1], minlength=6) / draws
    np.testing.assert_allclose(together, 1 / 6, atol=4 * np.sqrt(1 / 6 / draws))


def test_random_numbers_fill_the_interval() -> None:
    uniform = np.array([0, 0.25, 0.75], np.float32)
    np.testing.assert_array_equal(ActionSpace.continuous(3).random(uniform), [-1, -0.5, 0.5])


def test_a_number_stands_for_as_many_continuous_actions() -> None:
    assert ActionSpace.of(4) == ActionSpace.continuous(4) != ActionSpace.discrete(4)
    assert ActionSpace.of(TWO) is TWO
    assert (TWO.size, TWO.is_discrete, ActionSpace.of(4).size, ActionSpace.of(4).is_discrete) == (5, True, 4, False)


@pytest.mark.parametrize(
    ("space", "text"),
    [
        (ActionSpace.continuous(4), "size 4"),
        (ActionSpace.discrete(3), "a choice of 3"),
        (TWO, "a choice of 3 and one of 2"),
    ],
)
def test_spaces_have_words_and_plain_values(space: ActionSpace, text: str) -> None:
    assert str(space) == text
    kind, sizes = json.loads(json.dumps(asdict(space))).values()
    assert ActionSpace(kind, tuple(sizes)) == space
