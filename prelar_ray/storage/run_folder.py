"""The folder of one run: its record ``run.json``, the resolved configuration, and the paths of all other files.

::

    RUN/
      run.json            phase, id, status, versions, hardware, timings, summary, changes of settings by a resume;
                          loggers: ids that services know it by; lost_log: why, and from which update on, nobody
                          could read the log
      .lock               while a process is at work in the folder: which one
      config.yaml         the resolved configuration
      metrics.jsonl       one line of metrics per log interval
      evaluations.jsonl   one line per evaluation, every episode's return and success
      diagnostics.json    result of `prelar-ray diagnose` for a pre-training run
      tensorboard/  wandb/  checkpoints/  replay/  frames/  report.html
"""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from prelar_ray.errors import DataError, PrelarError, RunFolderError
from prelar_ray.storage.files import (
    append_json_line,
    atomic_file,
    count_lines,
    read_json_lines,
    remove_unfinished,
    sync_lines,
    write_json,
)
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
from prelar_ray.storage.provenance import installed_versions, provenance, utc_now
from prelar_ray.storage.reading import parse_record, read_bytes, read_json, read_record
from prelar_ray.storage.records import EvaluationRecord, Fetched, RunRecord, count_lines_until, drop_lines_after
from prelar_ray.wording import counted

__all__ = ["FETCHED", "IMPORT", "RunFolder"]

FETCHED = "fetched.json"
"""Where a run folder was copied from, in one that was."""
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
        self._ended_with: Mapping[str, int] = {}  # lines of metrics and evaluations when the run last ended
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
            folder.info = {"phase": phase, "id": uuid.uuid4().hex, "created": utc_now()}
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
        self._changes = {"at": utc_now(), "update": update, "settings": changed} if changed else {}

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
            self.info |= {"error": None, "resumed": [*self.info.get("resumed", []), utc_now()]}
            self.info.pop("lost_log", None)  # of the process before
        if self._changes:
            self.info |= {
                "changes": [*self.info.get("changes", []), self._changes],
                "versions": installed_versions(),
            }
        remove_unfinished(self.path)
        config = self._config_yaml.encode()
        digest = hashlib.sha256(config).hexdigest()
        self._ended_with = self.info.get("lines", {})
        self.update(status="running", finished=None, process=this_process(), config_sha256=digest, lines={})
        with atomic_file(self.config_path) as file:
            file.write(config)

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
        with suppress(DataError):  # whoever needs the file says that it is missing
            if folder.config_was_changed():
                log.warning("%s: was changed since the run wrote it, or is damaged", folder.config_path)
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
        info = read_json(record)
        try:
            parse_record(RunRecord, info)
        except ValueError as error:
            raise DataError(f"{record}: {error}; restore the file from a copy") from error
        return cls(path, info)

    def update(self, **fields: Any) -> None:
        """Set fields of ``run.json`` and rewrite it atomically.

        Raises:
            DataError: it cannot be written.
        """
        self.info |= fields
        write_json(self.path / "run.json", self.info)

    @contextmanager
    def track(self) -> Iterator[None]:
        """Record how the block ended: ``finished``, ``interrupted`` or ``failed`` with the error's message.

        Ctrl-C and a generator that is left interrupt it.
        A block that fails before :meth:`start` leaves the record unchanged.
        """
        try:
            yield
        except BaseException as error:
            ending: dict[str, Any] = {"status": "interrupted"}
            if not isinstance(error, KeyboardInterrupt | GeneratorExit):
                ending = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
            # The first error matters more than a second one, such as that of writing to a full disk.
            with suppress(PrelarError):
                if self.started:
                    self.update(finished=utc_now(), lines=self.sync_lines(), **ending)
            raise
        self.update(status="finished", finished=utc_now(), lines=self.sync_lines())

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
        drop_lines_after(self.evaluations_path, update)

    def sync_lines(self) -> dict[str, int]:
        """Flush metrics and evaluations to disk and return how many lines each has, which the checkpoint notes.

        Raises:
            DataError: they cannot be flushed.
        """
        return {path.name: sync_lines(path) for path in (self.metrics_path, self.evaluations_path)}

    def warn_of_missing_lines(self, noted: Mapping[str, int], update: int) -> None:
        """Warn where metrics or evaluations have fewer lines than the checkpoint of ``update``, or the end, noted.

        More than the checkpoint noted are none: an evaluation of that update may have ended later.

        Raises:
            DataError: a line is damaged.
        """
        for path in (self.metrics_path, self.evaluations_path):
            at_checkpoint = noted.get(path.name, 0) - count_lines_until(path, update)
            missing = max(at_checkpoint, self._ended_with.get(path.name, 0) - count_lines(path))
            if missing > 0:
                log.warning("%s; restore it from a copy, or the report will lack them", _missing(path, missing))

    def missing_lines(self) -> dict[str, str]:
        """By name of file, how many lines it has fewer than when the run ended; nothing where none is missing.

        Raises:
            DataError: a file cannot be read.
        """
        found = {}
        for path in (self.metrics_path, self.evaluations_path):
            missing = self.info.get("lines", {}).get(path.name, 0) - count_lines(path)
            if missing > 0:
                found[path.name] = _missing(path, missing)
        return found

    @property
    def fetched(self) -> Fetched | None:
        """Where the folder was copied from; None for a run that was made here.

        Raises:
            DataError: the record is damaged.
        """
        path = self.path / FETCHED
        return read_record(Fetched, path, "delete it if you trust the run") if os.path.lexists(path) else None

    def trust(self) -> None:
        """Note that the files of a fetched run are trusted, pickles included; nothing for a run that was made here.

        Raises:
            DataError: it cannot be noted.
        """
        if fetched := self.fetched:
            log.warning("%s: fetched from %s; its pickles are trusted from now on", self.path, fetched.address)
            write_json(self.path / FETCHED, fetched.model_copy(update={"trusted": utc_now()}).model_dump())

    def config_was_changed(self) -> bool:
        """Whether ``config.yaml`` is not what the run wrote; older runs do not say.

        Raises:
            DataError: it cannot be read.
        """
        known = self.info.get("config_sha256")
        return known is not None and hashlib.sha256(read_bytes(self.config_path)).hexdigest() != known


def _missing(path: Path, missing: int) -> str:
    lines = f"{counted(missing, 'line')} {'is' if missing == 1 else 'are'}"
    return f"{path}: {lines} missing that the run wrote; the file was emptied, cut or damaged"


def _checkpoints(path: Path) -> list[Path]:
    return list((path / "checkpoints").glob("[0-9]*"))
