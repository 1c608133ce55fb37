"""Standard streams whose reader leaves, whose device is full, or that are not there."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

import prelar_ray
from prelar_ray.telemetry.streams import LastingStream, lasting_streams, lost_log, lost_output

ROOT = Path(prelar_ray.__file__).parents[1]


def full() -> io.TextIOWrapper:
    return io.TextIOWrapper(open("/dev/full", "wb", buffering=0), write_through=True)


def test_what_cannot_be_written_goes_nowhere_and_the_reason_is_kept() -> None:
    stream = LastingStream(full())
    assert stream.write("lost") == 4
    stream.writelines(["so", "is this"])
    stream.flush()
    assert isinstance(stream.lost, OSError)
    assert stream.lost.strerror == "No space left on device"
    os.write(stream.fileno(), b"a library's")  # nowhere too, without an error


def test_a_terminal_library_does_not_notice() -> None:
    stream = LastingStream(full())
    console = Console(file=stream, force_terminal=True)  # type: ignore[arg-type]
    with Progress(console=console, auto_refresh=False) as progress:
        progress.add_task("work", total=3)
        progress.refresh()
    console.print("[bold]done")
    assert stream.lost is not None


def test_a_stream_that_is_missing_or_closed_is_lost_once_it_is_written_to() -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (LastingStream(None), LastingStream(closed)):
        assert not stream.isatty()
        assert stream.lost is None
        stream.write("x")
        assert isinstance(stream.lost, ValueError)


def test_characters_that_an_encoding_lacks_are_escaped() -> None:
    written = io.BytesIO()
    stream = LastingStream(io.TextIOWrapper(written, encoding="latin-1", write_through=True))
    Console(file=stream).print("20 % – \N{BLACK STAR}")  # type: ignore[arg-type]
    assert written.getvalue().strip() == rb"20 % \u2013 \u2605"


def test_streams_are_replaced_for_the_length_of_the_block(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with lasting_streams():
        sys.stdout.write("shown")
        assert (lost_output(), lost_log()) == (None, None)
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "shown"


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        ("> /dev/full", 1, "error: standard output: No space left on device; direct it elsewhere\n"),
        (">&-", 1, "error: standard output: closed; direct it elsewhere\n"),
        ("2>&-", 0, ""),
        ("--out x > /dev/full 2> /dev/full", 0, ""),
    ],
)
def test_a_command_whose_output_is_lost_fails_and_one_whose_log_is_lost_does_not(
    tmp_path: Path, ending: str, code: int, said: str
) -> None:
    line = f"{sys.executable} -m prelar_ray schema {ending}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        line, shell=True, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (code, said)
