"""Preparing a store: whatever breaks, nothing is lost, taken twice or different in the end."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from prelar_ray.errors import ConfigError, DataError, RunFolderError
from prelar_ray.preparation.conversion import Converted, Converter, Finished, Piece
from prelar_ray.preparation.ledger import Ledger, named
from prelar_ray.preparation.ordered import Convert, Task, convert_here
from prelar_ray.preparation.prepare import Preparation, Summary, convert_locally, prepare
from prelar_ray.sources import registry
from prelar_ray.sources.selection import Selection
from prelar_ray.sources.source import Choice, Item
from prelar_ray.types import Frames
from prelar_ray.video.actions import ActionFile, actions_path
from prelar_ray.video.store import VideoStore, VideoWriter
from tests.preparation.sources import Made, made, picture

LINES = ("a 5", "b 30", "c 1", "d 12", "e 7 odd", "f 9")
SELECTION = Selection(min_frames=2, max_frames=8)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "formats", lambda: {"made": Made})


def preparation(source: Path, **changes: object) -> Preparation:
    settings = {"sources": (source,), "selection": SELECTION, "shard_frames": 16}
    return Preparation.model_validate(settings | changes)


def run(source: Path, out: Path, convert: Convert = convert_here, resume: bool = False, **changes: object) -> Summary:
    return prepare(preparation(source, **changes), out, convert, resume)


def files(store: Path) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in store.iterdir() if path.name != "writer.lock"}
    actions = actions_path(store)
    return found | ({"actions": actions.read_bytes()} if actions.exists() else {})


def stopping(after: int, error: BaseException) -> Convert:
    """Convert so many pieces, then fail."""

    def convert(converter: Converter, tasks: Sequence[Task]) -> Generator[Converted]:
        pieces = 0
        for found in convert_here(converter, tasks):
            if isinstance(found, Piece):
                if pieces == after:
                    raise error
                pieces += 1
            yield found

    return convert


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return made(tmp_path / "source" / "clips.made", *LINES)


@pytest.fixture
def whole(source: Path, tmp_path: Path) -> dict[str, bytes]:
    """The files of a preparation that nothing interrupted."""
    run(source, tmp_path / "whole", choice=Choice(actions=True))
    return files(tmp_path / "whole")


def test_an_item_of_two_sources_is_refused_and_nothing_written(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^a: in .* and in .*; name one of them, so that nothing is taken twice"):
        run(source, tmp_path / "out", sources=(source, source.parent / "." / source.name))
    assert not (tmp_path / "out").exists()


def test_the_store_holds_all_episodes_in_order_cut_and_named(source: Path, tmp_path: Path) -> None:
    summary = run(source, tmp_path / "out")
    store = VideoStore(tmp_path / "out")
    assert store.complete
    assert list(zip(store.sources, store.lengths.tolist(), strict=True)) == [
        *[("a", 5), ("b", 8), ("b", 8), ("b", 8), ("b", 6), ("d", 8), ("d", 4), ("e", 7), ("f", 8)]
    ]
    assert (summary.episodes, summary.frames) == (len(store), store.total_frames)
    assert summary.too_short == ("c",)  # the frame of f behind its eight is a remainder
    assert summary.notes == ("e: odd colours",)
    np.testing.assert_array_equal(store.frames(4)[0], picture(1, 24))


@pytest.mark.parametrize("workers", [2, 3])
def test_the_files_are_the_same_bytes_however_many_processes_convert(
    workers: int, source: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    run(source, tmp_path / "out", convert_locally(workers), choice=Choice(actions=True))
    assert files(tmp_path / "out") == whole


@pytest.mark.parametrize(
    ("after", "error"),
    [
        *((after, KeyboardInterrupt()) for after in range(9)),
        (4, OSError(errno.ENOSPC, "No space left on device")),
        (6, DataError("x")),
    ],
)
def test_a_break_anywhere_and_a_resume_give_the_same_bytes(
    after: int, error: BaseException, source: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(type(error)):
        run(source, out, stopping(after, error), choice=Choice(actions=True))
    assert not (out / "manifest.json").exists() or b'"complete": false' in (out / "manifest.json").read_bytes()
    summary = run(source, out, resume=True, choice=Choice(actions=True))
    assert files(out) == whole
    assert summary.episodes == 9
    assert len(ActionFile(actions_path(out)).in_order) == 9


def test_a_resume_converts_nothing_that_a_shard_holds_whole(source: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", stopping(5, KeyboardInterrupt()))
    asked: list[str] = []

    def watching(converter: Converter, tasks: Sequence[Task]) -> Generator[Converted]:
        asked.extend(item.key for _, item in tasks)
        return convert_here(converter, tasks)

    run(source, tmp_path / "out", watching, resume=True)
    assert asked == ["d", "e", "f"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "a").write_text("longer"), "a: has changed since it was converted"),
        (lambda folder: made(folder / "clips.made", *LINES[1:]), "b: comes where the store has 0:a"),
    ],
)
def test_sources_that_changed_are_noticed(
    change: Callable[[Path], object], message: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", stopping(5, KeyboardInterrupt()))
    before = files(tmp_path / "out")
    change(source.parent)
    with pytest.raises(DataError, match=message):
        run(source, tmp_path / "out", resume=True)
    assert files(tmp_path / "out") == before


def test_an_interrupt_between_the_ledger_and_the_store_loses_no_episode(
    source: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, append = tmp_path / "out", VideoWriter.append

    def interrupted(writer: VideoWriter, frames: Frames, name: str) -> None:
        if writer.appended == 4:
            signal.raise_signal(signal.SIGINT)
        append(writer, frames, name)

    monkeypatch.setattr(VideoWriter, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(source, out, choice=Choice(actions=True))
    monkeypatch.setattr(VideoWriter, "append", append)
    run(source, out, resume=True, choice=Choice(actions=True))
    assert files(out) == whole


def test_other_parts_of_the_same_file_are_noticed(tmp_path: Path) -> None:
    ledger = Ledger()
    ledger.finish((0, Item("a", (), {"start": 0.0})), Finished(0, ()))
    ledger.check([(0, Item("a", (), {"start": 0.0}))])
    with pytest.raises(DataError, match="a: has changed since it was converted, or what is taken of it"):
        ledger.check([(0, Item("a", (), {"start": 1.0}))])


def test_an_item_is_named_once_where_its_message_names_it() -> None:
    assert named("b/5.mp4", "videos/b/5.mp4: empty") == "videos/b/5.mp4: empty"
    assert named("5", "cut short after 15 pictures") == "5: cut short after 15 pictures"


def test_a_store_that_got_no_shard_starts_from_the_beginning(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no episode has 50 frames or more"):
        run(source, tmp_path / "out", selection=Selection(min_frames=50))
    assert run(source, tmp_path / "out").episodes == 9


def test_actions_written_before_a_kill_that_no_shard_has_are_written_again(
    source: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(source, out, stopping(0, KeyboardInterrupt()), choice=Choice(actions=True))
    actions_path(out).write_bytes(whole["actions"])
    run(source, out, resume=True, choice=Choice(actions=True))
    assert files(out) == whole


def test_a_resume_needs_a_store(source: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="out: no store to continue; leave out --resume"):
        run(source, tmp_path / "out", resume=True)


def test_a_resume_counts_the_frames_that_are_there(source: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", stopping(1, KeyboardInterrupt()))
    seen: list[int] = []
    prepare(preparation(source), tmp_path / "out", convert_here, True, lambda items, frames: seen.append(frames))
    assert seen[0] == 5
    assert sum(seen) == VideoStore(tmp_path / "out").total_frames


def test_a_resume_with_other_settings_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", stopping(5, KeyboardInterrupt()))
    with pytest.raises(ConfigError, match="was prepared with other preparation"):
        run(source, tmp_path / "out", resume=True, selection=Selection(every=2))


def test_a_store_that_is_there_is_kept(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out")
    before = files(tmp_path / "out")
    with pytest.raises(RunFolderError, match="already holds a video store"):
        run(source, tmp_path / "out")
    with pytest.raises(RunFolderError, match="is complete"):
        run(source, tmp_path / "out", resume=True)
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize(("fault", "workers"), [("ends=3", 1), ("ends=3", 2), ("dies", 2)])
def test_what_cannot_be_read_ends_the_preparation_by_name_or_is_left_out(
    fault: str, workers: int, tmp_path: Path
) -> None:
    source = made(tmp_path / "source" / "clips.made", "a 5", f"broken 9 {fault}", "c 4")
    with pytest.raises(DataError, match="^broken: .*; --resume continues .*with --skip-bad leaves out"):
        run(source, tmp_path / "strict", convert_locally(workers))
    assert VideoStore(tmp_path / "strict").sources[0] == "a"
    summary = run(source, tmp_path / "lenient", convert_locally(workers), skip_bad=True)
    store = VideoStore(tmp_path / "lenient")
    expected = ["a", "broken", "c"] if fault == "ends=3" else ["a", "c"]
    assert store.sources == expected
    reason = "cut short after 3 pictures" if fault == "ends=3" else "the process that read it was killed by SIGKILL; "
    (left_out,) = summary.left_out
    assert left_out.startswith(f"broken: {reason}")
    assert store.attributes["left_out"] == [left_out]
    assert store.complete


def test_what_was_left_out_before_a_break_is_said_after_it(tmp_path: Path) -> None:
    source = made(tmp_path / "source" / "clips.made", "a 9", "broken 9 ends=1", "c 9", "d 9")
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", stopping(2, KeyboardInterrupt()), skip_bad=True)
    summary = run(source, tmp_path / "out", resume=True, skip_bad=True)
    assert [reason.split(":")[0] for reason in summary.left_out] == ["broken"]


def test_a_choice_that_a_source_does_not_have_ends_the_preparation(tmp_path: Path) -> None:
    source = made(tmp_path / "source" / "clips.made", "a 5", "b 5 refused")
    with pytest.raises(ConfigError, match="--camera: there is none"):
        run(source, tmp_path / "out", convert_locally(2), skip_bad=True)


def test_nothing_long_enough_is_said(tmp_path: Path) -> None:
    source = made(tmp_path / "source" / "clips.made", "a 1", "b 1")
    with pytest.raises(DataError, match="no episode has 2 frames or more; see --min-frames"):
        run(source, tmp_path / "out")


def test_a_seed_mixes_the_order_and_repeats_it(source: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        run(source, tmp_path / name, shuffle=True, seed=seed)
    one, again, other = (VideoStore(tmp_path / name).sources for name in ("one", "again", "other"))
    assert one == again != other
    assert sorted(one) == sorted(other)


def test_actions_of_frames_that_are_not_all_kept_are_refused(source: Path) -> None:
    with pytest.raises(ValidationError, match="--actions with --fps or --every"):
        preparation(source, choice=Choice(actions=True), selection=Selection(every=2))


def test_two_at_once_are_refused(source: Path, tmp_path: Path) -> None:
    def other(converter: Converter, tasks: Sequence[Task]) -> Generator[Converted]:
        with pytest.raises(RunFolderError, match="is being written by another process"):
            run(source, tmp_path / "out", resume=True)
        return convert_here(converter, tasks)

    run(source, tmp_path / "out", other)


KILLED = """
import sys
from pathlib import Path
from prelar_ray.preparation.prepare import Preparation, convert_locally, prepare
from prelar_ray.sources import registry
from tests.preparation.sources import Made
registry.formats = lambda: {"made": Made}
if __name__ == "__main__":
    source, out = map(Path, sys.argv[1:])
    prepare(Preparation(sources=(source,), shard_frames=400), out, convert_locally(2))
"""


def runs(process: str) -> bool:
    """Whether a process of this number runs; one that ended, and that nobody waits for, does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_kill_leaves_no_process_and_a_resume_gives_the_same_bytes(tmp_path: Path) -> None:
    lines = [f"clip{number:03d} 150" for number in range(60)]
    source, out = made(tmp_path / "source" / "clips.made", *lines), tmp_path / "out"
    program = tmp_path / "killed.py"
    program.write_text(KILLED)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(program), str(source), str(out)], env=environment, cwd=ROOT)
    journal = out / "shards.jsonl"
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= 2):
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before the kill"
    assert len(children) >= 2
    deadline = time.monotonic() + 20
    while left := [child for child in children if runs(child)]:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.05)
    settings = {"selection": Selection(), "shard_frames": 400}
    run(source, out, convert_locally(2), resume=True, **settings)
    run(source, tmp_path / "whole", **settings)
    assert files(out) == files(tmp_path / "whole")
