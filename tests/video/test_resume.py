from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prelar_ray
from prelar_ray.errors import DataError, RunFolderError
from prelar_ray.video.store import VideoStore, VideoWriter
from tests.video.stores import ATTRIBUTES, episode, files, lines, record, to_version_1


def last_note(writer: VideoWriter) -> dict[str, Any]:
    return writer.taken_back or (writer.notes or [{}])[-1]


class Conversion:
    """Appends numbered episodes, and notes how many were appended."""

    def __init__(self, path: Path, lengths: list[int], shard_frames: int, compression: Any = "none") -> None:
        self.path, self.lengths, self.shard_frames, self.compression = path, lengths, shard_frames, compression
        self.done = 0

    def note(self) -> dict[str, int]:
        return {"done": self.done}

    def start(self) -> VideoWriter:
        return VideoWriter(self.path, ATTRIBUTES, self.shard_frames, self.compression, note=self.note)

    def resume(self) -> VideoWriter:
        writer = VideoWriter.resume(self.path, self.shard_frames, note=self.note)
        self.done = last_note(writer).get("done", 0)
        return writer

    def run(self, writer: VideoWriter, until: int | None = None) -> None:
        """Append what is left, up to an episode; there an interrupt comes."""
        with writer:
            for number in range(self.done, len(self.lengths)):
                if number == until:
                    raise KeyboardInterrupt
                self.done += 1  # before the call, which may close the shard that holds it
                writer.append(episode(self.lengths[number], number), f"task-{number}")


@settings(max_examples=25)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=8),
    st.integers(1, 9),
    st.sampled_from(["none", "lz4"]),
    st.lists(st.integers(0, 8), max_size=3),
)
def test_an_interrupted_store_that_is_continued_is_that_of_an_uninterrupted_writer(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    shard_frames: int,
    compression: str,
    interrupts: list[int],
) -> None:
    folder = tmp_path_factory.mktemp("stores")
    whole = Conversion(folder / "whole", lengths, shard_frames, compression)
    whole.run(whole.start())
    parts = Conversion(folder / "parts", lengths, shard_frames, compression)
    writer = parts.start()
    for until in sorted(interrupts):
        if until in range(parts.done, len(lengths)):
            with pytest.raises(KeyboardInterrupt):
                parts.run(writer, until)
            assert len(VideoStore(parts.path)) == until if until else not lines_there(parts.path)
            writer = parts.resume()
            assert parts.done == until
            assert writer.attributes == ATTRIBUTES
    parts.run(writer)
    assert files(parts.path).keys() - {"verified.json"} == files(whole.path).keys()
    assert files(whole.path).items() <= files(parts.path).items()


def lines_there(path: Path) -> bool:
    return (path / "shards.jsonl").exists()


KILLED = """
import os, signal
from pathlib import Path
from prelar_ray.video import journal, store, writer
from tests.video.test_resume import Conversion

def kill(*args):
    os.kill(os.getpid(), signal.SIGKILL)

conversion = Conversion(Path({path!r}), {lengths}, 6)
begun = conversion.resume() if {resume} else conversion.start()
{fault}
conversion.run(begun)
"""

BETWEEN = {
    "appending": """
append = store.VideoWriter.append
def counted(self, *args):
    append(self, *args)
    if conversion.done == 4:
        kill()
store.VideoWriter.append = counted
""",
    "shard and line": """
add = journal.Journal.add
def killed(self, shard):
    if len(self.shards) == 1:
        kill()
    add(self, shard)
journal.Journal.add = killed
""",
    "half a line": """
add, line = journal.Journal.add, journal._line
journal._line = lambda shard: line(shard)[:20] if shard.file == "shard-00001.arrow" else line(shard)
def killed(self, shard):
    add(self, shard)
    if shard.file == "shard-00001.arrow":
        kill()
journal.Journal.add = killed
""",
    "last line and manifest": "journal.Journal.complete = kill",
    "half a shard": """
write = writer.write_shard
def half(path, file, *args):
    if file == "shard-00001.arrow":
        path.with_name(path.name + ".tmp").write_bytes(b"half")
        kill()
    return write(path, file, *args)
writer.write_shard = half
""",
}


def run_killed(path: Path, lengths: list[int], fault: str, resume: bool = False) -> None:
    program = KILLED.format(path=str(path), lengths=lengths, resume=resume, fault=fault)
    killed = subprocess.run([sys.executable, "-c", program], cwd=Path(prelar_ray.__file__).parents[1], check=False)
    assert killed.returncode == -signal.SIGKILL


@pytest.mark.faults
@pytest.mark.parametrize("fault", BETWEEN.values(), ids=BETWEEN)
def test_a_killed_store_that_is_continued_is_that_of_an_uninterrupted_writer(tmp_path: Path, fault: str) -> None:
    lengths = [4, 4, 2, 3, 4, 1]
    whole, killed = (Conversion(tmp_path / name, lengths, 6) for name in ("whole", "killed"))
    whole.run(whole.start())
    run_killed(killed.path, lengths, fault)
    killed.run(killed.resume())
    assert files(killed.path) == files(whole.path)


