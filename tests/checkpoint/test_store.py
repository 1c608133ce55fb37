from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prelar_ray.checkpoint.store import Checkpoint, CheckpointStore, is_whole, load_checkpoint
from prelar_ray.config import RunConfig
from prelar_ray.errors import CheckpointError
from prelar_ray.storage.arrow import checksum


def state(update: int = 0, size: int = 100) -> dict[str, Any]:
    return {
        "model": {
            "weight": torch.arange(size, dtype=torch.float32) + update,
            "view": torch.arange(12.0).reshape(3, 4).T,
            "half": torch.ones(3, dtype=torch.bfloat16),
        },
        "generator": torch.tensor([1, 255], dtype=torch.uint8),
        "adam": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
        "updates": update,
    }


def assert_same(one: Any, two: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key, value in one.items():
            assert_same(value, two[key])
    elif isinstance(one, list | tuple):
        assert type(one) is type(two)
        for left, right in zip(one, two, strict=True):
            assert_same(left, right)
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    else:
        assert one == two


Save = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep_last=3)


@pytest.fixture
def save(store: CheckpointStore, minute_config: RunConfig) -> Save:
    def save(update: int, size: int = 100) -> Path:
        return store.save("finetune", minute_config, update, state(update, size), {"numbers": {"0": update}})

    return save


def names(store: CheckpointStore) -> list[str]:
    """Everything in the folder, hidden or not."""
    return sorted(path.name for path in store.folder.iterdir())


def resign(path: Path) -> None:
    """Give a changed state its right checksum."""
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps(meta | {"sha256": checksum(path / "state.pt")}))


# What is saved is loaded


def test_everything_comes_back(store: CheckpointStore, save: Save, minute_config: RunConfig) -> None:
    path = save(7)
    assert path == store.folder / "000000007"
    assert sorted(file.name for file in path.iterdir()) == ["meta.json", "state.pt"]
    for loaded in (load_checkpoint(path), load_checkpoint(store.folder.parent), store.latest()):
        assert isinstance(loaded, Checkpoint)
        assert (loaded.path, loaded.phase, loaded.update) == (path, "finetune", 7)
        assert loaded.config == minute_config
        assert loaded.counters == {"numbers": {"0": 7}}
        assert_same(loaded.state, state(7))


def test_a_run_folder_stands_for_its_newest_checkpoint(store: CheckpointStore, save: Save) -> None:
    for update in (2, 10, 9):
        save(update)
    assert load_checkpoint(store.folder.parent).update == store.latest().update == 10


def test_saving_the_same_update_again_replaces_it(store: CheckpointStore, save: Save) -> None:
    save(4, size=100)
    save(4, size=3)
    assert names(store) == ["000000004"]
    assert_same(store.latest().state, state(4, size=3))


# Which checkpoints are kept


def test_the_newest_are_kept(store: CheckpointStore, save: Save) -> None:
    for update in range(1, 6):
        save(update)
        assert names(store) == [f"{u:09d}" for u in range(max(1, update - 2), update + 1)]


def test_the_best_is_kept_however_old(store: CheckpointStore, save: Save) -> None:
    assert store.best() is None
    for update, score in ((1, -5.0), (2, 30.0), (3, 12.0)):
        save(update)
        store.set_score(update, score)
    for update in range(4, 9):
        save(update)
    assert names(store) == ["000000002", "000000006", "000000007", "000000008"]
    assert store.best() == store.folder / "000000002"
    store.set_score(8, 31.0)
    assert names(store) == ["000000006", "000000007", "000000008"]
    assert store.best() == store.folder / "000000008"
    store.set_score(5, 99.0)  # is gone
    assert store.best() == store.folder / "000000008"
    assert load_checkpoint(store.folder.parent).update == 8


@pytest.mark.parametrize("score", [1.0, 9.0])
def test_behind_a_damaged_checkpoint_the_newest_whole_one_is_kept(
    store: CheckpointStore, save: Save, score: float
) -> None:
    """A run resumed from its best one."""
    store.keep_last = 1
    save(10)
    store.set_score(10, 5.0)
    truncate(save(20) / "state.pt")
    save(15)
    store.set_score(15, score)
    assert store.latest().update == 15
    save(17)
    store.set_score(15, score)  # an evaluation may end after the next checkpoint
    assert store.latest().update == 17


def test_the_newest_whole_ones_are_kept_behind_a_damaged_one(store: CheckpointStore, save: Save) -> None:
    for update in (10, 20, 30):
        save(update)
    truncate(store.path(30) / "state.pt")
    save(25)
    assert [path.name for path in store.paths()] == [f"{update:09d}" for update in (10, 20, 25, 30)]
    save(40)
    assert [path.name for path in store.paths()] == [f"{update:09d}" for update in (25, 30, 40)]


