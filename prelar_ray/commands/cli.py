"""The command line: ``prelar-ray COMMAND``, its error messages and exit codes, and what commands say at their end."""

from __future__ import annotations

import difflib
import errno
import faulthandler
import importlib
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.logging import RichHandler

from prelar_ray import __version__
from prelar_ray.commands.options import ASKED, plain_parser
from prelar_ray.errors import PrelarError
from prelar_ray.extras import missing_package
from prelar_ray.interrupts import stopping_signals
from prelar_ray.telemetry.progress import console
from prelar_ray.telemetry.streams import forgive_output, lasting_streams, lost_output

if TYPE_CHECKING:  # importing it takes as long as all the rest
    from prelar_ray.storage.run_folder import RunFolder

__all__ = ["COMMANDS", "dispatch", "guarded", "main", "print_next", "run_to_end", "saying_what_is_kept"]

COMMANDS = {
    "record": "record videos of experts or random policies, for training without actions",
    "prepare": "turn videos of any format into a video store",
    "data": "look at video stores: what they hold, damage, pictures; merge and split them",
    "pretrain": "pre-train a world model on action-free videos",
    "diagnose": "measure the latent action of a pre-training run: collapse, use by the decoder, true actions",
    "visualize": "draw what latent actions do to start frames (the paper's Fig. 1)",
    "finetune": "fine-tune a pre-trained world model and a policy in an environment",
    "tune": "run a study: pre-trainings, methods, tasks and seeds as trials of Ray Tune",
    "status": "show what studies and runs are doing, here or on a cluster",
    "evaluate": "run a checkpoint's policy: success and return with intervals, and a film",
    "export": "write weights for others: safetensors, settings, and a page about them",
    "import-checkpoint": "turn a checkpoint of the published code (PreLAR, ContextWM, APV) into a run folder",
    "export-checkpoint": "write a checkpoint as the published code writes and loads it",
    "fetch": "copy a run folder back from where checkpoint.mirror keeps its copy",
    "report": "write report.html: on runs (curves, predictions, timings), or comparing studies and scores",
    "doctor": "check rendering, GPUs, memory, disk, Ray and versions, with remedies",
    "cluster": "check the machines of a cluster over SSH, one line each, with remedies",
    "demo": "the whole pipeline in minutes: record, prepare, pretrain, diagnose, finetune, evaluate, report",
    "schema": "write the JSON schema of configuration files, for editors",
}
"""Name and one line about each command; ``prelar_ray.commands.NAME`` is its module, with ``_`` for ``-``."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells report it."""

REQUEUE = 75
"""Exit code after SIGUSR1: a checkpoint is written, and the command with ``--resume`` continues. Slurm sends the signal
before the time of a job is over (``sbatch --signal=USR1@300``), and its script asks for another turn::

    srun prelar-ray finetune --out runs/reach --resume || [ $? -ne 75 ] || scontrol requeue $SLURM_JOB_ID
"""

BROKEN_PIPE = 141
"""Exit code when the reader of standard output left, as shells report it."""


def print_next(did: str, *commands: Sequence[object]) -> None:
    """Say what a command did, and which ``prelar-ray`` commands follow: quoted, so that they can be copied."""
    lines = [f"prelar-ray {shlex.join(map(str, command))}" for command in commands]
    console.print(f"{did}\nnext: " + "\n      ".join(lines), soft_wrap=True, markup=False, highlight=False)


def run_to_end(lines: Iterable[object]) -> None:
    """Drive a run; its lines of metrics are written already, and what it says besides is for the log."""
    for _ in lines:
        pass
    forgive_output()


@contextmanager
def saying_what_is_kept(run: RunFolder) -> Iterator[None]:
    """Name the checkpoint that a run kept and the command that resumes from it: after Ctrl-C, or as a note of an error.

    An error before training started, such as a resume that is refused, has its own remedy and no note.
    """
    resume = [run.info["phase"], "--resume", "--out", run.path]
    try:
        yield
    except KeyboardInterrupt:
        if kept := run.last_checkpoint():
            print_next(f"kept: {kept}", resume)
        else:
            console.print("no checkpoint yet; the same command starts again", soft_wrap=True)
        raise
    except Exception as error:
        if run.started and (kept := run.last_checkpoint()):
            command = shlex.join(map(str, resume))
            error.add_note(f"kept: {kept}; when that is mended, prelar-ray {command} continues from there")
        raise


