"""The folder of one run: its record ``run.json``, the resolved configuration, and the paths of all other files.

::

    RUN/
      run.json            phase, id, status, versions, hardware, timings, summary, changes of settings by a resume;
                          lost_log: why, and from which update on, nobody could read the log
      .lock               while a process is at work in the folder: which one
      config.yaml         the resolved configuration
      metrics.jsonl       one line of metrics per log interval
      evaluations.jsonl   one line per evaluation, every episode's return and success
      diagnostics.json    result of `prelar-ray diagnose` for a pre-training run
      tensorboard/  checkpoints/  replay/  frames/  report.html
"""

from __future__ import annotations

import json
import logging
import shlex
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from prelar_ray.errors import DataError, PrelarError, RunFolderError
from prelar_ray.storage.files import append_json_line, atomic_file, filter_json_lines, read_json_lines
from prelar_ray.storage.locks import FileLock
from prelar_ray.storage.occupancy import (
    PATIENCE_SECONDS,
    check_out,
    lock_run,
    make_folder,
    refuse_in_use,
    refuse_occupied,
    remove_remains,
)
from prelar_ray.storage.processes import this_process
from prelar_ray.storage.provenance import installed_versions, provenance
from prelar_ray.storage.records import EvaluationRecord

__all__ = ["IMPORT", "RunFolder"]

IMPORT = "import"
"""Phase of a folder with an imported checkpoint; a run can start from it, but it cannot be resumed."""


log = logging.getLogger(__name__)


