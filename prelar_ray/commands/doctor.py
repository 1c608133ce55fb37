"""``python -m prelar_ray doctor``: checks of this machine, one line each with its remedy."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from prelar_ray.commands.options import command_parser, resolve
from prelar_ray.config import RunConfig, load_config
from prelar_ray.extras import EXTRAS, without
from prelar_ray.replay.memory import GIB, memory_limit, step_bytes
from prelar_ray.telemetry.checks import Check, check_line
from prelar_ray.wording import counted

if TYPE_CHECKING:  # it imports the simulators, which may be broken
    from prelar_ray.envs.rendering_check import RenderingReport

__all__ = ["main"]

DESCRIPTION = """\
Check that this machine can record, train and evaluate: Python and package versions, off-screen rendering,
GPUs, shared memory, memory and disk for the configured replay buffer, open files, Ray.

With an environment (env.task=gym/MODULE:ID), also that: its images, actions, rewards, success, seeds, end, speed.

One line per check: OK, WARN (works, with a drawback) or FAIL, what was found, and what to do about it;
SKIP names checks that a failure prevented.
Exits with 1 if a check fails."""

EPILOG = """\
examples:
  prelar-ray doctor --preset tiny                    memory and disk are judged by the preset's replay buffer
  prelar-ray doctor --ray                            also starts a Ray on this machine, and stops it
  prelar-ray doctor env.task=gym/my_package:Arm-v0 --sheet arm.png
                                                     also checks this environment, and draws an episode of it
  prelar-ray doctor replay.capacity_steps=100000     whether a smaller replay buffer would fit"""

NVIDIA_DRIVER = Path("/dev/nvidiactl")
"""What NVIDIA's driver makes where it runs."""
SHARED_MEMORY = 0.3
"""Share of the memory that Ray takes for its object store in shared memory."""
SLOW_RENDERING = 10.0
"""Frames per second below which collecting is a bottleneck."""
OPEN_FILES = 8192
"""Open files that Ray's processes need together on a machine with many cores."""
ENVIRONMENT = "environment"
"""Name of the checks of the environment, which are several lines."""
SHEET_PARTS = 4
"""Parts of an episode, of each of which three frames are drawn."""
CHECKPOINT_SPACE = 5 * GIB
"""Disk space for checkpoints, videos and logs besides the replay buffer."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = command_parser("doctor", DESCRIPTION, EPILOG)
    parser.add_argument("--ray", action="store_true", help="also start a Ray on this machine and stop it (10 s)")
    names = ", ".join([*_checks(RunConfig(), start_ray=False), ENVIRONMENT])
    parser.add_argument("--only", action="append", metavar="CHECK", help=f"just this check, may be repeated: {names}")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw an episode of the environment (a .png file)")
    args = parser.parse_args(argv)
    config = resolve(args)
    if args.sheet and not config.env.image_size:
        parser.error(f"--sheet {args.sheet}: env.image_size=0 draws no frames; leave it out")
    if args.dry_run:
        from prelar_ray.commands.dry_run import print_dry_run  # imports torch, which may be broken

        print_dry_run(config)
        return 0
    checks = _checks(config, args.ray)
    chosen: list[str] = args.only or [*checks, *([ENVIRONMENT] if args.sheet or _names_environment(args) else [])]
    unknown = set(chosen) - checks.keys() - {ENVIRONMENT}
    if unknown:
        parser.error(f"--only {', '.join(sorted(unknown))}: no such check; there are {names}")
    console = Console(soft_wrap=True, highlight=False)
    results: Iterator[tuple[str, Check]] = ((name, run_check(checks[name])) for name in chosen if name in checks)
    failed = False
    for name, result in chain(results, check_environment(config, args.sheet) if ENVIRONMENT in chosen else ()):
        failed |= result.status == "FAIL"
        console.print(check_line(name, result))
    return 1 if failed else 0


def _names_environment(args: argparse.Namespace) -> bool:
    """Whether the arguments choose another environment than the preset has."""
    return resolve(args).env != load_config(args.preset, None, []).env


def _checks(config: RunConfig, start_ray: bool) -> dict[str, Callable[[], Check]]:
    return {
        "python": check_python,
        "packages": check_packages,
        "rendering": lambda: check_rendering(config),
        "gpu": check_gpu,
        "shared-memory": check_shared_memory,
        "memory": lambda: check_memory(config),
        "disk": lambda: check_disk(config, Path.cwd()),
        "open-files": check_open_files,
        "ray": lambda: check_ray(start_ray),
        "token": check_token,
        "cluster": lambda: check_cluster(config),
    }


def run_check(check: Callable[[], Check]) -> Check:
    """Run a check; an exception, as of a broken package, is a failure."""
    try:
        return check()
    except Exception as error:  # a broken package can raise anything when it is imported
        reason = " ".join(str(error).split())
        return Check("FAIL", f"{type(error).__name__}: {reason}", "reinstall the package named, then run this again")


def check_python() -> Check:
    """Compare the interpreter with the tested versions."""
    version = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13)):
        return Check("WARN", version, "untested; use Python 3.11, 3.12 or 3.13")
    return Check("OK", version)


def check_packages(distribution: str = "prelar-ray") -> Check:
    """Compare installed versions with the requirements, whose lower bounds are the tested versions."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(text) for text in requires(distribution) or []]
    except PackageNotFoundError:
        remedy = "pip install -c constraints.txt -e ."
        return Check("WARN", f"{distribution} is not installed, so its requirements are not checked", remedy)
    wrong, count = [], 0
    for requirement in requirements:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} missing")
        else:
            if not requirement.specifier.contains(installed, prereleases=True):
                wrong.append(f"{requirement.name} {installed}, tested {requirement.specifier}")
    if wrong:
        return Check("FAIL", "; ".join(wrong), "pip install -c constraints.txt -e . (or run `make setup`)")
    missing = without(*EXTRAS)
    extras = f"; extras: {', '.join(sorted(set(EXTRAS) - set(missing))) or 'none'}"
    return Check("OK", f"{count} of {count} requirements met{extras}" + f"; not: {', '.join(missing)}" * bool(missing))