def guarded(command: Callable[[], int]) -> NoReturn:
    """Run a command and leave the process with its exit code; expected errors become one message on stderr, with notes.

    A package of an extra that is not installed is such an error.

    Exit codes: the command's own; that of the :class:`~prelar_ray.errors.PrelarError` (2 where settings, files or
    folders cannot be used, 1 where a run failed); 130 after Ctrl-C, SIGTERM or SIGHUP; :data:`REQUEUE` after SIGUSR1;
    141 when the reader of standard output left, and 1 where what a command is for could not be written there. A run
    outlives the readers of its log.
    """
    with lasting_streams(), stopping_signals() as came:
        _say_where_it_crashes()
        _log_to_stderr()
        try:
            code = _code(command)
            sys.stdout.flush()
            code = code or _unread()
        except PrelarError as error:
            code = _say(error)
        except ModuleNotFoundError as error:
            missing = missing_package(error)
            if missing is None:
                raise
            for note in getattr(error, "__notes__", ()):
                missing.add_note(note)
            code = _say(missing)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            sys.stderr.write(f"error: {_too_long(error)}\n")
            code = 2
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            code = REQUEUE if signal.SIGUSR1 in came else INTERRUPTED
        sys.exit(code)


def _say(error: PrelarError) -> int:
    """Write an error's message with its notes, and return its exit code."""
    sys.stderr.write("\n".join([f"error: {error}", *getattr(error, "__notes__", ())]) + "\n")
    return error.exit_code


def _too_long(error: OSError) -> str:
    """What is said of a name that the system did not take: only the user gives names of such length."""
    from prelar_ray.storage.names import length_problem  # pyarrow takes a while

    path = Path(os.fsdecode(error.filename or ""))
    problem = (
        length_problem(path) or f"{str(path)[:40]}...: a path of {len(os.fsencode(path))} bytes, too long for files"
    )
    return f"{problem}; choose a shorter one"


def _code(command: Callable[[], int]) -> int:
    """Run a command; what argparse leaves with after ``--help`` or a mistake is a code like another."""
    try:
        return command()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)


def _unread() -> int:
    """Return the exit code of a command whose output may not have arrived."""
    lost = lost_output()
    if lost is None:
        return 0
    if isinstance(lost, BrokenPipeError):
        return BROKEN_PIPE
    sys.stderr.write(f"error: standard output: {getattr(lost, 'strerror', None) or lost}; direct it elsewhere\n")
    return 1


def _say_where_it_crashes() -> None:
    """Have Python write to stderr where it was when native code, such as a simulator's, crashes the process."""
    if not faulthandler.is_enabled() and sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)


def _log_to_stderr() -> None:
    """Show the package's information and everyone's warnings: in colour on a terminal, as dated lines elsewhere."""
    handler: logging.Handler
    if sys.stderr.isatty():
        handler = RichHandler(console=console, show_path=False, omit_repeated_times=False)
        logging.basicConfig(level=logging.WARNING, handlers=[handler], format="%(message)s", datefmt="%H:%M:%S")
    else:
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("prelar_ray").setLevel(logging.INFO)


def dispatch(argv: Sequence[str] | None = None) -> int:
    """Run ``prelar-ray COMMAND ...``; only the chosen command's module is imported."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if ASKED in os.environ:
        from prelar_ray.commands.completion import complete_command

        arguments = complete_command(list(COMMANDS))
    if arguments and arguments[0] in COMMANDS:
        run: Callable[[Sequence[str]], int] = importlib.import_module(_module(arguments[0])).main
        return run(arguments[1:])
    width = max(map(len, COMMANDS))
    listing = "".join(f"  {name:<{width}}  {line}\n" for name, line in COMMANDS.items())
    parser = plain_parser(
        "",
        "World models pre-trained on action-free video (PreLAR), fine-tuned with Ray.",
        f"commands:\n{listing}\n`prelar-ray COMMAND --help` explains one; `prelar-ray demo` is a good start.",
    )
    parser.usage = "prelar-ray [--version] COMMAND ..."
    parser.add_argument("--version", action="store_true", help="say the version and its commit")
    if arguments and not arguments[0].startswith("-"):
        nearest = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
        hint = f"nearest: {nearest[0]}; " if nearest else ""
        parser.error(f"unknown command {arguments[0]!r}; {hint}`prelar-ray --help` lists all")
    if parser.parse_args(arguments).version:
        sys.stdout.write(f"{_version()}\n")
        return 0
    parser.error("which command? `prelar-ray --help` lists them")


def _version() -> str:
    """Version, and of a source tree its commit, which a built package has in its version."""
    if "+g" in __version__:
        return f"prelar-ray {__version__}"
    from prelar_ray.storage.provenance import source_commit

    commit = source_commit()
    return f"prelar-ray {__version__}" + (f" (commit {commit})" if commit else "")


def _module(command: str) -> str:
    return f"prelar_ray.commands.{command.replace('-', '_')}"


def main() -> NoReturn:
    """Console script ``prelar-ray``."""
    guarded(dispatch)
