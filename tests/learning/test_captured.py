"""What a captured update must not change; a stand-in for CUDA graphs replays by calling again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from prelar_ray.errors import ResourceError
from prelar_ray.learning.captured import EAGER_FIRST, CapturedUpdate
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from tests.tiny import ACTION, tiny_batch, tiny_clips, tiny_config

Learner = PretrainLearner | FinetuneLearner


class Again:
    """Captures nothing, and replays by computing; results go where the first ones were, as a graph's do."""

    def __init__(self) -> None:
        self.captured: list[list[torch.Size]] = []
        self.replays = 0

    @contextmanager
    def stream(self) -> Iterator[None]:
        yield

    def capture(
        self, compute: Callable[..., dict[str, Tensor]], inputs: Sequence[Tensor]
    ) -> Callable[..., dict[str, Tensor]]:
        self.captured.append([x.shape for x in inputs])
        fixed: dict[str, Tensor] = {}

        def replay() -> dict[str, Tensor]:
            self.replays += 1
            for name, value in compute(*inputs).items():
                fixed.setdefault(name, torch.empty_like(value)).copy_(value)
            return fixed

        return replay


class Fails(Again):
    def capture(
        self, compute: Callable[..., dict[str, Tensor]], inputs: Sequence[Tensor]
    ) -> Callable[..., dict[str, Tensor]]:
        raise RuntimeError("operation not permitted when stream is capturing\nlong trace")


def captured(learner: Learner, graphs: Again, must: bool = False) -> Learner:
    learner._run = CapturedUpdate(learner._compute, graphs, learner._forget_gradients, must=must)
    return learner


def pairs(phase: str, *overrides: str) -> tuple[Learner, Learner]:
    """Two learners that are the same."""
    config = tiny_config(*overrides)
    one, other = (PretrainLearner(config) if phase == "pretrain" else FinetuneLearner(config, ACTION) for _ in range(2))
    return one, other


def update(learner: Learner, seed: int, rows: int = 3) -> dict[str, float]:
    if isinstance(learner, PretrainLearner):
        learner.update(tiny_clips(seed, rows))
    else:
        clips = learner.config.finetune.clip_rows
        learner.update(tiny_batch(seed, rows), *((tiny_clips(seed, clips),) if clips else ()))
    return learner.metrics()


def assert_equal_states(one: Learner, other: Learner) -> None:
    leaves = [torch.utils._pytree.tree_leaves(learner.state_dict()) for learner in (one, other)]
    for left, right in zip(*leaves, strict=True):
        assert torch.equal(left, right) if isinstance(left, Tensor) else left == right


@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
def test_twenty_captured_updates_give_the_bits_of_eager_ones(phase: str) -> None:
    # The frozen start ends, and the slow critic is copied, in the middle.
    eager, other = pairs(phase, "finetune.initial_updates=8", "behaviour.slow_critic_every=5")
    graphs = Again()
    replayed = captured(other, graphs)
    for seed in range(20):
        assert update(replayed, seed) == update(eager, seed)
    assert_equal_states(replayed, eager)
    assert graphs.replays == 20 - EAGER_FIRST
    assert replayed._run.replayed == graphs.replays
    assert len(graphs.captured) == 1


def test_a_batch_of_another_size_is_learnt_from_eagerly_and_the_graph_stays() -> None:
    eager, other = pairs("finetune")
    graphs = Again()
    replayed = captured(other, graphs)
    for seed, rows in enumerate([3, 3, 3, 3, 2, 3]):
        assert update(replayed, seed, rows) == update(eager, seed, rows)
    assert_equal_states(replayed, eager)
    assert (len(graphs.captured), graphs.replays) == (1, 2)


def test_a_resumed_learner_captures_again_and_gives_the_same_bits() -> None:
    eager, other = pairs("finetune", "finetune.initial_updates=8")
    graphs = Again()
    replayed = captured(other, graphs)
    for seed in range(6):
        update(eager, seed)
        update(replayed, seed + 50)  # elsewhere, until it resumes
    replayed.load_state_dict(deepcopy(eager.state_dict()))
    for seed in range(6, 12):
        assert update(replayed, seed) == update(eager, seed)
    assert_equal_states(replayed, eager)
    assert len(graphs.captured) == 2


def test_a_capture_that_fails_leaves_eager_updates_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    eager, other = pairs("pretrain")
    learner = captured(other, Fails())
    for seed in range(EAGER_FIRST + 2):
        assert update(learner, seed) == update(eager, seed)
    (record,) = caplog.records
    assert record.message == (
        "updates stay eager: capturing one as a CUDA graph failed (operation not permitted when stream is capturing)"
    )


def test_a_capture_that_must_succeed_ends_the_run_where_it_fails() -> None:
    learner = captured(pairs("pretrain")[0], Fails(), must=True)
    for seed in range(EAGER_FIRST):
        update(learner, seed)
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        update(learner, EAGER_FIRST)


def test_a_failed_capture_after_which_nothing_works_ends_the_run_with_the_remedy() -> None:
    tried: list[int] = []

    def compute(*inputs: Tensor) -> dict[str, Tensor]:
        tried.append(len(tried))
        if len(tried) > EAGER_FIRST:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        return {}

    update_ = CapturedUpdate(compute, Fails(), undo=lambda: None)
    for _ in range(EAGER_FIRST):
        update_(torch.zeros(1))
    with pytest.raises(ResourceError, match=r"Offset increment .*; use --resume with learner\.graph=never"):
        update_(torch.zeros(1))