def interrupted(path: Path, lengths: list[int] | None = None) -> Conversion:
    """A store whose last shard an interrupt closed early."""
    conversion = Conversion(path, lengths or [4, 4, 2, 3, 4, 1], 6)
    with pytest.raises(KeyboardInterrupt):
        conversion.run(conversion.start(), until=3)
    assert [line["frames"] for line in lines(path)] == [8, 2]
    return conversion


def test_a_shard_that_was_taken_back_stays_until_its_successor_is_written(tmp_path: Path) -> None:
    conversion = interrupted(tmp_path / "store")
    before = files(conversion.path)
    writer = conversion.resume()
    assert (writer.episodes, writer.frames, last_note(writer)) == (2, 8, {"done": 3})
    writer.append(episode(1), "more")
    found = files(conversion.path)
    assert json.loads(found.pop("writer.lock"))["pid"] == os.getpid()
    assert found == before
    del writer  # as a kill would leave it
    assert last_note(Conversion(conversion.path, [], 6).resume()) == {"done": 3}
    assert len(VideoStore(conversion.path)) == 3


def test_what_no_line_names_is_removed_and_other_files_stay(tmp_path: Path) -> None:
    conversion = interrupted(tmp_path / "store")
    before = files(conversion.path)
    left = ("shard-00007.arrow", "shard-00002.arrow.tmp", "shard-00001.arrow.next.tmp", "manifest.json.tmp")
    for name in (*left, "notes.txt", "shard-1.arrow"):
        (conversion.path / name).write_bytes(b"left")
    writer = conversion.resume()
    assert files(conversion.path).keys() == {*before, "writer.lock", "notes.txt", "shard-1.arrow"}
    del writer


REPLACEMENT = {
    "before the journal": "journal.Journal.replace_last = kill",
    "after the journal": """
replace = os.replace
def killed(source, target):
    if str(source).endswith(".next"):
        kill()
    replace(source, target)
os.replace = killed
""",
}


@pytest.mark.faults
@pytest.mark.parametrize("fault", REPLACEMENT.values(), ids=REPLACEMENT)
def test_a_kill_while_a_shard_is_replaced_loses_nothing(tmp_path: Path, fault: str) -> None:
    whole = Conversion(tmp_path / "whole", [4, 4, 2, 3, 4, 1], 6)
    whole.run(whole.start())
    killed = interrupted(tmp_path / "killed")
    run_killed(killed.path, killed.lengths, fault, resume=True)
    writer = killed.resume()
    assert killed.done >= 3
    killed.run(writer)
    assert files(killed.path) == files(whole.path)


def test_a_full_disk_while_a_shard_is_replaced_leaves_the_former(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversion = interrupted(tmp_path / "store")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with conversion.resume() as writer:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(DataError, match="No space left"):
                writer.append(episode(6, 9), "lost")
        writer.append(episode(6, 10), "kept")
    store = VideoStore(conversion.path)
    assert store.sources == ["task-0", "task-1", "task-2", "kept"]
    assert not store.complete


def test_a_full_disk_at_the_journal_leaves_it_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, fsync, calls = tmp_path / "store", os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        if calls[-1].endswith(".jsonl"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with VideoWriter(path, {}, 3) as writer:
        writer.append(episode(3), "a")
        before = (path / "shards.jsonl").read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(DataError, match=r"shards\.jsonl.*No space left"):
                writer.append(episode(3, 1), "b")
        assert (path / "shards.jsonl").read_bytes() == before
        writer.append(episode(3, 2), "c")
    assert VideoStore(path).sources == ["a", "c"]


def test_what_cannot_be_continued_is_refused_and_left_alone(tmp_path: Path) -> None:
    record(tmp_path / "complete", [3])
    record(tmp_path / "old", [3])
    to_version_1(tmp_path / "old", complete=False)
    before = {name: files(tmp_path / name) for name in ("complete", "old")}
    with pytest.raises(RunFolderError, match="complete: is complete, nothing is left to write"):
        VideoWriter.resume(tmp_path / "complete", 6)
    with pytest.raises(RunFolderError, match="old: a store of version 1, which cannot be continued"):
        VideoWriter.resume(tmp_path / "old", 6)
    assert {name: files(tmp_path / name) for name in before} == before
    with pytest.raises(DataError, match="absent: no such folder"):
        VideoWriter.resume(tmp_path / "absent", 6)
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("name", ["shard-00000.arrow", "shard-00001.arrow"])
def test_a_store_with_a_missing_shard_is_not_continued(tmp_path: Path, name: str) -> None:
    conversion = interrupted(tmp_path / "store")
    (conversion.path / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: missing; restore it"):
        conversion.resume()
    assert not (conversion.path / "writer.lock").exists()


def test_a_damaged_shard_is_not_taken_back(tmp_path: Path) -> None:
    conversion = interrupted(tmp_path / "store")
    shard = conversion.path / "shard-00001.arrow"
    content = bytearray(shard.read_bytes())
    content[-3000] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"shard-00001\.arrow: the checksum differs"):
        conversion.resume()
