"""Checkpoints of an algorithm: whole or not at all, and read only where they fit; RLlib is not needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from prelar_ray.baselines.checkpoints import Counters, is_whole, load, resumable, save
from prelar_ray.checkpoint.compatibility import check_not_shorter
from prelar_ray.checkpoint.store import CheckpointFolders, load_checkpoint
from prelar_ray.config import RunConfig, load_config
from prelar_ray.errors import CheckpointError, DataError, UsageError
from prelar_ray.storage.files import write_json
from prelar_ray.storage.records import RLLIB_META
from prelar_ray.storage.run_folder import RunFolder

COUNTERS = Counters(update=4, agent_steps=40, episodes=3, evaluations=2, evaluated_at=40)


def write_algorithm(path: str) -> None:
    (Path(path) / "learner").mkdir(parents=True)
    (Path(path) / "learner" / "state.pkl").write_bytes(b"weights")


@pytest.fixture
def folders(tmp_path: Path) -> CheckpointFolders:
    return CheckpointFolders(tmp_path / "checkpoints", keep_last=3)


Write = Callable[..., Path]


@pytest.fixture
def write(folders: CheckpointFolders, ppo: RunConfig) -> Write:
    def write(update: int = 4, config: RunConfig = ppo) -> Path:
        return save(folders, config, Counters(update, *list(vars(COUNTERS).values())[1:]), write_algorithm)

    return write


def changed(config: RunConfig, *overrides: str) -> RunConfig:
    return load_config(None, None, overrides, base=config)


def test_what_was_saved_is_found_again(folders: CheckpointFolders, write: Write, ppo: RunConfig) -> None:
    path = write()
    checkpoint = resumable(folders, ppo)
    assert (checkpoint.path, checkpoint.config, checkpoint.counters) == (path, ppo, COUNTERS)
    assert (path / "algorithm" / "learner" / "state.pkl").read_bytes() == b"weights"


def test_the_last_three_are_kept_and_the_best_beside_them(folders: CheckpointFolders, write: Write) -> None:
    for update in range(6):
        write(update)
        folders.set_score(update, 10.0 - update)
    assert [int(path.name) for path in folders.paths()] == [0, 3, 4, 5]


def test_a_write_that_fails_leaves_what_was_there(folders: CheckpointFolders, write: Write, ppo: RunConfig) -> None:
    write()

    def full(path: str) -> None:
        write_algorithm(path)
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match=r"No space left .* earlier checkpoints are intact"):
        save(folders, ppo, Counters(update=5), full)
    assert [path.name for path in folders.folder.iterdir()] == ["000000004"]


@pytest.mark.parametrize("damage", ["state", "missing", "meta"])
def test_a_damaged_one_is_named_and_passed_over(
    folders: CheckpointFolders, write: Write, ppo: RunConfig, damage: str
) -> None:
    earlier, newest = write(1), write(2)
    state, meta = newest / "algorithm" / "learner" / "state.pkl", newest / "rllib.json"
    if damage == "missing":
        state.unlink()
    elif damage == "state":
        state.write_bytes(b"weight")
    else:
        meta.write_bytes(meta.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=re_of(meta if damage == "meta" else state)):
        load(newest)
    assert (is_whole(earlier), is_whole(newest)) == (True, False)
    assert resumable(folders, ppo).path == earlier


def re_of(path: Path) -> str:
    return f"^{path}: "


def test_settings_that_do_not_fit_are_refused(folders: CheckpointFolders, write: Write, ppo: RunConfig) -> None:
    write()
    with pytest.raises(CheckpointError, match=r"made with rllib.model=.* leave it out"):
        resumable(folders, changed(ppo, "rllib.model.fcnet_hiddens=[9]"))
    with pytest.raises(UsageError, match=r"^finetune.env_steps=20: .* has done 40 already"):
        check_not_shorter("finetune", resumable(folders, ppo), changed(ppo, "finetune.env_steps=20"))
    assert resumable(folders, changed(ppo, "rllib.training.lr=1e-5", "finetune.env_steps=500")).counters == COUNTERS


def test_another_algorithm_or_size_and_an_empty_folder_are_refused(
    folders: CheckpointFolders, write: Write, ppo: RunConfig, dreamer: RunConfig
) -> None:
    with pytest.raises(CheckpointError, match="ended before its first"):
        resumable(folders, ppo)
    write()
    with pytest.raises(CheckpointError, match="of method rllib/PPO, which cannot be resumed as rllib/DreamerV3"):
        resumable(folders, dreamer)
    with pytest.raises(CheckpointError, match=r"made with env\.image_size=64 .here 128."):
        resumable(folders, changed(ppo, "env.image_size=128"))
    write(5, dreamer)
    with pytest.raises(CheckpointError, match="made with rllib.training.model_size=nano .here XS."):
        resumable(folders, changed(dreamer, "rllib.training.model_size=XS"))


@pytest.mark.parametrize("of_the_run", [True, False])
def test_what_reads_the_package_s_own_checkpoints_says_that_it_is_none(
    tmp_path: Path, write: Write, of_the_run: bool
) -> None:
    path = write()
    with pytest.raises(
        CheckpointError, match=f"^{path}: of an RLlib algorithm, which only `prelar-ray finetune --resume`"
    ):
        load_checkpoint(tmp_path if of_the_run else path)


def fetched(folder: Path) -> RunFolder:
    record = {"address": "s3://b/run", "time": "2025-01-01T00:00:00+00:00", "files": 3, "bytes": 100}
    write_json(folder / "fetched.json", record)
    return RunFolder(folder, {})


def test_a_fetched_run_is_resumed_only_once_its_pickles_are_trusted(
    folders: CheckpointFolders, write: Write, ppo: RunConfig, tmp_path: Path
) -> None:
    write()
    run = fetched(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"fetched from s3://b/run, .* executes .* add --trust-pickles if you trust"
    ):
        resumable(folders, ppo)
    run.trust()
    assert resumable(folders, ppo).counters == COUNTERS


@pytest.mark.parametrize("content", [b"", b"{}", b"\0", b'{"trusted": true}'])
def test_a_damaged_note_of_where_a_run_is_from_is_no_trust(
    folders: CheckpointFolders, write: Write, ppo: RunConfig, tmp_path: Path, content: bytes
) -> None:
    write()
    (tmp_path / "fetched.json").write_bytes(content)
    with pytest.raises(DataError, match="fetched.json: "):
        resumable(folders, ppo)


def test_files_that_the_record_does_not_name_or_that_lie_elsewhere_are_refused(write: Write, tmp_path: Path) -> None:
    path = write()
    (path / "algorithm" / "more.pkl").write_bytes(b"code")
    assert not is_whole(path)
    (path / "algorithm" / "more.pkl").unlink()
    assert is_whole(path)
    state = path / "algorithm" / "learner" / "state.pkl"
    state.rename(tmp_path / "elsewhere.pkl")
    state.symlink_to(tmp_path / "elsewhere.pkl")
    assert not is_whole(path)
    meta = json.loads((path / RLLIB_META).read_text())
    (path / RLLIB_META).write_text(json.dumps({**meta, "files": {"../../elsewhere.pkl": "0"}}))
    with pytest.raises(CheckpointError, match=r"files.*which leads elsewhere"):
        load(path)
