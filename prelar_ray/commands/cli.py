"""The command line: ``prelar-ray COMMAND``, and what the commands share (options, error messages, exit codes)."""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import os
import select
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rich.logging import RichHandler

from prelar_ray import __version__
from prelar_ray.config import RunConfig, VideoConfig, load_config, method_names, named_value, preset_names
from prelar_ray.errors import ConfigError, PrelarError, UsageError
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.progress import console

__all__ = [
    "COMMANDS",
    "chosen_videos",
    "command_parser",
    "dispatch",
    "guarded",
    "main",
    "override_option",
    "overrides",
    "positive",
    "print_next",
    "repeated",
    "resolve",
    "saying_what_is_kept",
    "video_options",
]

COMMANDS = {
    "record": "record videos of experts or random policies, for training without actions",
    "pretrain": "pre-train a world model on action-free videos",
    "diagnose": "measure the latent action of a pre-training run: collapse, use by the decoder, true actions",
    "visualize": "draw what latent actions do to start frames (the paper's Fig. 1)",
    "finetune": "fine-tune a pre-trained world model and a policy in an environment",
    "tune": "run a study: pre-trainings, methods, tasks and seeds as trials of Ray Tune",
    "evaluate": "run a checkpoint's policy: success and return with intervals, and a film",
    "import-checkpoint": "turn a checkpoint of the published code (PreLAR, ContextWM, APV) into a run folder",
    "export-checkpoint": "write a checkpoint as the published code writes and loads it",
    "fetch": "copy a run folder back from where checkpoint.mirror keeps its copy",
    "report": "write report.html: on runs (curves, predictions, timings), or comparing studies and scores",
    "doctor": "check rendering, GPUs, memory, disk, Ray and versions, with remedies",
    "demo": "the whole road in minutes: record, pretrain, diagnose, finetune, evaluate, report",
    "schema": "write the JSON schema of configuration files, for editors",
}
"""Name and one line about each command; ``prelar_ray.commands.NAME`` is its module, with ``_`` for ``-``."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells report it."""

BROKEN_PIPE = 141
"""Exit code when the reader of standard output left, as shells report it."""


class CommandParser(argparse.ArgumentParser):
    """Parser whose ``KEY=VALUE`` arguments may stand before, between and after the options."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse with options and positional arguments in any order."""
        return self.parse_intermixed_args(args, namespace)


def command_parser(
    name: str, description: str, epilog: str, paths: Mapping[str, str] | None = None
) -> argparse.ArgumentParser:
    """Return a command's parser with the options that every configured command has.

    ``description`` and ``epilog`` are shown as they are written. ``paths`` names required paths, which come before the
    overrides, and their help. Hand the parsed arguments to :func:`resolve`.
    """
    parser = CommandParser(
        prog=f"prelar-ray {name}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for path, text in (paths or {}).items():
        parser.add_argument(path, type=Path, metavar=path.upper(), help=text)
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="change single settings by dotted key, for example world_model.rssm.deter=512; wins over file and preset",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings; wins over the preset")
    parser.add_argument(
        "--preset", metavar="NAME", help=f"settings to start from: {', '.join(preset_names())} (without: paper)"
    )
    override_option(parser, "--method", "method", help=f"choice of parts: {', '.join(method_names())}")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved configuration, parameter counts and memory estimate, and stop",
    )
    return parser


def override_option(parser: argparse.ArgumentParser, flag: str, key: str, *, help: str, value: str = "") -> None:
    """Add an option that is short for an override: ``--skip-bad`` for ``video.skip_bad=true``.

    With ``value`` the option is a switch that sets it; without, the option takes the value as its argument.
    """
    common: dict[str, Any] = {"dest": "shorthands", "default": [], "help": f"{help} (short for {key}={value or '...'})"}
    if value:
        parser.add_argument(flag, action="append_const", const=f"{key}={value}", **common)
    else:
        metavar = flag.strip("-").upper().replace("-", "_")
        parser.add_argument(flag, action="append", type=lambda text: f"{key}={text}", metavar=metavar, **common)


def positive(text: str) -> int:
    """Type of an option that counts something."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number of at least 1")
    return value


def video_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that look at a pre-training run's videos; :func:`chosen_videos` reads them."""
    parser.add_argument(
        "--videos", type=Path, metavar="DIR", help="video store (default: the one the run was pre-trained on)"
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave damaged shards out (default: as the run was pre-trained)"
    )


def chosen_videos(args: argparse.Namespace, config: RunConfig) -> VideoConfig:
    """Return the videos that the options of :func:`video_options` name, else those of a run's configuration.

    Raises:
        UsageError: neither names any.
    """
    path = str(args.videos or config.video.path)
    if not path:
        raise UsageError(f"{args.run}: its configuration names no video store (video.path); name one with --videos DIR")
    return config.video.model_copy(update={"path": path, "skip_bad": config.video.skip_bad or args.skip_bad})