def check_rendering(config: RunConfig) -> Check:
    """Draw frames off-screen, if any are drawn."""
    if not config.env.image_size:
        return Check("OK", "not needed: env.image_size=0 draws no frames")
    family = config.env.task.partition("/")[0]
    if family in EXTRAS and without(family):
        remedy = f"pip install 'prelar-ray[{family}]', or name your environment (env.task=...)"
        return Check("FAIL", f"env.task={config.env.task}: its simulator is not installed", remedy)
    if importlib.util.find_spec("mujoco") is None:
        return Check("OK", f"not needed: env.task={config.env.task}, and no MuJoCo is installed")
    from prelar_ray.envs import rendering_check
    from prelar_ray.errors import RenderingError

    try:
        report = rendering_check.check_rendering(config.env.render_quality, config.env.image_size)
    except RenderingError as error:
        return Check("FAIL", str(error).replace("\n", " "), "do what the finding says")
    finding = (
        f"{report.backend} on {report.device}{_egl_device(report)}, {report.frames_per_second:.0f} frames/s at quality "
        f"{config.env.render_quality}, {'upright' if report.upright else 'upside down'}"
    )
    if not report.upright:
        return Check("FAIL", finding, "try another back end: MUJOCO_GL=egl or MUJOCO_GL=osmesa")
    if report.on_other_device:
        remedy = f"set MUJOCO_EGL_DEVICE_ID={report.chosen}, and see whether that is where it draws"
        return Check("FAIL", f"{finding}; EGL device {report.chosen} should draw", remedy)
    if report.backend == "egl" and report.on_cpu and NVIDIA_DRIVER.exists():
        remedy = "install NVIDIA's EGL (libnvidia-gl); in a container NVIDIA_DRIVER_CAPABILITIES must have graphics"
        return Check("WARN", f"{finding}; this machine's GPU does not draw", remedy)
    if report.frames_per_second < SLOW_RENDERING:
        return Check("WARN", finding, "render on a GPU (MUJOCO_GL=egl), or env.render_quality=reduced")
    return Check("OK", finding)


def _egl_device(report: RenderingReport) -> str:
    """Return which device of EGL's list draws, for example `` (EGL device 2, CUDA 0)``."""
    if report.egl_device is None:
        return ""
    return f" (EGL device {report.egl_device}{'' if report.cuda is None else f', CUDA {report.cuda}'})"


def check_gpu() -> Check:
    """List the GPUs that torch can use."""
    import torch

    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi"):
            return Check(
                "WARN",
                f"torch {torch.__version__} cannot use the GPU of this machine",
                "install a torch built for its CUDA driver (pytorch.org), and check `nvidia-smi`",
            )
        return Check("OK", "none; the learner runs on the CPU, fit for the presets demo and tiny")
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(f"{properties.name} {properties.total_memory / GIB:.0f} GiB")
    bf16 = "with" if torch.cuda.is_bf16_supported() else "without"
    return Check("OK", f"{len(found)}: {', '.join(found)}, {bf16} bfloat16")


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Check:
    """Compare shared memory with the size of Ray's object store."""
    size, wanted = shutil.disk_usage(folder).total, SHARED_MEMORY * memory_limit()
    finding = f"{size / GIB:.1f} GiB in {folder}, Ray would take {wanted / GIB:.1f}"
    if size < wanted:
        remedy = f"docker run --shm-size={wanted / GIB:.0f}g, or mount -o remount,size={wanted / GIB:.0f}G {folder}"
        return Check("WARN", f"{finding}; it falls back to files in /tmp, which are slow", remedy)
    return Check("OK", finding)


