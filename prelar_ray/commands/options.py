"""Options that the commands share, and the configuration that they describe."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prelar_ray.config import RunConfig, VideoConfig, load_config, method_names, named_value, preset_names
from prelar_ray.errors import ConfigError, RunFolderError, UsageError
from prelar_ray.storage.occupancy import lock_run
from prelar_ray.telemetry.loggers import check_services
from prelar_ray.types import IMAGE_SIZE

__all__ = [
    "ASKED",
    "chosen_videos",
    "command_parser",
    "override_option",
    "overrides",
    "plain_parser",
    "positive",
    "repeated",
    "resolve",
    "resume_options",
    "run_alone",
    "size_settings",
    "verify_again",
    "verify_option",
    "video_options",
]


ASKED = "_ARGCOMPLETE"
"""Set where a shell asks what could be written next; see :mod:`prelar_ray.commands.completion`."""


class _Parser(argparse.ArgumentParser):
    """Parser whose ``KEY=VALUE`` arguments may stand before, between and after the options."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse with options and positional arguments in any order; answers a shell that asks for completions."""
        if ASKED in os.environ:
            from prelar_ray.commands.completion import complete

            complete(self)
        return self.parse_intermixed_args(args, namespace)


def plain_parser(command: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """Return the parser of ``prelar-ray COMMAND`` without any option; both texts are shown as they are written."""
    return _Parser(
        prog=f"prelar-ray {command}".rstrip(),
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def command_parser(
    command: str, description: str, epilog: str, paths: Mapping[str, str] | None = None
) -> argparse.ArgumentParser:
    """Return :func:`plain_parser` with the options that every configured command has.

    ``paths`` names required paths, which come before the overrides, and their help. Hand the parsed arguments to
    :func:`resolve`.
    """
    parser = plain_parser(command, description, epilog)
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
        "--videos",
        action="append",
        default=[],
        metavar="DIR",
        help="video store; again for several (default: those the run was pre-trained on)",
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave damaged shards out (default: as the run was pre-trained)"
    )
    verify_option(parser)


def resume_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that continue a run; :func:`run_alone` comes before :func:`resolve` then."""
    parser.add_argument(
        "--resume", action="store_true", help="resume from the last checkpoint in --out, with the settings of the run"
    )
    parser.add_argument(
        "--accept-changes",
        action="store_true",
        help="with --resume: although task, seed, camera or videos are others than before; run.json records it",
    )


@contextmanager
def run_alone(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Iterator[None]:
    """Keep other processes out of the run to resume, from before anything of it is read to the end of the block.

    A new run takes its folder itself, once it is clear that there will be one; a dry run only looks.

    Raises:
        RunFolderError: another process is at work in it; names that.
    """
    if args.accept_changes and not args.resume:
        parser.error("--accept-changes is for --resume")
    if args.dry_run or not args.resume or args.out is None or not (args.out / "run.json").is_file():
        yield
        return
    lock = lock_run(args.out)
    try:
        yield
    finally:
        lock.release()


def verify_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for which :func:`verify_again` is."""
    parser.add_argument("--verify", action="store_true", help="compare all checksums of the videos again, not only new")


def verify_again(args: argparse.Namespace, video: VideoConfig, image_size: int) -> None:
    """Compare all checksums of the stores if :func:`verify_option` asks for it; what is right is remembered.

    Raises:
        DataError: the store cannot be used.
    """
    if args.verify:
        from prelar_ray.video.mixture import VideoMixture  # its libraries take time to load

        VideoMixture.open(video, image_size, verify_again=True)


def chosen_videos(args: argparse.Namespace, config: RunConfig) -> VideoConfig:
    """Return the videos that the options of :func:`video_options` name, else those of a run's configuration.

    Raises:
        UsageError: neither names any.
        DataError: ``--verify`` finds damage.
    """
    path = tuple(map(str, args.videos)) or config.video.paths
    if not path:
        raise UsageError(f"{args.run}: its configuration names no video store (video.path); name one with --videos DIR")
    weights = () if args.videos else config.video.weights
    skip_bad = config.video.skip_bad or args.skip_bad
    video = config.video.model_copy(update={"path": path, "weights": weights, "skip_bad": skip_bad})
    verify_again(args, video, config.env.image_size)
    return video


def resolve(args: argparse.Namespace) -> RunConfig:
    """Return the configuration that the options of :func:`command_parser` describe.

    With ``--resume`` and neither ``--preset`` nor ``--config``, that of the run in ``--out`` is the start.

    Raises:
        ConfigError: see :func:`prelar_ray.config.load_config`, or the run to resume is of another method.
        RunFolderError: there is no run to resume.
        UsageError: a package that ``telemetry.loggers`` needs is missing.
    """
    file = args.config
    if getattr(args, "resume", False) and args.out is not None and not (args.preset or file):
        file = args.out / "config.yaml"  # the settings that the run was started with
        if not file.exists():
            raise RunFolderError(
                f"{args.out}: holds no run to --resume; leave --resume out to start one, or correct --out"
            )
        own, asked = named_value("method", file, []), named_value("method", None, overrides(args))
        if asked and asked != own:
            raise ConfigError(
                f"method={asked}: the run in {args.out} is of method {own}; leave --method out, or start a new --out"
            )
    config = load_config(args.preset, file, overrides(args))
    check_services(config.telemetry.loggers)
    return config


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


def size_settings(image_size: int) -> list[str]:
    """Return the arguments with which a run takes a store's frames of this size: none where it does by default."""
    return [] if image_size == IMAGE_SIZE else [f"env.image_size={image_size}"]


def overrides(args: argparse.Namespace) -> list[str]:
    """Return the overrides among the arguments of :func:`command_parser`, those with options of their own first."""
    return [*getattr(args, "shorthands", []), *args.overrides]
