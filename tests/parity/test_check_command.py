"""The command ``python tests/parity/check.py``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.parity.cases import FILES
from tests.parity.check import main
from tests.parity.folder import ARRAY_FILES, PUBLIC, TENSOR_FILES, ParityFolder

SCRIPT = Path(__file__).with_name("check.py")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the public folder, to be damaged."""
    return Path(shutil.copytree(PUBLIC, tmp_path / "set"))


def edit_arrays(folder: Path, file: str, edit: Callable[[dict[str, Any]], None]) -> None:
    with np.load(folder / file) as archive:
        arrays = {name: archive[name] for name in archive.files}
    edit(arrays)
    np.savez(folder / file, allow_pickle=False, **arrays)


def edit_json(folder: Path, file: str, edit: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((folder / file).read_bytes())
    edit(content)
    (folder / file).write_text(json.dumps(content))


def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The message with which the command refuses a folder."""
    assert main([str(folder)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    return captured.err


def test_public_folder_agrees_with_the_script_run_from_anywhere(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    command = [sys.executable, str(SCRIPT), str(PUBLIC), "--json", str(out)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(out.read_bytes())
    folder = ParityFolder.load(PUBLIC)
    arrays = sum(map(len, folder.arrays.values())) + sum(map(len, folder.tensors.values()))
    assert (result["passed"], result["compared"], result["skipped"], result["failed"]) == (True, arrays, {}, 0)
    assert result["torch"] == torch.__version__
    assert {case["file"] for case in result["cases"]} == set(FILES)
    assert sum(len(case["results"]) for case in result["cases"]) == arrays
    assert f"{arrays} arrays compared, 0 skipped, 0 differ" in done.stdout


@pytest.mark.nightly
def test_one_changed_and_one_unknown_array_are_named(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def edit(arrays: dict[str, Any]) -> None:
        arrays["trajectory/wm/intr_mag"] = arrays["trajectory/wm/intr_mag"] * 1.01
        arrays["trajectory/wm/secret"] = np.ones(2)

    edit_arrays(copy, "e2e_finetune_f64.npz", edit)
    assert main([str(copy), "--json", str(copy / "out.json")]) == 1
    printed = capsys.readouterr().out
    assert "e2e_finetune_f64: trajectory/wm/intr_mag: 9.9" in printed
    assert "skipped e2e_finetune_f64: trajectory/wm/secret: this project computes no such array" in printed
    result = json.loads((copy / "out.json").read_bytes())
    assert (result["passed"], result["failed"]) == (False, 1)
    assert [case["worst_array"] for case in result["cases"] if not case["passed"]] == ["trajectory/wm/intr_mag"]


FILE_NAMES = [
    *(f"{name}.npz" for name in ARRAY_FILES),
    *TENSOR_FILES,
    *("config.json", "noise.json", "param_order.json", "state_dict_keys.json"),
]


@pytest.mark.parametrize("name", FILE_NAMES)
def test_missing_or_damaged_file_is_named(copy: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    content = (copy / name).read_bytes()
    (copy / name).unlink()
    assert f"{name}: cannot read: No such file" in refused(copy, capsys)
    for damaged in (b"", content[: len(content) // 2]):
        (copy / name).write_bytes(damaged)
        assert f"{name}: damaged: " in refused(copy, capsys)


def test_missing_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "absent: no such folder" in refused(tmp_path / "absent", capsys)


ARRAYS = [
    ("inputs.npz", "inputs/action", (3, 8, 4)),  # computed from
    ("modules.npz", "rssm/observe/post_deter", (3, 8, 32)),  # both
    ("modules.npz", "heads/actor/mean", (7, 4)),  # compared with
]


@pytest.mark.parametrize(("file", "name", "shape"), ARRAYS)
def test_missing_array_is_named_with_its_shape(
    copy: Path, capsys: pytest.CaptureFixture[str], file: str, name: str, shape: tuple[int, ...]
) -> None:
    edit_arrays(copy, file, lambda arrays: arrays.pop(name))
    message = refused(copy, capsys)
    assert f"{file}: {name} is missing, expected shape " in message
    assert str(shape) in message


@pytest.mark.parametrize(("file", "name", "shape"), ARRAYS)
def test_array_of_another_shape_is_named_with_both_shapes(
    copy: Path, capsys: pytest.CaptureFixture[str], file: str, name: str, shape: tuple[int, ...]
) -> None:
    edit_arrays(copy, file, lambda arrays: arrays.update({name: arrays[name][..., :-1]}))
    message = refused(copy, capsys)
    assert f"{file}: {name} has shape {(*shape[:-1], shape[-1] - 1)}, expected " in message
    assert str(shape) in message


def test_array_of_objects_is_not_loaded(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(copy / "misc.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    np.savez(copy / "misc.npz", allow_pickle=True, **(arrays | {"x": np.array([{}], dtype=object)}))
    assert "misc.npz: damaged: Object arrays cannot be loaded" in refused(copy, capsys)


def test_tensor_that_is_missing_or_of_another_shape_is_named(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, key = copy / "finetuned" / "variables.pt", "wm.rssm._cell._norm.bias"
    state = torch.load(path, weights_only=True)
    torch.save({name: value for name, value in state.items() if name != key}, path)
    assert f"finetuned/variables.pt: {key} is missing" in refused(copy, capsys)
    torch.save(state | {key: state[key][1:]}, path)
    assert f"finetuned/variables.pt: {key} is float32 ({len(state[key]) - 1},)" in refused(copy, capsys)
    torch.save(state | {key: state[key].double()}, path)
    assert f"finetuned/variables.pt: {key} is float64" in refused(copy, capsys)


@pytest.mark.parametrize(
    ("phase", "option", "value"),
    [
        ("pretrain", "rssm.act", "relu"),
        ("pretrain", "encoder.res_norm", "layer"),
        ("pretrain", "rssm.deter", 33),  # not what the checkpoint holds
        ("pretrain", "kl.balance", 1.5),
        ("finetune", "beta_type", "rel"),
        ("finetune", "finetune_rssm", True),
        ("finetune", "intr_seq_length", 9),  # longer than the segment
        ("finetune", "actor.input_dim", 47),  # not what follows from the state's sizes
    ],
)
def test_unsupported_or_contradicting_option_is_refused(
    copy: Path, capsys: pytest.CaptureFixture[str], phase: str, option: str, value: object
) -> None:
    edit_json(copy, "config.json", lambda content: content[phase].update({option: value}))
    refused(copy, capsys)


def test_missing_option_and_impossible_permutation_are_named(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_json(copy, "config.json", lambda content: content.update({"fixed_batch_permutation": [0, 0, 1]}))
    assert "fixed_batch_permutation=[0, 0, 1] is no permutation of 3 rows" in refused(copy, capsys)
    edit_json(copy, "config.json", lambda content: content.update({"fixed_batch_permutation": [1, 2, 0]}))
    edit_json(copy, "config.json", lambda content: content["finetune"].pop("imag_horizon"))
    assert "config.json: finetune: imag_horizon is missing" in refused(copy, capsys)


def test_parameter_that_no_optimiser_lists_is_named(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_json(copy, "param_order.json", lambda content: content["pretrain/model"].remove("wm.rssm._cell._norm.bias"))
    assert "param_order.json: wm.rssm._cell._norm.bias is optimised here" in refused(copy, capsys)