# Writing fails


def fail(error: BaseException) -> Callable[..., Any]:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise error

    return failing


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("torch.save", full_disk()),
        ("torch.save", RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")),
        ("os.fsync", full_disk()),
        ("os.replace", full_disk()),
        ("pathlib.Path.mkdir", PermissionError(errno.EACCES, os.strerror(errno.EACCES))),
    ],
)
def test_when_writing_fails_the_earlier_checkpoints_are_intact(
    store: CheckpointStore, save: Save, monkeypatch: pytest.MonkeyPatch, target: str, error: Exception
) -> None:
    store.keep_last = 1
    save(1)
    with monkeypatch.context() as patch:
        patch.setattr(target, fail(error))
        with pytest.raises(CheckpointError, match=r"000000002.*: cannot write: .*earlier checkpoints are intact"):
            save(2)
    assert names(store) == ["000000001"]
    assert_same(store.latest().state, state(1))
    save(2)  # once there is space again
    assert names(store) == ["000000002"]


def test_a_write_that_fails_halfway_leaves_nothing_behind(store: CheckpointStore, save: Save) -> None:
    """The real thing: the operating system stops the file at 64 KiB."""
    save(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with pytest.raises(CheckpointError, match=r"000000002: cannot write: .*earlier checkpoints are intact"):
            save(2, size=100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(store) == ["000000001"]
    assert_same(store.latest().state, state(1))


def test_an_update_that_cannot_be_saved_again_keeps_its_checkpoint(
    store: CheckpointStore, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(4)
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(source).name == ".000000004.tmp":
            raise full_disk()
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", refuse)
        with pytest.raises(CheckpointError, match="earlier checkpoints are intact"):
            save(4, size=3)
    assert names(store) == ["000000004"]
    assert_same(store.latest().state, state(4))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_what_an_interrupted_save_leaves_is_never_taken_for_a_checkpoint(
    store: CheckpointStore, save: Save, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    save(1)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail(error))
        with pytest.raises(type(error)):
            save(2)
    assert [path.name for path in store.paths()] == ["000000001"]
    assert store.latest().update == 1
    save(2)
    assert names(store) == ["000000001", "000000002"]


def test_what_a_killed_writer_left_is_removed_by_the_next_one(store: CheckpointStore, save: Save) -> None:
    save(1)
    for name in (".000000002.tmp", ".000000003.old"):
        (store.folder / name).mkdir()
        (store.folder / name / "state.pt").write_text("half")
    (store.folder / ".keep").mkdir()  # not of ours
    save(4)
    assert names(store) == [".keep", "000000001", "000000004"]


# Damage


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty])
def test_a_damaged_state_is_refused_by_name_and_passed_over_in_search_of_the_latest(
    store: CheckpointStore, save: Save, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    earlier, path = save(1), save(2)
    damage(path / "state.pt")
    assert (is_whole(earlier), is_whole(path)) == (True, False)
    with pytest.raises(CheckpointError, match=r"000000002/state\.pt: checksum differs from meta\.json: truncated or d"):
        load_checkpoint(path)
    with caplog.at_level(logging.WARNING):
        assert load_checkpoint(store.folder.parent).update == 1
    assert "000000002/state.pt: checksum differs" in caplog.text
    assert "trying the one before" in caplog.text


def test_a_truncated_state_with_the_right_checksum_is_refused_too(save: Save) -> None:
    path = save(1)
    for cut in (0, 1, 100, 1000):
        content = (path / "state.pt").read_bytes()
        (path / "state.pt").write_bytes(content[:cut])
        resign(path)
        with pytest.raises(CheckpointError, match=r"000000001/state\.pt: "):
            load_checkpoint(path)
        (path / "state.pt").write_bytes(content)


def test_without_any_whole_checkpoint_it_says_so(store: CheckpointStore, save: Save) -> None:
    with pytest.raises(CheckpointError, match=r"checkpoints: holds no usable checkpoint"):
        store.latest()
    for update in (1, 2):
        truncate(save(update) / "state.pt")
    with pytest.raises(CheckpointError, match=r"checkpoints: holds no usable checkpoint"):
        load_checkpoint(store.folder.parent)


class Touch:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("with_checksum", [True, False])
@pytest.mark.parametrize("how", ["torch", "legacy", "pickle"])
def test_a_pickle_with_code_is_refused_and_the_code_does_not_run(
    store: CheckpointStore, save: Save, tmp_path: Path, how: str, with_checksum: bool
) -> None:
    target = tmp_path / "created"
    content = {**state(), "model": Touch(target)}
    save(1)
    path = save(2)
    if how == "pickle":
        (path / "state.pt").write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path / "state.pt", _use_new_zipfile_serialization=how == "torch")
    if with_checksum:
        resign(path)
    expected = "holds objects other than tensors .* nothing was run" if with_checksum else "checksum differs"
    with pytest.raises(CheckpointError, match=rf"000000002/state\.pt: {expected}"):
        load_checkpoint(path)
    assert store.latest().update == 1
    assert not target.exists()
    torch.load(path / "state.pt", weights_only=False) if how != "pickle" else pickle.loads(pickle.dumps(content))
    assert target.exists()  # the trap is a real one


def test_a_state_that_is_no_dictionary_is_refused(save: Save) -> None:
    path = save(1)
    torch.save([1, 2], path / "state.pt")
    resign(path)
    with pytest.raises(CheckpointError, match=r"state\.pt: holds a list, expected a dictionary"):
        load_checkpoint(path)


def changed(**changes: Any) -> Callable[[dict[str, Any]], str]:
    return lambda meta: json.dumps(meta | changes)


def without(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda meta: json.dumps({k: v for k, v in meta.items() if k != key})


@pytest.mark.parametrize(
    ("rewrite", "message"),
    [
        (changed(format=2), r"format 2, this version reads 1; update prelar-ray"),
        (
            changed(config={"env": {"tsk": 1}}),
            r"damaged or of another version \(config\.env\.tsk: Extra inputs are not",
        ),
        (changed(config=None), "damaged or of another version"),
        (changed(update="many"), "damaged or of another version"),
        (without("format"), "damaged or of another version .*format"),
        (without("sha256"), "damaged or of another version .*sha256"),
        (without("counters"), "damaged or of another version .*counters"),
        (lambda meta: json.dumps(meta)[:-20], "damaged or of another version"),
        (lambda meta: "", "damaged or of another version"),
        (lambda meta: "[]", "damaged or of another version"),
        (lambda meta: "null", "damaged or of another version"),
    ],
)
def test_a_meta_file_that_is_damaged_or_of_another_version_is_refused_by_name(
    store: CheckpointStore, save: Save, rewrite: Callable[[dict[str, Any]], str], message: str
) -> None:
    save(1)
    path = save(2)
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(rewrite(meta))
    with pytest.raises(CheckpointError, match=rf"000000002/meta\.json: {message}"):
        load_checkpoint(path)
    assert store.latest().update == 1


@pytest.mark.parametrize("missing", ["meta.json", "state.pt"])
def test_a_folder_without_both_files_is_no_checkpoint(save: Save, missing: str) -> None:
    path = save(1)
    (path / missing).unlink()
    with pytest.raises(CheckpointError, match=r"000000001: not a checkpoint, expected state\.pt and meta\.json in it;"):
        load_checkpoint(path)


def test_a_path_that_does_not_exist_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: no such folder"):
        load_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\0" * 20, b'{"evaluation_return": "99"}', b'{"evaluation_return": 1e999}', b"[" * 9999]
)
def test_a_damaged_score_stops_no_save_and_counts_as_none(
    store: CheckpointStore, save: Save, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    for update in (1, 2):
        save(update)
        store.set_score(update, float(update))
    (store.path(2) / "score.json").write_bytes(content)
    for update in (3, 4, 5, 6):
        save(update)
        store.set_score(update, 0.0)
    assert [int(path.name) for path in store.paths()] == [1, 4, 5, 6], "the best that is known is kept"
    assert caplog.text.count("counts as not evaluated") == 1


def test_text_is_no_number_in_a_meta_file(save: Save) -> None:
    for change in ({"update": "1"}, {"counters": {"numbers": {"0": "1"}}}, {"counters": {"evaluations": "3"}}):
        path = save(1)
        meta = json.loads((path / "meta.json").read_text())
        (path / "meta.json").write_text(json.dumps(meta | change))
        with pytest.raises(CheckpointError, match="damaged or of another version"):
            load_checkpoint(path)


def test_a_link_planted_where_a_checkpoint_is_written_is_removed_and_not_followed(
    store: CheckpointStore, save: Save, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    store.folder.mkdir()
    (store.folder / ".000000001.tmp").symlink_to(precious)
    save(1)
    assert [path.name for path in precious.iterdir()] == ["file"]
    assert store.latest().update == 1
