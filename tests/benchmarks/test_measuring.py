"""What benchmarks share, and that those of the learner need nothing but torch, numpy and pydantic."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import compare
from benchmarks.counting import OperatorCount, counted
from benchmarks.measuring import Timing, peak_memory, print_table, reset_peak_memory
from benchmarks.parts import make, parts, synthetic_batch
from tests.tiny import tiny_config

CPU = torch.device("cpu")

BARE = """
import sys

MISSING = "yaml scipy psutil rich ray gymnasium mujoco matplotlib pyarrow jinja2 av tensorboardX".split()

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in MISSING:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Nothing())
from benchmarks.__main__ import main
for name in sys.argv[1:]:
    sys.argv = ["benchmarks", name, "--help"]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, name
"""


def test_benchmarks_of_the_networks_need_only_torch_numpy_and_pydantic() -> None:
    names = ("learner", "acting", "compare", "cost_model", "scaling")
    done = subprocess.run([sys.executable, "-c", BARE, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in names:
        assert f"python -m benchmarks {name}" in done.stdout


def test_timings_are_given_as_median_and_spread() -> None:
    row = Timing([3.0, 1.0, 2.0]).as_row()
    assert row == {"seconds": 2.0, "seconds_min": 1.0, "seconds_max": 3.0, "repeats": 3}


def test_peak_memory_starts_again() -> None:
    block = torch.ones(64 * 2**20, dtype=torch.uint8)
    with_block = peak_memory(CPU)
    del block
    reset_peak_memory(CPU)
    assert peak_memory(CPU) < with_block - 0.05


def test_tables_align_and_leave_out_columns_without_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{"name": "a", "x": 1.0}, {"name": "long", "x": None}], {"x": ".2f", "y": "d"})
    assert capsys.readouterr().out.splitlines() == ["         x", "a     1.00", "long     -"]


def test_two_results_compare_by_the_names_of_their_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = {"date": "d", "commit": "c", "hardware": {"cpu": "x"}, "machine": {}}
    for name, rows in (("old", {"a": 4.0, "b": 1.0}), ("new", {"a": 2.0, "c": 1.0})):
        listed = [{"name": key, "seconds": seconds} for key, seconds in rows.items()]
        (tmp_path / name).write_text(json.dumps(stored | {"rows": listed}))
    assert compare.main([str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.split() == ["a", "4", "2", "2.00"]


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"rows": []}'])
def test_a_file_that_is_no_result_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        compare.main([str(path), str(path)])
    assert stopped.value.code == 2
    assert str(path) in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
def test_an_update_never_waits_for_the_device(phase: str) -> None:
    learner, update = make(tiny_config(), phase)
    update()
    with OperatorCount() as count:
        update()
    assert count.operators > 500
    assert count.host_syncs == 0
    with OperatorCount() as count:
        learner.metrics()
    assert count.host_syncs + count.operators > 0


def test_reading_a_number_is_counted_as_waiting() -> None:
    for wait in (lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: x.nonzero(), lambda x: bool(x.any())):
        with OperatorCount() as count:
            wait(torch.ones(2))
        assert count.host_syncs == 1


def test_operations_and_bytes_are_those_of_the_arithmetic() -> None:
    a, b = torch.ones(8, 16), torch.ones(16, 4)
    row = counted(lambda: (a @ b).t().add_(1))
    assert row["tflop"] == 2 * 8 * 16 * 4 / 1e12
    product = 4 * (8 * 16 + 16 * 4 + 8 * 4)  # two matrices read, one written
    assert row["gigabytes"] == (product + 2 * 4 * 8 * 4) / 1e9  # and that one read and written again; the view is free


@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
def test_every_part_of_an_update_can_be_timed_alone_and_leaves_no_gradient(phase: str) -> None:
    config = tiny_config()
    learner, _ = make(config, phase)
    before = {key: value.clone() for key, value in learner.model.rssm.state_dict().items()}
    for name, run in parts(learner, synthetic_batch(config, phase)).items():
        run()
        if name != "optimiser":
            assert all(p.grad is None or not p.grad.any() for p in learner.model.parameters()), name
            assert all(torch.equal(before[key], x) for key, x in learner.model.rssm.state_dict().items()), name
