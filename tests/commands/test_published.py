"""Published checkpoints by way of the commands: imported, evaluated, started from, exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from prelar_ray.checkpoint import store
from prelar_ray.checkpoint.store import load_checkpoint
from prelar_ray.commands import evaluate, export_checkpoint, finetune, import_checkpoint
from prelar_ray.storage import files
from prelar_ray.storage.run_folder import RunFolder
from tests.parity.folder import PUBLIC

Refused = Callable[..., str]

CLASSES = "world_model.rssm.classes=4"

pytestmark = pytest.mark.usefixtures("short_episodes")


@pytest.fixture(scope="module")
def point_reach(tmp_path_factory: pytest.TempPathFactory, finetuned: Path) -> Path:
    """A published fine-tuning in an environment that every test machine has."""
    out = tmp_path_factory.mktemp("published") / "exported"
    assert export_checkpoint.main([str(finetuned), str(out)]) == 0
    return out / "variables.pt"


def test_an_imported_policy_is_evaluated(
    point_reach: Path, finetuned: Path, settings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "imported"
    arguments = [str(point_reach), str(out), "--config", settings, "--task", "prelar/point-reach"]
    assert import_checkpoint.main(arguments) == 0
    said = capsys.readouterr().out
    assert "0 unused, 0 missing" in said
    assert f"next: prelar-ray evaluate {out}" in said
    assert RunFolder.open(out).info["phase"] == "import"
    scores = [tmp_path / "imported.json", tmp_path / "own.json"]
    for run, path in zip((out, finetuned), scores, strict=True):
        assert evaluate.main([str(run), "--episodes", "3", "--json", str(path)]) == 0
    one, two = (json.loads(path.read_text())["returns"] for path in scores)
    assert one == two


def test_fine_tuning_starts_from_an_imported_pretraining(
    pretrained: Path, settings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export_checkpoint.main([str(pretrained), str(tmp_path / "exported")]) == 0
    out = tmp_path / "imported"
    assert import_checkpoint.main([str(tmp_path / "exported"), str(out), "--config", settings]) == 0
    assert f"next: prelar-ray finetune --init {out} --config {out}/config.yaml" in capsys.readouterr().out
    arguments = ["--init", str(out), "--config", str(out / "config.yaml"), "--out", str(tmp_path / "tuned")]
    assert finetune.main(arguments) == 0
    assert load_checkpoint(tmp_path / "tuned").phase == "finetune"
    assert load_checkpoint(out).counters["shards"] == {}, "it is not known to have seen any videos"


@pytest.mark.render
def test_a_task_that_does_not_exist_or_takes_other_actions_is_refused(tmp_path: Path, refused: Refused) -> None:
    published, out = PUBLIC / "finetuned", tmp_path / "run"
    for task, reason in {
        "prelar/point-reach": "env.task=prelar/point-reach takes actions of size 2, the checkpoint has 4; name the",
        "metaworld/foo": "env.task=metaworld/foo: no such task",
    }.items():
        error = refused(import_checkpoint.main, published, out, CLASSES, "--task", task, code=2)
        assert reason in error.splitlines()[-1]
    error = refused(import_checkpoint.main, PUBLIC / "pretrained", out, CLASSES, "--task", "prelar/foo", code=2)
    assert "env.task=prelar/foo: no such task" in error
    assert not out.exists()


def test_no_evaluation_that_would_fail_is_suggested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published, out, preset = PUBLIC / "finetuned", tmp_path / "my run", tmp_path / "preset.yaml"
    preset.write_text("preset: tiny\n")
    assert import_checkpoint.main([str(published), str(out), CLASSES, "--config", str(preset)]) == 0
    said = capsys.readouterr().out
    assert f"next: prelar-ray evaluate '{out}' --film film.mp4 env.task=TASK, with the task it was tuned in" in said
    assert "env.task=prelar/point-reach takes actions of size 2, the checkpoint has 4" in said


@pytest.mark.parametrize("phase", ["pretrained", "finetuned"])
def test_import_and_export_give_back_the_same_files(tmp_path: Path, phase: str) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    assert import_checkpoint.main([str(PUBLIC / phase), str(run), CLASSES]) == 0
    assert export_checkpoint.main([str(run), str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {path.name for path in (PUBLIC / phase).iterdir()}
    for path in out.iterdir():
        one, two = (torch.load(folder / path.name, weights_only=True) for folder in (PUBLIC / phase, out))
        assert one.keys() == two.keys()
        assert all(torch.equal(value, two[key]) and value.dtype == two[key].dtype for key, value in one.items())


def test_a_dry_run_tells_the_widths_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert import_checkpoint.main([str(PUBLIC / "finetuned"), str(tmp_path / "run"), CLASSES, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "action size" in said
    assert "names of the same tensors once more: 33 under _expl_behavior." in said
    assert "not published, set to zero: bonus.filled" in said
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").touch()
    error = refused(import_checkpoint.main, PUBLIC / "pretrained", tmp_path / "run", CLASSES, code=2)
    assert "exists already; choose a new folder" in error
    error = refused(export_checkpoint.main, PUBLIC / "pretrained", tmp_path / "run", code=2)
    assert "exists already; choose a new folder" in error
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["precious"]


def test_what_is_refused_leaves_no_folder(tmp_path: Path, refused: Refused) -> None:
    torch.save({"wm.rssm.unheard_of": torch.zeros(2)}, tmp_path / "variables.pt")
    error = refused(import_checkpoint.main, tmp_path / "variables.pt", tmp_path / "run", code=2)
    assert "wm.rssm.unheard_of of shape (2,)" in error
    assert not (tmp_path / "run").exists()


def test_an_import_cannot_be_resumed(tmp_path: Path, refused: Refused) -> None:
    assert import_checkpoint.main([str(PUBLIC / "finetuned"), str(tmp_path / "run"), CLASSES]) == 0
    error = refused(finetune.main, "--resume", "--out", tmp_path / "run", code=2)
    assert "without the optimiser state that --resume needs" in error


def test_an_import_that_was_killed_while_saving_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, arguments = tmp_path / "run", [str(PUBLIC / "pretrained"), str(tmp_path / "run"), CLASSES]
    with monkeypatch.context() as patch:
        # A kill leaves what lies there: the folder is not removed.
        patch.setattr(store, "write_state", interrupted)
        patch.setattr(files.shutil, "rmtree", lambda *args, **kwargs: None)
        with pytest.raises(KeyboardInterrupt):
            import_checkpoint.main(arguments)
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".part"
    assert import_checkpoint.main(arguments) == 0
    assert list(tmp_path.iterdir()) == [run]
    assert load_checkpoint(run).phase == "pretrain"


def interrupted(path: Path, state: object) -> None:
    path.write_bytes(b"half")
    raise KeyboardInterrupt
