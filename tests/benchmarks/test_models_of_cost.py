"""The roofline and the cost model: arithmetic on what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import cost_model, roofline
from benchmarks.cost_model import Machine, Work, table
from prelar_ray.errors import UsageError

WORK = Work(flop=100.0, operators=10, gradient=40.0, updates=3600)


def test_a_split_batch_saves_arithmetic_and_pays_for_the_ring() -> None:
    one, two, four = table(Machine(gpus=4, rate=10.0, bus=20.0, launch=0.0), WORK, seeds=4)
    assert (one["update_s"], one["all_reduce_s"]) == (10.0, 0.0)
    assert (two["compute_s"], two["all_reduce_s"]) == (5.0, 2.0)  # 2 * 1/2 * 40 / 20
    assert (four["compute_s"], four["all_reduce_s"]) == (2.5, 3.0)
    assert [row["speedup"] for row in (one, two, four)] == [1.0, 10 / 7, 10 / 5.5]


def test_launches_do_not_get_fewer_with_more_gpus() -> None:
    rows = table(Machine(gpus=2, rate=10.0, bus=1e9, launch=0.8), WORK, seeds=1)
    assert [row["update_s"] for row in rows] == pytest.approx([10.0, 8.0])


def test_seeds_that_do_not_fit_side_by_side_take_another_round() -> None:
    one, two, four = table(Machine(gpus=4, rate=10.0, bus=1e9, launch=0.0), WORK, seeds=3)
    assert [row["runs_at_a_time"] for row in (one, two, four)] == [3, 2, 1]
    assert [row["hours_for_all_seeds"] for row in (one, two, four)] == pytest.approx([10.0, 10.0, 7.5])


def test_the_cost_model_prints_a_row_for_every_divisor(capsys: pytest.CaptureFixture[str]) -> None:
    assert cost_model.main(["--gpus", "6"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["1", "2", "3", "6"]


def _result(*names: str) -> dict[str, object]:
    rows = [{"name": name, "seconds": 2.0, "tflop": 4.0, "gigabytes": 100.0} for name in names]
    machine = {"device": "x", "float32_tflop_per_s": 5.0, "copy_gb_per_s": 50.0}
    return {"machine": machine, "rows": rows}


def test_parts_stand_at_their_intensity_and_rate() -> None:
    found = roofline.points(_result("paper pretrain float32", "  paper pretrain float32: scan"))
    assert found == {"paper pretrain float32": [("scan", 40.0, 2.0)]}


def test_a_roofline_is_drawn_from_a_result_with_parts_alone(tmp_path: Path) -> None:
    result, figure = tmp_path / "result.json", tmp_path / "figure.png"
    result.write_text(json.dumps(_result("a: encoder", "a: scan")))
    assert roofline.main([str(result), str(figure)]) == 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="--parts"):
        roofline.draw(_result("a"), figure)