def resolve(args: argparse.Namespace) -> RunConfig:
    """Return the configuration that the options of :func:`command_parser` describe.

    With ``--resume`` and neither ``--preset`` nor ``--config``, that of the run in ``--out`` is the start.

    Raises:
        ConfigError: see :func:`prelar_ray.config.load_config`, or the run to resume is of another method.
    """
    file = args.config
    if getattr(args, "resume", False) and args.out is not None and not (args.preset or file):
        file = args.out / "config.yaml"  # go on with what the run was started with
        own, asked = named_value("method", file, []), named_value("method", None, overrides(args))
        if asked and asked != own:
            raise ConfigError(
                f"method={asked}: the run in {args.out} is of method {own}; leave --method out, or start a new --out"
            )
    return load_config(args.preset, file, overrides(args))


def repeated(args: argparse.Namespace, without: str) -> list[str]:
    """Return the settings among the arguments of :func:`command_parser` as arguments for another command.

    Those whose key starts with ``without`` matter to this command alone.
    """
    words = ["--preset", args.preset] if args.preset else []
    words += ["--config", str(args.config)] if args.config else []
    for setting in overrides(args):
        key, _, value = setting.partition("=")
        if not key.startswith(without):
            words += ["--method", value] if key == "method" else [setting]
    return words


def overrides(args: argparse.Namespace) -> list[str]:
    """Return the overrides among the arguments of :func:`command_parser`, those with options of their own first."""
    return [*getattr(args, "shorthands", []), *args.overrides]


def print_next(did: str, *commands: Sequence[object]) -> None:
    """Say what a command did, and with which ``prelar-ray`` commands to go on: quoted, so that they can be copied."""
    lines = [f"prelar-ray {shlex.join(map(str, command))}" for command in commands]
    console.print(f"{did}\nnext: " + "\n      ".join(lines), soft_wrap=True, markup=False, highlight=False)


@contextmanager
def saying_what_is_kept(run: RunFolder) -> Iterator[None]:
    """After Ctrl-C, name the checkpoint that the run kept and the command that goes on from it."""
    try:
        yield
    except KeyboardInterrupt:
        if kept := run.last_checkpoint():
            print_next(f"kept: {kept}", [run.info["phase"], "--resume", "--out", run.path])
        else:
            console.print("no checkpoint yet; the same command begins anew", soft_wrap=True)
        raise


def guarded(command: Callable[[], int]) -> NoReturn:
    """Run a command and leave the process with its exit code; expected errors become one message on stderr.

    Exit codes: the command's own; that of the :class:`~prelar_ray.errors.PrelarError` (2 where settings, files or
    folders cannot be used, 1 where a run failed); 130 after Ctrl-C; 141 when the reader of standard output left.
    """
    _log_to_stderr()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = command()
        sys.stdout.flush()
    except PrelarError as error:
        sys.stderr.write(f"error: {error}\n")
        code = error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        code = INTERRUPTED
    except BrokenPipeError:
        if not _reader_left():
            raise
        code = BROKEN_PIPE
    sys.exit(code)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Let a polite kill end a run as Ctrl-C does: with a checkpoint."""
    raise KeyboardInterrupt


def _log_to_stderr() -> None:
    """Show the package's information and everyone's warnings: in colour on a terminal, as dated lines elsewhere."""
    handler: logging.Handler
    if sys.stderr.isatty():
        handler = RichHandler(console=console, show_path=False, omit_repeated_times=False)
        logging.basicConfig(level=logging.WARNING, handlers=[handler], format="%(message)s", datefmt="%H:%M:%S")
    else:
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("prelar_ray").setLevel(logging.INFO)


def _reader_left() -> bool:
    """Return whether standard output is the pipe that broke; then direct it nowhere, so that exiting stays quiet."""
    watch = select.poll()
    watch.register(sys.stdout, 0)  # errors and hang-ups are reported without being asked for
    if not watch.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def dispatch(argv: Sequence[str] | None = None) -> int:
    """Run ``prelar-ray COMMAND ...``; only the chosen command's module is imported."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in COMMANDS:
        run: Callable[[Sequence[str]], int] = importlib.import_module(_module(arguments[0])).main
        return run(arguments[1:])
    width = max(map(len, COMMANDS))
    listing = "".join(f"  {name:<{width}}  {line}\n" for name, line in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="prelar-ray",
        usage="prelar-ray [--version] COMMAND ...",
        description="World models pre-trained on action-free video (PreLAR), fine-tuned with Ray.",
        epilog=f"commands:\n{listing}\n`prelar-ray COMMAND --help` explains one; `prelar-ray demo` is a good start.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"prelar-ray {__version__}")
    if arguments and not arguments[0].startswith("-"):
        nearest = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
        hint = f"nearest: {nearest[0]}; " if nearest else ""
        parser.error(f"unknown command {arguments[0]!r}; {hint}`prelar-ray --help` lists all")
    parser.parse_args(arguments)
    parser.error("which command? `prelar-ray --help` lists them")


def _module(command: str) -> str:
    return f"prelar_ray.commands.{command.replace('-', '_')}"


def main() -> NoReturn:
    """Console script ``prelar-ray``."""
    guarded(dispatch)