class RunFolder:
    """An existing run folder, constructed by :meth:`create` or :meth:`open`."""

    def __init__(self, path: Path, info: dict[str, Any], config_yaml: str = "") -> None:
        self.path = path
        self._config_yaml = config_yaml
        self._lock: FileLock | None = None
        self._changes: dict[str, Any] = {}
        self.accepts_changes = False
        """Whether a resume may change what identifies the experiment."""
        self.started = False
        """Whether training has started in this process; until then a run to resume is unchanged."""
        self.info = info
        """Content of ``run.json``; status is running (also of a killed run), finished, interrupted or failed."""
        self.config_path = path / "config.yaml"
        self.metrics_path = path / "metrics.jsonl"
        self.evaluations_path = path / "evaluations.jsonl"
        self.diagnostics_path = path / "diagnostics.json"
        self.tensorboard = path / "tensorboard"
        self.checkpoints = path / "checkpoints"
        self.replay = path / "replay"
        self.frames = path / "frames"

    @classmethod
    def create(
        cls,
        path: Path,
        config_yaml: str,
        phase: str,
        resume: bool = False,
        abandoned: bool = False,
        accept_changes: bool = False,
    ) -> RunFolder:
        """Create a run in a new or empty folder or, with ``resume``, open the run of the same phase in it.

        The run holds the folder's lock until :meth:`close`, or until nobody refers to it; see :func:`lock_run`. A run
        to resume is unchanged until :meth:`start`, because later checks may still refuse it. A folder in which a run
        ended before its first checkpoint counts as empty: its files are removed.

        Args:
            abandoned: the caller knows that no process uses the folder, on any host. A lock that is not free yet is
                waited for.
            accept_changes: a resume may change what identifies the experiment.

        Raises:
            RunFolderError: the folder cannot be used, or another process uses it; the message has reason and remedy.
        """
        if resume:
            cls.to_resume(path, phase)  # makes no folder where there is no run
        check_out(path)
        make_folder(path)
        lock = lock_run(path, PATIENCE_SECONDS if abandoned else 0.0)
        if resume:
            folder = cls(path, cls.to_resume(path, phase).info, config_yaml)
            if not abandoned:
                refuse_in_use(path, folder.info)
        else:
            refuse_occupied(path, abandoned)
            remove_remains(path)
            folder = cls(path, {}, config_yaml)
        folder._lock, folder.accepts_changes = lock, accept_changes
        if not resume:
            folder.info = {"phase": phase, "id": uuid.uuid4().hex, "created": _now()}
            folder.info |= {"command": shlex.join(sys.orig_argv), **provenance(), "timings": {}, "summary": {}}
            folder.start()
        return folder

    def close(self) -> None:
        """Let other processes use the folder; a second call does nothing."""
        if self._lock is not None:
            self._lock.release()

    def change(self, update: int, settings: Mapping[str, tuple[Any, Any]]) -> None:
        """Let :meth:`start` record which settings a resume changed, and which versions of packages.

        Args:
            update: of the checkpoint that the run resumes from.
            settings: value before and after, by dotted key.
        """
        before, now = self.info["versions"], installed_versions()
        changed = {key: list(pair) for key, pair in settings.items()}
        for package in dict.fromkeys([*before, *now]):
            if before.get(package) != now.get(package):
                changed[f"versions.{package}"] = [before.get(package), now.get(package)]
        self._changes = {"at": _now(), "update": update, "settings": changed} if changed else {}

    @property
    def changed_to(self) -> dict[str, Any]:
        """The value that recorded changes gave to settings last, by dotted key."""
        found: dict[str, Any] = {}
        with suppress(AttributeError, TypeError, KeyError, ValueError):  # damaged: as if there were none
            for change in self.info.get("changes") or ():
                found |= {key: after for key, (_, after) in change["settings"].items()}
        return found

    def start(self) -> None:
        """Record that the run is running, with the configuration given to :meth:`create`; repeated calls do nothing.

        Raises:
            DataError: it cannot be written.
        """
        if self.started:
            return
        self.started = True
        if "status" in self.info:
            self.info |= {"error": None, "resumed": [*self.info.get("resumed", []), _now()]}
            self.info.pop("lost_log", None)  # of the process before
        if self._changes:
            self.info |= {
                "changes": [*self.info.get("changes", []), self._changes],
                "versions": installed_versions(),
            }
        self.update(status="running", finished=None, process=this_process())
        with atomic_file(self.config_path) as file:
            file.write(self._config_yaml.encode())

    @classmethod
    def to_resume(cls, path: Path, phase: str) -> RunFolder:
        """Open the folder of a run that ``phase`` can resume.

        Raises:
            RunFolderError: there is none, or it is of another phase.
        """
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

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open the folder of a run.

        Raises:
            DataError: it is not a run folder, or its ``run.json`` is damaged.
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
        """Record how the block ended: ``finished``, ``interrupted`` (Ctrl-C) or ``failed`` with the error's message.

        A block that fails before :meth:`start` leaves the record unchanged.
        """
        try:
            yield
        except BaseException as error:
            ending: dict[str, Any] = {"status": "interrupted"}
            if not isinstance(error, KeyboardInterrupt):
                ending = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
            # The first error matters more than a second one, such as that of writing to a full disk.
            with suppress(PrelarError):
                if self.started:
                    self.update(finished=_now(), **ending)
            raise
        self.update(status="finished", finished=_now())

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the duration of the block to ``timings[name]``, seconds, if the run is running."""
        began = time.monotonic()
        try:
            yield
        finally:
            timings = dict(self.info["timings"])
            timings[name] = round(timings.get(name, 0.0) + time.monotonic() - began, 3)
            if self.started:
                self.update(timings=timings)

    def save_frames(self, name: str, **arrays: Any) -> None:
        """Write arrays to ``frames/NAME.npz`` atomically.

        Raises:
            DataError: it cannot be written.
        """
        self.frames.mkdir(exist_ok=True)
        with atomic_file(self.frames / f"{name}.npz") as file:
            np.savez_compressed(file, **arrays)

    def append_evaluation(self, evaluation: EvaluationRecord) -> None:
        """Append one line to ``evaluations.jsonl``.

        Raises:
            DataError: it cannot be written.
        """
        append_json_line(self.evaluations_path, evaluation.model_dump(mode="json"))

    def evaluations(self) -> list[EvaluationRecord]:
        """Return the evaluations so far, in chronological order.

        Raises:
            DataError: a line is damaged.
        """
        path = self.evaluations_path
        return [EvaluationRecord.parse(row, path) for row in read_json_lines(path)] if path.exists() else []

    def last_checkpoint(self) -> Path | None:
        """Return the folder of the newest checkpoint, if there is one, without checking that it is intact."""
        return max(_checkpoints(self.path), default=None)

    def forget_evaluations_after(self, update: int) -> None:
        """Drop the evaluations after ``update``, the checkpoint from which the run resumes.

        Raises:
            DataError: a line is damaged, or the file cannot be written.
        """
        filter_json_lines(self.evaluations_path, lambda row: int(row.get("update", 0)) <= update)


def _checkpoints(path: Path) -> list[Path]:
    return list((path / "checkpoints").glob("[0-9]*"))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
