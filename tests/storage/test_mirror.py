from __future__ import annotations

import hashlib
import io
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import fs

from prelar_ray.checkpoint.store import is_whole, load_checkpoint
from prelar_ray.commands import fetch as command
from prelar_ray.commands import finetune
from prelar_ray.config import RunConfig, load_config, to_yaml
from prelar_ray.errors import ConfigError, DataError, RunFolderError
from prelar_ray.storage import mirror
from prelar_ray.storage.mirror import Mirror, fetch, mirrored
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.writers import read_metrics


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Looks like a run in the middle of its work."""
    run = tmp_path / "here" / "run"
    RunFolder.create(run, "seed: 0\n", "finetune")
    write(run / "metrics.jsonl", "1\n")
    write(run / "replay/00000000-env0000-episode000000.arrow", "steps")
    checkpoint(run, 10)
    write(run / "checkpoints/.000000020.tmp/state.pt", "half")
    write(run / ".run.json.tmp", "half")
    return run


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def checkpoint(run: Path, update: int, tensors: str = "tensors") -> Path:
    path = run / f"checkpoints/{update:09d}"
    write(path / "state.pt", tensors)
    write(path / "meta.json", json.dumps({"sha256": hashlib.sha256(tensors.encode()).hexdigest()}))
    return path


def mirror_of(run: Path, there: Path) -> Mirror:
    return Mirror(RunFolder.open(run), f"file://{there}", is_whole)


def started(path: Path) -> RunFolder:
    run = RunFolder.create(path, "seed: 0\n", "finetune", resume=True)
    run.start()
    return run


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def whole(folder: Path) -> dict[str, str]:
    return {name: text for name, text in files(folder).items() if "tmp" not in name and name != ".lock"}


def test_a_copy_holds_all_but_what_is_being_written(folder: Path, tmp_path: Path) -> None:
    mirror_of(folder, tmp_path / "there").sync()
    assert files(tmp_path / "there" / "run") == whole(folder)


def test_a_later_sync_brings_what_is_new_and_removes_what_is_gone(folder: Path, tmp_path: Path) -> None:
    copy = mirror_of(folder, tmp_path / "there")
    copy.sync()
    kept = tmp_path / "there/run/replay/00000000-env0000-episode000000.arrow"
    before = kept.stat().st_mtime_ns
    shutil.rmtree(folder / "checkpoints/000000010")
    checkpoint(folder, 20)
    write(folder / "metrics.jsonl", "2\n")  # of the same size
    copy.sync()
    assert files(tmp_path / "there" / "run") == whole(folder)
    assert kept.stat().st_mtime_ns == before, "what never changes is not copied again"


def test_episodes_come_before_checkpoints_and_tensors_before_what_makes_them_whole(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    copy = Mirror._copy

    def noting(self: Mirror, name: str) -> None:
        copied.append(name.rpartition("/")[2])
        copy(self, name)

    monkeypatch.setattr(Mirror, "_copy", noting)
    mirror_of(folder, tmp_path / "there").sync()
    assert copied[0] == "run.json"  # whose copy it is
    assert copied[1].startswith("00000000-env")
    assert copied[-2:] == ["state.pt", "meta.json"]


def test_a_file_cut_off_on_its_way_does_not_appear(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(source: object, sink: object, length: int = 0) -> None:
        raise OSError("the line went dead")

    copy = mirror_of(folder, tmp_path / "there")
    with monkeypatch.context() as patch:
        patch.setattr(mirror.shutil, "copyfileobj", cut_off)
        with pytest.raises(OSError, match="went dead"):
            copy.sync()
    assert all(name.endswith(".part") for name in files(tmp_path / "there"))
    copy.sync()
    there = files(tmp_path / "there" / "run")
    assert {name: text for name, text in there.items() if not name.endswith(".part")} == whole(folder)


def test_every_new_checkpoint_is_copied_while_the_run_continues(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "POLL_SECONDS", 0.01)
    arrived = threading.Event()
    sync = Mirror.sync

    def syncing(self: Mirror) -> None:
        sync(self)
        if (tmp_path / "there/run/checkpoints/000000020/meta.json").exists():
            arrived.set()

    monkeypatch.setattr(Mirror, "sync", syncing)
    run = started(folder)
    with mirrored(run, f"file://{tmp_path}/there", is_whole):
        checkpoint(folder, 20)
        assert arrived.wait(30)
        run.update(status="finished")
    assert files(tmp_path / "there" / "run") == whole(folder)


def test_a_copy_that_fails_is_said_and_costs_the_run_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(self: Mirror) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(Mirror, "sync", failing)
    with mirrored(started(folder), f"file://{tmp_path}/there", is_whole):
        pass
    assert "not up to date (no route to host); the run folder itself is" in caplog.text


@pytest.mark.parametrize(("uri", "reason"), [("ftp://there", "ftp"), ("there", "there"), ("file:///proc/there", "")])
def test_an_address_that_cannot_be_used_is_refused_at_once(folder: Path, uri: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"^checkpoint\.mirror={uri}: .*{reason}.*give an address such as"):
        with mirrored(started(folder), uri, is_whole):
            pytest.fail("begun")
    assert RunFolder.open(folder).info["status"] == "failed"


def test_a_run_of_the_same_name_is_refused_and_the_copy_stays(folder: Path, tmp_path: Path) -> None:
    mirror_of(folder, tmp_path / "there").sync()
    before = files(tmp_path / "there")
    new = RunFolder.create(tmp_path / "elsewhere" / "run", "seed: 0\n", "finetune")
    address = f"file://{tmp_path}/there"
    with pytest.raises(ConfigError, match=rf"holds the copy of another run; .*`prelar-ray fetch {address}/run NEW`"):
        with mirrored(new, address, is_whole):
            pytest.fail("begun")
    assert files(tmp_path / "there") == before
    assert RunFolder.open(new.path).info["status"] == "failed"


def test_two_runs_that_began_at_one_address_together_leave_the_copy_to_the_first(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    second = RunFolder.create(tmp_path / "elsewhere" / "run", "seed: 0\n", "finetune")
    with mirrored(second, f"file://{tmp_path}/there", is_whole):
        mirror_of(folder, tmp_path / "there").sync()
        checkpoint(second.path, 20)
    assert files(tmp_path / "there" / "run") == whole(folder)
    assert "not up to date (checkpoint.mirror=" in caplog.text


def test_what_ended_before_its_first_checkpoint_leaves_the_address_free(folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder / "checkpoints")
    mirror_of(folder, tmp_path / "there").sync()
    assert "run.json" in files(tmp_path / "there" / "run")
    new = RunFolder.create(tmp_path / "elsewhere" / "run", "seed: 0\n", "finetune")
    checkpoint(new.path, 1)
    mirror_of(new.path, tmp_path / "there").sync()
    assert load(tmp_path / "there" / "run" / "run.json")["id"] == new.info["id"]


def load(path: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads(path.read_text())
    return content


def test_a_resume_that_is_refused_leaves_the_copy_as_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror_of(folder, tmp_path / "there").sync()
    before = files(tmp_path / "there")
    checkpoint(folder, 20)
    write(folder / "metrics.jsonl", "2\n")
    monkeypatch.setattr(mirror, "POLL_SECONDS", 0.01)
    run = RunFolder.create(folder, "seed: 0\n", "finetune", resume=True)
    with mirrored(run, f"file://{tmp_path}/there", is_whole):
        time.sleep(0.2)  # many looks for a new checkpoint, and no start
    assert files(tmp_path / "there") == before


@pytest.mark.parametrize("damaged", ["state.pt", "meta.json"])
def test_a_checkpoint_damaged_here_stays_whole_there(folder: Path, tmp_path: Path, damaged: str) -> None:
    newest = checkpoint(folder, 20)
    copy = mirror_of(folder, tmp_path / "there")
    copy.sync()
    (newest / damaged).write_text("cut")
    copy.sync()
    (newest / damaged).unlink()
    copy.sync()
    assert is_whole(tmp_path / "there" / "run" / "checkpoints" / "000000020")
    shutil.rmtree(newest)
    copy.sync()
    assert not (tmp_path / "there/run/checkpoints/000000020/meta.json").exists(), "pruned here, with a whole one left"


def test_nothing_is_removed_there_while_no_checkpoint_is_whole_here(folder: Path, tmp_path: Path) -> None:
    copy = mirror_of(folder, tmp_path / "there")
    copy.sync()
    before = files(tmp_path / "there")
    shutil.rmtree(folder / "replay")
    shutil.rmtree(folder / "checkpoints")
    copy.sync()
    write(folder / "checkpoints/000000020/state.pt", "cut")
    copy.sync()
    assert files(tmp_path / "there") == before


def test_a_checkpoint_saved_again_with_files_of_the_same_sizes_is_copied_whole(folder: Path, tmp_path: Path) -> None:
    copy = mirror_of(folder, tmp_path / "there")
    write(folder / "checkpoints/000000010/score.json", "{}")
    copy.sync()
    shutil.rmtree(folder / "checkpoints/000000010")
    checkpoint(folder, 10, "TENSORS")
    copy.sync()
    assert files(tmp_path / "there" / "run") == whole(folder)


@pytest.mark.usefixtures("short_episodes")
def test_a_run_resumes_from_its_copy_where_its_folder_is_lost(
    minute_config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, out = tmp_path / "minute.yaml", tmp_path / "first" / "run"
    settings.write_text(to_yaml(load_config(None, None, [f"checkpoint.mirror=file://{tmp_path}/there"], minute_config)))
    assert finetune.main(["--config", str(settings), "--out", str(out)]) == 0
    shutil.rmtree(tmp_path / "first")

    again = tmp_path / "second" / "run"
    assert command.main([f"file://{tmp_path}/there/run", str(again)]) == 0
    assert f"next: prelar-ray finetune --resume --out {again}" in capsys.readouterr().err
    reached = load_checkpoint(again).update
    assert finetune.main(["--resume", "--out", str(again), "finetune.env_steps=120"]) == 0
    assert load_checkpoint(again).update > reached
    updates = [row["update"] for row in read_metrics(again / "metrics.jsonl") if "loss/total" in row]
    assert updates == sorted(set(updates))
    assert load_checkpoint(tmp_path / "there" / "run").update == load_checkpoint(again).update


def test_what_is_no_run_is_not_fetched_and_nothing_is_overwritten(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "other" / "file", "")
    with pytest.raises(DataError, match=r"no run folder, it holds no run\.json"):
        fetch(f"file://{tmp_path}/other", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    mirror_of(folder, tmp_path / "there").sync()
    with pytest.raises(RunFolderError, match="exists already"):
        fetch(f"file://{tmp_path}/there/run", folder)


class Bucket:
    """An object store, as pyarrow shows one, with keys of any kind."""

    def __init__(self, objects: dict[str, bytes], sizes: dict[str, int] | None = None) -> None:
        self.objects, self.sizes = objects, sizes or {}
        self.opened: list[str] = []

    def get_file_info(self, what: object) -> object:
        infos = [
            fs.FileInfo(key, fs.FileType.File, size=self.sizes.get(key, len(content)))
            for key, content in self.objects.items()
        ]
        return next(info for info in infos if info.path == what) if isinstance(what, str) else infos

    def open_input_stream(self, path: str) -> io.BytesIO:
        self.opened.append(path)
        return io.BytesIO(self.objects[path])


Open = Callable[..., Bucket]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Open:
    def opened(*names: str, **sizes: int) -> Bucket:
        keys = {f"b/run/{name}": b"content" for name in ("run.json", *names)}
        found = Bucket(keys, {f"b/run/{name}": size for name, size in sizes.items()})
        monkeypatch.setattr(mirror, "open_address", lambda uri: (found, "b/run"))
        return found

    return opened


@pytest.mark.parametrize(
    "name", ["../precious.txt", "a/../../precious.txt", "/precious.txt", "..\\precious.txt", "RUN.json", "run.json/x"]
)
def test_a_key_that_leads_out_is_refused_before_anything_is_written(tmp_path: Path, bucket: Open, name: str) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    source = bucket("checkpoints/a", name)
    with pytest.raises(DataError, match=r"^s3://b/run: .*refused, nothing is written$"):
        fetch("s3://key:secret@b/run?region=x", tmp_path / "got")
    assert source.opened == []
    assert files(tmp_path) == {"precious.txt": "mine"}


@pytest.mark.parametrize("size", [3, 10])
def test_a_file_that_is_not_as_long_as_listed_is_refused(tmp_path: Path, bucket: Open, size: int) -> None:
    bucket("metrics", metrics=size)
    with pytest.raises(DataError, match=r"gives (more than its 3|only 7 of its 10) bytes"):
        fetch("s3://b/run", tmp_path / "got")
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_on_the_disk_is_refused(tmp_path: Path, bucket: Open) -> None:
    bucket("metrics", metrics=2**60)
    with pytest.raises(DataError, match="do not fit"):
        fetch("s3://b/run", tmp_path / "got")


def test_where_a_run_is_from_is_recorded_and_cannot_be_forged(tmp_path: Path, bucket: Open) -> None:
    bucket("fetched.json", "config.yaml")
    fetched = fetch("s3://key:secret@b/run?token=x", tmp_path / "got")
    assert fetched == RunFolder(tmp_path / "got", {}).fetched
    assert (fetched.address, fetched.files, fetched.bytes, fetched.trusted) == ("s3://b/run", 2, 14, None)
    assert "secret" not in (tmp_path / "got" / "fetched.json").read_text()


def test_links_that_leave_the_run_are_not_copied_in_either_direction(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    precious = tmp_path / "precious"
    write(precious / "key", "secret")
    (folder / "link").symlink_to(precious / "key")
    (folder / "folder").symlink_to(precious)
    (folder / "alias.jsonl").symlink_to(folder / "metrics.jsonl")
    mirror_of(folder, tmp_path / "there").sync()
    there = tmp_path / "there" / "run"
    assert "secret" not in files(there).values()
    assert files(there)["alias.jsonl"] == "1\n"
    assert "link: a link out of the run folder" in caplog.text
    (there / "link").symlink_to(precious / "key")
    (there / "folder").symlink_to(precious)
    fetch(f"file://{there}", tmp_path / "got")
    assert "secret" not in files(tmp_path / "got").values()


def test_a_link_in_the_copy_is_not_written_through(folder: Path, tmp_path: Path) -> None:
    precious, there = tmp_path / "precious", tmp_path / "there" / "run"
    write(precious / "key", "mine")
    there.mkdir(parents=True)
    (there / "metrics.jsonl.part").symlink_to(precious / "key")
    (there / "run.json").symlink_to(precious / "key")
    mirror_of(folder, tmp_path / "there").sync()
    assert files(precious) == {"key": "mine"}
    shutil.rmtree(there)
    there.mkdir()
    (there / "checkpoints").symlink_to(precious)
    with pytest.raises(OSError, match="a link leads out of the copy"):
        mirror_of(folder, tmp_path / "there").sync()
    assert files(precious) == {"key": "mine"}


def test_a_fetched_run_with_pickles_is_not_suggested_to_be_resumed_without_a_flag(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder / "checkpoints/000000010/rllib.json", "{}")
    assert command.main([f"file://{folder}", str(tmp_path / "got")]) == 0
    said = capsys.readouterr().err
    assert "with pickles that --resume would execute" in said
    assert f"finetune --resume --out {tmp_path / 'got'} --trust-pickles" in said