def check_memory(config: RunConfig) -> Check:
    """Compare memory with the size of the full replay buffer."""
    replay, limit = config.replay.capacity_steps * step_bytes(config), memory_limit()
    finding = f"{limit / GIB:.1f} GiB, the full replay buffer takes {replay / GIB:.1f}"
    remedy = f"replay.capacity_steps={int(limit / 2 / step_bytes(config))} takes half of the memory"
    if replay > limit:
        return Check("FAIL", finding, remedy)
    if replay > limit / 2:
        return Check("WARN", f"{finding}, more than half", remedy)
    return Check("OK", finding)


def check_disk(config: RunConfig, folder: Path) -> Check:
    """Compare free disk space with the size of a run."""
    free = shutil.disk_usage(folder).free
    wanted = config.replay.capacity_steps * step_bytes(config) + CHECKPOINT_SPACE
    finding = f"{free / GIB:.1f} GiB free in {folder}, a run with a full replay buffer writes up to {wanted / GIB:.1f}"
    if free < GIB:
        return Check("FAIL", finding, "free space, or give an --out on another disk")
    if free < wanted:
        return Check("WARN", finding, "free space, give an --out on another disk, or lower replay.capacity_steps")
    return Check("OK", finding)


def check_open_files() -> Check:
    """Compare the limit on open files with Ray's need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES:
        enough = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, 65536)
        remedy = f"ulimit -n {enough} in the shell that starts the run"
        if enough <= soft:
            remedy = f"let root raise the limit: /etc/security/limits.conf, or docker run --ulimit nofile={OPEN_FILES}"
        return Check("WARN", f"at most {soft}", remedy)
    return Check("OK", "unlimited" if soft == resource.RLIM_INFINITY else f"at most {soft}")


def check_ray(start: bool) -> Check:
    """Import Ray and, with ``start``, start it on this machine."""
    import ray

    from prelar_ray.distributed.local_ray import start_local_ray
    from prelar_ray.errors import ResourceError

    if not start:
        return Check("OK", f"{ray.__version__} imports (--ray also starts it)")
    began = time.monotonic()
    try:
        start_local_ray(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        ray.get(ray.remote(lambda: None).remote(), timeout=60)
    except ResourceError as error:
        return Check("FAIL", f"{ray.__version__} cannot start: {error}", "do what the finding says")
    except Exception as error:  # Ray raises many types, from OSError to RuntimeError
        return Check("FAIL", f"{ray.__version__} does not start: {error}", "see /tmp/ray/session_latest/logs")
    finally:
        ray.shutdown()
    return Check("OK", f"{ray.__version__} starts, runs a task and stops in {time.monotonic() - began:.1f} s")


def check_token() -> Check:
    """Look whether somebody else can read Ray's token, and so run programs as this user."""
    from prelar_ray.distributed.ray_token import describe_access, token_path

    path = token_path()
    if path is None:
        return Check("OK", "Ray's token is in no file")
    if not path.exists():
        return Check("OK", f"no {path} yet; the first Ray that a run starts makes it, readable by you alone")
    if access := describe_access(path):
        return Check("FAIL", f"{path} is {access}", f"chmod 600 {path}; where others may have read it, rm it instead")
    return Check("OK", f"{path}, readable by you alone")


def check_cluster(config: RunConfig) -> Check:
    """Report the Ray that a run would use, and whether there is a token for an existing one."""
    named = config.cluster not in ("none", "auto")
    address = config.cluster if named else os.environ.get("RAY_ADDRESS")
    if not address:
        return Check("OK", "no existing Ray is addressed; runs start their own")
    source = "cluster" if named else "RAY_ADDRESS"
    token_file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    has_token = "RAY_AUTH_TOKEN" in os.environ or token_file.is_file()
    if os.environ.get("RAY_AUTH_MODE") == "token" and not has_token:
        return Check("FAIL", f"{source}={address}, RAY_AUTH_MODE=token, no token", f"copy the head's to {token_file}")
    if os.environ.get("RAY_AUTH_MODE") != "token":
        remedy = f"if it asks for a token: export RAY_AUTH_MODE=token and the head's token in {token_file}"
        return Check("WARN", f"{source}={address}, RAY_AUTH_MODE is not token", remedy)
    return Check("OK", f"{source}={address} with a token; it must be the same on every node")


def check_environment(config: RunConfig, sheet: Path | None) -> Iterator[tuple[str, Check]]:
    """Yield the checks of the environment, by name; ``sheet`` is a file for pictures of an episode of it."""
    from prelar_ray.acting.survey_process import survey_apart  # imports the simulators, which may be broken

    findings, frames = survey_apart(config)
    for finding in findings:
        yield finding.check, Check(finding.status, finding.text, finding.remedy)
    if sheet is None:
        return
    if frames is None:
        yield "env-sheet", Check("SKIP", f"{sheet} is not written: there are no frames")
        return
    from prelar_ray.video.sheet import draw_sheet

    parts = [part for part in np.array_split(np.arange(len(frames)), SHEET_PARTS) if len(part)]
    draw_sheet(sheet, [f"steps {part[0]} to {part[-1]}" for part in parts], [frames[part] for part in parts])
    yield "env-sheet", Check("OK", f"{sheet}: {config.env.task} under random actions, {counted(len(frames), 'frame')}")
