"""The folder of one run: its record ``run.json``, the resolved configuration, and where everything else lies.

::

    RUN/
      run.json            phase, status, versions, hardware, timings, summary
      config.yaml         the resolved configuration
      metrics.jsonl       one line of metrics per log interval
      evaluations.jsonl   one line per evaluation, every episode's return and success
      diagnostics.json    what `prelar-ray diagnose` found out about a pre-training run
      tensorboard/  checkpoints/  replay/  frames/  report.html
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from prelar_ray.errors import DataError, PrelarError, RunFolderError
from prelar_ray.files import append_json_line, atomic_file, filter_json_lines, read_json_lines
from prelar_ray.provenance import provenance

__all__ = ["IMPORT", "RunFolder", "require_new"]

IMPORT = "import"
"""Phase of a folder whose checkpoint was not trained here; it can be started from, but not resumed."""


class RunFolder:
    """An existing run folder; made by :meth:`create` or :meth:`open`."""

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path = path
        self.info = info
        """Content of ``run.json``. Its status is running (a killed run stays that), finished, interrupted or failed."""
        self.config_path = path / "config.yaml"
        self.metrics_path = path / "metrics.jsonl"
        self.evaluations_path = path / "evaluations.jsonl"
        self.diagnostics_path = path / "diagnostics.json"
        self.tensorboard = path / "tensorboard"
        self.checkpoints = path / "checkpoints"
        self.replay = path / "replay"
        self.frames = path / "frames"

    @classmethod
    def create(cls, path: Path, config_yaml: str, phase: str, resume: bool = False) -> RunFolder:
        """Begin a run in a new or empty folder or, with ``resume``, go on with the run of the same phase in it.

        Raises:
            RunFolderError: the folder cannot be used; the message says why and what to do instead.
        """
        _refuse_unusable(path)
        if resume:
            folder = cls._to_resume(path, phase)
            folder.update(
                status="running", finished=None, error=None, resumed=[*folder.info.get("resumed", []), _now()]
            )
        else:
            _refuse_occupied(path)
            folder = cls(path, {})
            folder.update(
                phase=phase,
                status="running",
                created=_now(),
                finished=None,
                command=shlex.join(sys.orig_argv),
                **provenance(),
                timings={},
                summary={},
            )
        with atomic_file(folder.config_path) as file:
            file.write(config_yaml.encode())
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open the folder of a run.

        Raises:
            DataError: it is no run folder, or its ``run.json`` is damaged.
        """
        record = path / "run.json"
        if not record.is_file():
            raise DataError(f"{path}: not a run folder, it holds no run.json; name the folder given as --out")
        try:
            info = json.loads(record.read_bytes())
        except (ValueError, OSError) as error:
            raise DataError(f"{record}: cannot be read as JSON ({error}); restore it from a copy") from error
        expected = {"phase": str, "status": str, "versions": dict, "hardware": dict, "timings": dict, "summary": dict}
        for key, kind in expected.items():
            if not isinstance(info, dict) or not isinstance(info.get(key), kind):
                raise DataError(f"{record}: {key} is missing or no {kind.__name__}; restore the file from a copy")
        return cls(path, info)

    def update(self, **fields: Any) -> None:
        """Set fields of ``run.json`` and rewrite it atomically.

        Raises:
            DataError: it cannot be written.
        """
        self.info |= fields
        with atomic_file(self.path / "run.json") as file:
            file.write(json.dumps(self.info, indent=2).encode() + b"\n")

    @contextmanager
    def track(self) -> Iterator[None]:
        """Record how the block ended: ``finished``, ``interrupted`` (Ctrl-C) or ``failed`` with the error's message."""
        try:
            yield
        except BaseException as error:
            ending: dict[str, Any] = {"status": "interrupted"}
            if not isinstance(error, KeyboardInterrupt):
                ending = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
            # The reason the run ends matters more than a second failure, e.g. of writing to a full disk.
            with suppress(PrelarError):
                self.update(finished=_now(), **ending)
            raise
        self.update(status="finished", finished=_now())

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes to ``timings[name]``."""
        began = time.monotonic()
        try:
            yield
        finally:
            timings = dict(self.info["timings"])
            timings[name] = round(timings.get(name, 0.0) + time.monotonic() - began, 3)
            self.update(timings=timings)

    def save_frames(self, name: str, **arrays: Any) -> None:
        """Write arrays to ``frames/NAME.npz`` atomically.

        Raises:
            DataError: it cannot be written.
        """
        self.frames.mkdir(exist_ok=True)
        with atomic_file(self.frames / f"{name}.npz") as file:
            np.savez_compressed(file, **arrays)

    def append_evaluation(self, evaluation: dict[str, Any]) -> None:
        """Append one line to ``evaluations.jsonl``.

        Raises:
            DataError: it cannot be written.
        """
        append_json_line(self.evaluations_path, evaluation)

    def evaluations(self) -> list[dict[str, Any]]:
        """Return the evaluations so far, in the order they were made.

        Raises:
            DataError: a line is damaged.
        """
        return read_json_lines(self.evaluations_path) if self.evaluations_path.exists() else []

    def forget_evaluations_after(self, update: int) -> None:
        """Drop the evaluations that a lost run made beyond the checkpoint it resumes from.

        Raises:
            DataError: a line is damaged, or the file cannot be written.
        """
        filter_json_lines(self.evaluations_path, lambda row: int(row.get("update", 0)) <= update)

    @classmethod
    def _to_resume(cls, path: Path, phase: str) -> RunFolder:
        try:
            folder = cls.open(path)
        except DataError as error:
            raise RunFolderError(f"{error}; there is no run to --resume") from error
        if folder.info["phase"] == IMPORT:
            raise RunFolderError(
                f"{path}: holds an imported checkpoint, without the optimiser state that --resume needs; "
                "choose another --out"
            )
        if folder.info["phase"] != phase:
            raise RunFolderError(
                f"{path}: holds a {folder.info['phase']} run, which {phase} cannot --resume; choose another --out"
            )
        return folder


def require_new(path: Path) -> None:
    """Make sure that nothing stands at ``path``; an empty folder may.

    Raises:
        RunFolderError: something does.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise RunFolderError(f"{path}: exists already; choose a new folder, nothing is overwritten")


def _refuse_unusable(path: Path) -> None:
    """Make the folder, or say why it cannot be written."""
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"{path}: is a file, expected a folder; choose another --out")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{path}: cannot make this folder: {error.strerror}; choose another --out") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise RunFolderError(f"{path}: not writable; change its permissions or choose another --out")


def _refuse_occupied(path: Path) -> None:
    if _failed_to_start(path):
        return
    if (path / "run.json").exists():
        raise RunFolderError(f"{path}: already holds a run; continue it with --resume or choose a new --out")
    names = sorted(entry.name for entry in path.iterdir())
    if names:
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise RunFolderError(f"{path}: holds other files ({some}); choose a new --out, nothing is overwritten")


def _failed_to_start(path: Path) -> bool:
    """Whether a run failed in here before it made anything, for example for a wrong ``--init``."""
    with suppress(OSError, ValueError):
        made = {entry.name for entry in path.iterdir()} - {"run.json", "config.yaml"}
        empty = all((path / name).is_dir() and not any((path / name).iterdir()) for name in made)
        return empty and json.loads((path / "run.json").read_bytes())["status"] == "failed"
    return False


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
