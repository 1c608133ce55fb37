from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import latent_sweep
from benchmarks.latent_sweep import Row, Sweep, chosen


def result(beta_a: float, ratio: float | None, seed: int = 0) -> dict[str, Any]:
    return {"beta_a": beta_a, "seed": seed, "group": "g", "values": {"open_loop/shuffled_over_own": ratio}}


def test_the_rule_takes_the_largest_weight_at_which_the_latent_action_is_used_on_average() -> None:
    rows = [result(1, 1.0), result(0.3, 1.45), result(0.3, 1.65, 1), result(0.1, 2.0), result(0.03, 1.2)]
    assert chosen(rows) == 0.3
    assert chosen(rows[:2]) is None


def test_rows_are_kept_shown_and_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[tuple[float, int, tuple[str, ...]]] = []
    ratios = {1.0: 1.1, 0.1: 1.9}

    def pretrain(self: Sweep, row: Row) -> None:
        ran.append((row.beta_a, row.seed, row.overrides))
        if row.beta_a == 0.01:
            raise RuntimeError("pretrain ended with 1; see pretrain.log")

    def diagnose(self: Sweep, row: Row) -> dict[str, Any]:
        return result(row.beta_a, ratios[row.beta_a], row.seed) | {"group": row.group}

    monkeypatch.setattr(Sweep, "pretrain", pretrain)
    monkeypatch.setattr(Sweep, "diagnose", diagnose)
    file = tmp_path / "sweep.json"
    common = ["--videos", "v", "--out", str(tmp_path / "runs"), "--json", str(file), "--updates", "7"]
    assert latent_sweep.main([*common, "--beta-a", "1", "0.1"]) == 0
    more = ["pretrain.stride=2", *common, "--beta-a", "1", "0.1", "0.01", "--seeds", "0", "1"]
    assert latent_sweep.main(more) == 1
    assert latent_sweep.main([*common, "--beta-a", "1", "0.1"]) == 0
    far = ("pretrain.stride=2",)
    wanted = [(beta, seed, far) for seed in (0, 1) for beta in (1.0, 0.1, 0.01)]
    assert ran == [(1.0, 0, ()), (0.1, 0, ()), *wanted]
    assert len(json.loads(file.read_bytes())["rows"]) == 6
    out = capsys.readouterr().out
    assert "beta_a=0.01 seed=1: pretrain ended with 1" in out
    assert out.count("0.1 <- rule") == out.count("<- rule") == 1 + 2 + 2  # in a table for each pace


def test_runs_differ_in_their_folder_where_their_settings_do(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, ("v",), ("--preset", "tiny"), {})
    rows = [Row(0.1, 0, 7, ()), Row(0.1, 0, 8, ()), Row(0.1, 0, 7, ("pretrain.stride=2",)), Row(0.1, 1, 7, ())]
    assert len({sweep.folder(row) for row in rows}) == 4
    assert Sweep(tmp_path, ("w",), (), {}).folder(rows[0]) != sweep.folder(rows[0])
