from __future__ import annotations

import errno
import json
import logging
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import prelar_ray
from prelar_ray.commands import cli
from prelar_ray.config import json_schema
from prelar_ray.errors import ConfigError, DataError, NonFiniteError
from prelar_ray.storage.provenance import source_commit


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "prelar_ray", *arguments], capture_output=True, text=True, timeout=60)


@pytest.fixture(autouse=True)
def _logging_as_before():
    root, package = logging.getLogger(), logging.getLogger("prelar_ray")
    handlers, level, package_level = root.handlers[:], root.level, package.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    package.setLevel(package_level)


# Exit codes and messages


def guard(command, capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as exit_:
        cli.guarded(command)
    return exit_.value.code, capsys.readouterr().err


def raising(error: BaseException):
    def command() -> int:
        raise error

    return command


def test_a_command_leaves_with_its_own_code(capsys):
    assert guard(lambda: 3, capsys) == (3, "")


def test_a_crash_of_native_code_says_where_it_was():
    code = "from prelar_ray.commands import cli; import ctypes; cli.guarded(lambda: ctypes.string_at(0))"
    crashed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert crashed.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in crashed.stderr
    assert "in string_at" in crashed.stderr


def test_expected_errors_become_one_message_and_their_exit_code(capsys):
    assert guard(raising(ConfigError("seed=x: must be")), capsys) == (2, "error: seed=x: must be\n")
    assert guard(raising(DataError("videos: empty")), capsys) == (2, "error: videos: empty\n")
    assert guard(raising(NonFiniteError("loss")), capsys) == (1, "error: loss\n")
    noted = NonFiniteError("loss")
    noted.add_note("kept: a checkpoint")
    assert guard(raising(noted), capsys) == (1, "error: loss\nkept: a checkpoint\n")


def test_ctrl_c_exits_with_130_and_without_traceback(capsys):
    assert guard(raising(KeyboardInterrupt()), capsys) == (130, "interrupted\n")


def test_an_unexpected_error_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.guarded(raising(ZeroDivisionError()))


@pytest.mark.parametrize(
    "command",
    [
        "record --preset tiny --out NAME",
        "prepare videos --out NAME",
        "demo --out NAME",
        "report . --out NAME",
        "fetch file:///nowhere NAME",
        "export-checkpoint NAME out.pt",
        "import-checkpoint NAME out",
        "evaluate NAME",
    ],
)
def test_names_that_no_file_system_takes_are_named_whatever_command_is_given_them(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = guard(lambda: cli.dispatch(command.replace("NAME", "n" * 300).split()), capsys)
    assert code == 2
    assert said.splitlines()[-1].startswith(
        f"error: {'n' * 40}...: a name of 300 bytes, and file systems take 255; choose"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_too_long_as_a_whole_is_cut_in_its_message(capsys):
    error = OSError(errno.ENAMETOOLONG, "File name too long", "/".join(["folder"] * 700))
    code, said = guard(raising(error), capsys)
    assert code == 2
    assert said.startswith(
        "error: folder/folder/folder/folder/folder/folde...: a path of 4899 bytes, too long for files"
    )
    assert len(said) < 150


def test_a_broken_pipe_other_than_standard_output_is_not_hidden():
    with pytest.raises(BrokenPipeError):
        cli.guarded(raising(BrokenPipeError()))


def test_a_reader_that_leaves_ends_the_command_quietly():
    writer = [sys.executable, "-m", "prelar_ray", "schema"]
    with subprocess.Popen(writer, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 141


def test_messages_of_the_package_are_shown_and_chatter_of_libraries_is_not(capsys):
    logging.getLogger().handlers[:] = []

    def command() -> int:
        logging.getLogger("prelar_ray.part").info("shown")
        logging.getLogger("library").info("hidden")
        logging.getLogger("library").warning("warned")
        return 0

    code, err = guard(command, capsys)
    assert code == 0
    assert "INFO prelar_ray.part: shown" in err
    assert "hidden" not in err
    assert "WARNING library: warned" in err


# prelar-ray COMMAND


def test_help_lists_every_command_with_a_line(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.dispatch(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for name, line in cli.COMMANDS.items():
        assert f"  {name} " in text
        assert line in text


def test_version_is_the_package_s(capsys):
    assert cli.dispatch(["--version"]) == 0
    said = capsys.readouterr().out
    assert re.fullmatch(
        rf"prelar-ray {re.escape(prelar_ray.__version__)}( \(commit [0-9a-f]{{40}}(-dirty)?\))?\n", said
    )
    commit = source_commit()
    assert commit is None or commit in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrian", "--help"], "unknown command 'pretrian'; nearest: pretrain; `prelar-ray --help` lists all"),
        (["xyz"], "unknown command 'xyz'; `prelar-ray --help` lists all"),
        ([], "which command?"),
        (["--hlp"], "unrecognized arguments: --hlp"),
    ],
)
def test_an_unknown_or_missing_command_exits_with_2(arguments: list[str], message: str, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.dispatch(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_only_the_chosen_command_is_imported_and_gets_the_other_arguments(monkeypatch):
    imported: list[str] = []
    seen: list[list[str]] = []

    def importer(name: str) -> SimpleNamespace:
        imported.append(name)
        return SimpleNamespace(main=lambda argv: seen.append(argv) or 7)

    monkeypatch.setattr(cli.importlib, "import_module", importer)
    assert cli.dispatch(["pretrain", "--preset", "tiny"]) == 7
    assert imported == ["prelar_ray.commands.pretrain"]
    assert seen == [["--preset", "tiny"]]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_listed_command_is_a_module(name: str):
    assert (Path(prelar_ray.__file__).parent / "commands" / f"{name.replace('-', '_')}.py").is_file()


def test_the_module_tune_is_the_command_tune():
    command = [sys.executable, "-m", "prelar_ray.tune", "nowhere.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (
        2,
        "error: nowhere.yaml: no such sweep file; tune_configs/ holds some to start from\n",
    )


def test_a_wrong_command_says_so_without_traceback_in_a_real_process():
    result = run("recrod")
    assert result.returncode == 2
    assert "nearest: record" in result.stderr
    assert "Traceback" not in result.stderr


def test_help_does_not_wait_for_torch_or_ray():
    code = "import sys, prelar_ray.commands.cli; print([m for m in ('torch', 'ray', 'gymnasium') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "[]\n"


# prelar-ray schema


def test_schema_goes_to_standard_output_or_to_a_file(tmp_path: Path, capsys):
    assert cli.dispatch(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()
    out = tmp_path / "new" / "schema.json"
    assert cli.dispatch(["schema", "--out", str(out)]) == 0
    assert json.loads(out.read_text()) == json_schema()
    assert list(out.parent.iterdir()) == [out]


def test_a_schema_that_cannot_be_written_is_a_message_with_the_path(tmp_path: Path):
    (tmp_path / "file").touch()
    result = run("schema", "--out", str(tmp_path / "file" / "schema.json"))
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {tmp_path / 'file' / 'schema.json'}: cannot write")


def test_the_help_of_schema_names_the_file_that_the_page_of_runs_names(capsys):
    with pytest.raises(SystemExit):
        cli.dispatch(["schema", "--help"])
    name = "--out prelar_ray.schema.json"
    assert name in capsys.readouterr().out
    assert name in (Path(prelar_ray.__file__).parents[1] / "docs" / "runs.md").read_text()
