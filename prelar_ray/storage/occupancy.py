"""Whether a folder can be used for a run: its name, what lies in it, and who is at work there."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from prelar_ray.errors import DataError, RunFolderError
from prelar_ray.storage.locks import FileLock, HeldError, described, hold
from prelar_ray.storage.names import length_problem
from prelar_ray.storage.processes import is_gone, this_process
from prelar_ray.storage.reading import read_json

__all__ = [
    "PATIENCE_SECONDS",
    "check_out",
    "lock_run",
    "make_folder",
    "refuse_in_use",
    "refuse_occupied",
    "remove_remains",
    "require_new",
]

log = logging.getLogger(__name__)

LOCK = ".lock"

PATH_BYTES = 3800
"""Longest path of a run folder: Linux takes 4096 for that of a file in it."""

PATIENCE_SECONDS = 120.0
"""How long a run waits for a lock whose holder is known to have ended, on a machine that went down."""

REMAINS = ("checkpoints", "replay", "tensorboard", "wandb", "metrics.jsonl", "manifest.json")
"""Files that a run may create before its first checkpoint, besides its record and configuration."""


def lock_run(path: Path, patience: float = 0.0) -> FileLock:
    """Return the lock of a run folder, which one process holds at a time; see :mod:`prelar_ray.storage.locks`.

    A process that holds it already gets the same lock. It ends with :meth:`FileLock.release`, with the last reference
    to it, or with the process, also by ``kill -9``.

    Args:
        patience: seconds to wait for the lock.

    Raises:
        RunFolderError: another process holds it; says which, where, and since when.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            lock = hold(path / LOCK)
        except HeldError as error:
            if time.monotonic() < deadline:
                time.sleep(1.0)
                continue
            raise _in_use(path, error.holder) from error
        except OSError as error:
            raise RunFolderError(
                f"{path}: cannot be locked ({error.strerror}); delete {path / LOCK}, or choose another --out"
            ) from error
        if lock.left is not None:
            _warn_of_foreign(path, lock.left)
        return lock


def require_new(path: Path) -> None:
    """Check that ``path`` does not exist or is an empty folder.

    Raises:
        RunFolderError: neither is the case.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise RunFolderError(f"{path}: exists already; choose a new folder, nothing is overwritten")


def check_out(path: Path, new: bool = False) -> None:
    """Check that a folder can be used for a run, without making anything.

    Args:
        new: a run is to start in it, so it may not hold one.

    Raises:
        RunFolderError: its name is too long, it is a file, not writable, or occupied.
    """
    if problem := length_problem(path):
        raise RunFolderError(f"{problem}; choose a shorter --out")
    if (size := len(os.fsencode(path.absolute()))) > PATH_BYTES:
        raise RunFolderError(f"{str(path)[:40]}...: a path of {size} bytes; choose an --out of at most {PATH_BYTES}")
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"{path}: is a file, expected a folder; choose another --out")
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise RunFolderError(f"{path}: cannot make this folder: Not a directory: {there}; choose another --out")
    if not os.access(there, os.W_OK | os.X_OK):
        said = path if there == path.absolute() else f"{path}: {there}"
        raise RunFolderError(f"{said}: not writable; change its permissions or choose another --out")
    if new and path.exists():
        refuse_occupied(path, abandoned=False)


def make_folder(path: Path) -> None:
    """Create a run folder.

    Raises:
        RunFolderError: it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{path}: cannot make this folder: {error.strerror}; choose another --out") from error


def refuse_in_use(path: Path, info: dict[str, Any]) -> None:
    """Refuse a folder that another process uses without a lock: one of an older version, or on another host."""
    with suppress(KeyError, TypeError):  # an older record does not identify its process
        process = info["process"]
        if info["status"] != "running" or is_gone(process):
            return
        this = this_process()
        if process["host"] != this["host"]:
            _warn_of_foreign(path, process)
        elif process["pid"] != this["pid"]:
            raise _in_use(path, process)


def _in_use(path: Path, holder: Mapping[str, Any] | None) -> RunFolderError:
    who, stop = "another process", "stop that first"
    if holder:
        who = described(holder)
        here = holder["host"] == this_process()["host"]
        stop += f" (Ctrl-C there, or kill {holder['pid']}: it writes a checkpoint)"
        stop += "" if here else f", or delete {path / LOCK} if it is gone"
    return RunFolderError(f"{path}: {who} is using it; {stop}, then --resume")


def _warn_of_foreign(path: Path, holder: Mapping[str, Any]) -> None:
    log.warning(
        "%s: its record says that %s is using it; make sure that it is not: two at once destroy each other's files",
        *(path, described(holder)),
    )


def refuse_occupied(path: Path, abandoned: bool) -> None:
    """Raise RunFolderError if a folder holds a run with anything to lose, or other files."""
    if _ended_before_checkpoint(path, abandoned):
        return
    if (path / "run.json").exists():
        raise RunFolderError(
            f"{path}: already holds a run; --resume --out {shlex.quote(str(path))} alone continues it with its own "
            "settings, else choose a new --out"
        )
    names = sorted(entry.name for entry in path.iterdir() if entry.name != LOCK)
    if names:
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise RunFolderError(f"{path}: holds other files ({some}); choose a new --out, nothing is overwritten")


def _ended_before_checkpoint(path: Path, abandoned: bool) -> bool:
    """Whether a run ended in this folder before its first checkpoint, so that it cannot be resumed and may be removed.

    Evaluations, frames and files that are not a run's are never removed.
    """
    with suppress(OSError, DataError, KeyError, TypeError):  # with a damaged record nothing is removed
        info = read_json(path / "run.json")
        killed = info["status"] == "running" and (abandoned or is_gone(info["process"]))
        ended = killed or info["status"] in ("failed", "interrupted")
        made = {entry.name for entry in path.iterdir() if not _is_empty_or_unfinished(entry)} - {LOCK}
        saved = [entry for entry in (path / "checkpoints").glob("*") if entry.suffix != ".tmp"]
        linked = [name for name in REMAINS if (path / name).is_symlink()]  # the target of a link is not removed
        return ended and made <= {"run.json", "config.yaml", *REMAINS} and not saved and not linked
    return False


def _is_empty_or_unfinished(entry: Path) -> bool:
    """Whether an entry is an empty folder, or the temporary file of an interrupted write."""
    return entry.suffix == ".tmp" or (entry.is_dir() and not any(entry.iterdir()))


def remove_remains(path: Path) -> None:
    """Remove the files of a run without checkpoint; its record and configuration are replaced next."""
    found = [path / name for name in REMAINS if (path / name).exists()]
    if found:
        log.info("%s: the run in it ended before its first checkpoint; removed: %s", path, ", ".join(map(str, found)))
    for remains in found:
        if remains.is_dir():
            shutil.rmtree(remains)
        else:
            remains.unlink()
