"""Learners that share updates: two processes on gloo beside one with the whole batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from prelar_ray.learning.ranks import ALONE
from tests.learning import rank_worker

CASES = [f"{phase}, {name}" for phase, name in rank_worker.CASES]


@pytest.fixture(scope="module", params=[3, pytest.param(10, marks=pytest.mark.nightly)], ids="{} updates".format)
def updates(request: pytest.FixtureRequest) -> int:
    """By the third, what an update leaves (moments, statistics, target) has come into the next."""
    return int(request.param)


@pytest.fixture(scope="module")
def two_ranks(updates: int, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both processes found."""
    out = tmp_path_factory.mktemp("ranks")
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    address = f"127.0.0.1:{store.port}"
    command = [sys.executable, "-m", "tests.learning.rank_worker", address]
    root = Path(__file__).parents[2]
    workers = [subprocess.Popen([*command, str(rank), "2", str(out), str(updates)], cwd=root) for rank in range(2)]
    try:
        assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _leaves(state: dict[str, Any]) -> list[Any]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(state) if leaf is not None]


@pytest.fixture(scope="module")
def one_rank(updates: int) -> dict[str, Any]:
    return rank_worker.comparisons(ALONE, updates)


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_with_half_the_rows_learn_what_one_learns_from_all(
    case: str, two_ranks: list[dict[str, Any]], one_rank: dict[str, Any]
) -> None:
    expected = one_rank[case]
    found = [rank["cases"][case] for rank in two_ranks]
    for theirs in found:
        for ours, whole in zip(theirs["gradients"], expected["gradients"], strict=True):
            torch.testing.assert_close(ours, whole, rtol=1e-6, atol=1e-6 * float(whole.abs().max()))
        for name, whole in expected["model"].items():
            gap = (
                (theirs["model"][name] - whole).abs().max()
                if whole.is_floating_point()
                else theirs["model"][name] - whole
            )
            assert gap <= 1e-6, name
    for name in ("loss/total", "loss/image"):
        mean = sum(theirs["metrics"][name] for theirs in found) / 2
        assert mean == pytest.approx(expected["metrics"][name], rel=1e-5)


@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
def test_ranks_draw_their_own_noise_and_stay_equal(phase: str, two_ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["noise"][phase] for rank in two_ranks)
    assert not torch.equal(first["drawn"], second["drawn"])
    for name, tensor in first["state"]["model"].items():
        assert torch.equal(tensor, second["state"]["model"][name]), name


@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
def test_ranks_resume_bit_for_bit_each_with_its_noise(phase: str, two_ranks: list[dict[str, Any]]) -> None:
    for rank in two_ranks:
        found = rank["noise"][phase]
        ours, whole = (_leaves(found[key]) for key in ("resumed", "state"))
        assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(ours, whole, strict=True))
    saved = [rank["noise"][phase]["saved"]["noise"]["generator"] for rank in two_ranks]
    assert torch.equal(*saved), "any rank's state holds the generators of all"
    assert not torch.equal(*saved[0])


@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
def test_ranks_that_differ_are_noticed_by_all(phase: str, two_ranks: list[dict[str, Any]]) -> None:
    errors = [rank["noise"][phase]["error"] for rank in two_ranks]
    assert errors[0] == errors[1]
    assert "different model.encoder.trunk.conv_in.weight" in errors[0]


def test_a_learner_alone_exchanges_nothing() -> None:
    x = torch.ones(2, requires_grad=True)
    assert ALONE.mean(x) is ALONE.gather(x) is ALONE.sum(x) is x
    ALONE.average_gradients([x])
    ALONE.check_equal({"x": x})
    ALONE.leave()
