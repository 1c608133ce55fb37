"""The folder of a study: its sweep file, the plan, and a run folder for every run.

::

    STUDY/
      study.yaml     the sweep file, as given last
      plan.json      every run: name, phase, method, task, seed, labels, what it starts from
      failures.json  by name, why a run failed for good
      stopped.json   names of runs that a scheduler stopped early
      driver.json    the process that is at work on the study, while it is: the file is its lock
      inputs.json    the videos and pre-trainings that it started from, by content, and the cluster it was last run on
      optuna.jsonl   what Optuna knows of the runs, where it proposes their values
      videos/        data sets that the study recorded, by name and digest of their settings
      runs/NAME/     run folders, with a manifest.json each
      tune/          Ray Tune's own records: TensorBoard, CSV and JSON of every trial
      report.html    and report/, once `prelar-ray report` was there
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from prelar_ray.config import yaml_text
from prelar_ray.errors import DataError, RunFolderError
from prelar_ray.storage.files import atomic_file, remove_unfinished, write_json
from prelar_ray.storage.locks import FileLock, HeldError, described, hold
from prelar_ray.storage.occupancy import check_out
from prelar_ray.storage.reading import read_json, read_record, read_yaml
from prelar_ray.storage.records import NamesOfRuns, Plan, PlanEntry, ReasonsOfRuns
from prelar_ray.storage.run_folder import RunFolder

__all__ = ["DRIVER", "StudyFolder", "is_study"]

DRIVER = "driver.json"
"""The lock of a study."""

R = TypeVar("R", bound=BaseModel)


class StudyFolder:
    """An existing study folder; made by :meth:`open`."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.runs = self.path / "runs"
        self.tune = self.path / "tune"
        self.proposals = self.path / "optuna.jsonl"
        self._lock: FileLock | None = None

    @classmethod
    def open(cls, path: Path, name: str, resume: bool) -> StudyFolder:
        """Start a study in a new or empty folder, or ``resume`` the study of that name in it.

        This process holds the folder's lock from here on, until :meth:`driven` ends or nobody refers to the study.

        Raises:
            RunFolderError: the folder cannot be used, or another process is at work on it, or one of another machine
                may be; the message says why and what to do instead.
        """
        check_out(path)
        lock = _lock(path) if path.is_dir() else None
        record = path / "study.yaml"
        if record.exists():
            theirs = _name(record)
            if theirs != name:
                raise RunFolderError(f"{path}: holds the study {theirs}, this is {name}; choose another --out")
            if not resume:
                raise RunFolderError(
                    f"{path}: holds this study already; add --resume to resume it, or choose another --out"
                )
        elif path.exists() and any(entry.name != DRIVER for entry in path.iterdir()):
            raise RunFolderError(f"{path}: is no study and not empty; choose another --out")
        elif resume:
            raise RunFolderError(f"{path}: holds no study to --resume; leave it out to start one")
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder = cls(path)
            folder._lock = lock or _lock(path)
            if lock is None and record.exists():  # another process began in it meanwhile, and has ended
                raise RunFolderError(f"{path}: holds this study already; add --resume to resume it")
            folder.runs.mkdir(exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"{path}: cannot be made ({error.strerror}); choose another --out") from error
        return folder

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy in another process has, which Ray Tune makes: all but the lock."""
        return self.__dict__ | {"_lock": None}

    @contextmanager
    def driven(self) -> Iterator[None]:
        """Drive the study while the block lasts; then others may."""
        remove_unfinished(self.path)
        try:
            yield
        finally:
            if self._lock:
                self._lock.release()

    def write_plan(self, sweep: bytes, runs: Sequence[PlanEntry], name: str, proposed: Collection[str] = ()) -> None:
        """Record the sweep file and what it comes to; runs that an earlier plan had stay in it.

        Args:
            proposed: names of the runs whose values are proposed when they start; labels of an earlier plan stay.

        Raises:
            DataError: the folder cannot be written.
        """
        named = b"" if "name" in yaml_text.parse(sweep) else f"name: {name}\n".encode()
        with atomic_file(self.path / "study.yaml") as file:
            file.write(named + sweep)
        planned = {run.name: run for run in runs}
        earlier = {entry.name: entry for entry in self.plan()}
        for same in set(proposed) & planned.keys() & earlier.keys():
            labels = earlier[same].labels | planned[same].labels
            planned[same] = planned[same].model_copy(update={"labels": labels})
        self._write_plan((earlier | planned).values())

    def write_inputs(self, inputs: Sequence[Mapping[str, Any]], cluster: str) -> None:
        """Record what the study starts from, and the address of the Ray that it runs on.

        Raises:
            DataError: the folder cannot be written.
        """
        write_json(self.path / "inputs.json", {"inputs": list(inputs), "cluster": cluster}, indent=1)

    def cluster(self) -> str:
        """Address of the Ray that it was last run on; ``auto`` for one of its own.

        Raises:
            DataError: the record is damaged.
        """
        path = self.path / "inputs.json"
        record = read_json(path) if path.exists() else {}
        return str(record.get("cluster", "auto")) if isinstance(record, dict) else "auto"

    def finished_outside(self, names: Collection[str]) -> list[str]:
        """Names of runs of an earlier plan that have finished and are not among ``names``."""
        earlier = (entry.name for entry in self.plan())
        return [name for name in earlier if name not in names and self.status(name) == "finished"]

    def set_labels(self, run: PlanEntry) -> None:
        """Record values that were proposed only when the run started.

        Raises:
            DataError: the folder cannot be written.
        """
        self._write_plan(run if entry.name == run.name else entry for entry in self.plan())

    def labels(self, name: str) -> dict[str, Any]:
        """Labels of a run, as recorded."""
        return next((dict(entry.labels) for entry in self.plan() if entry.name == name), {})

    def run_path(self, name: str) -> Path:
        """Where a run's folder is or will be."""
        return self.runs / name

    def status(self, name: str) -> str:
        """Of a run: that of its ``run.json``, ``stopped`` where a scheduler ended it, or ``waiting``."""
        path = self.run_path(name)
        if not (path / "run.json").exists():
            return "waiting"
        info = RunFolder.open(path).info
        status = str(info["status"])
        return "stopped" if status != "finished" and name in self.stopped() else status

    def is_over(self, name: str) -> bool:
        """Whether a run needs nothing any more: it finished, or a scheduler stopped it."""
        return self.status(name) in ("finished", "stopped")

    def has_checkpoint(self, name: str) -> bool:
        """Whether a run can continue without what it started from."""
        return self.is_over(name) or any((self.run_path(name) / "checkpoints").glob("[0-9]*"))

    def note_stopped(self, name: str) -> None:
        """Record that a scheduler stopped a run early.

        Raises:
            DataError: the folder cannot be written.
        """
        write_json(self.path / "stopped.json", self.stopped() | {name: True})

    def failures(self) -> dict[str, str]:
        """Why runs failed for good, by name.

        Raises:
            DataError: the record is damaged.
        """
        failures = self._read("failures.json", ReasonsOfRuns)
        return dict(failures.root) if failures else {}

    def note_failure(self, name: str, reason: str | None) -> None:
        """Record why a run failed for good; None forgets it.

        Raises:
            DataError: the folder cannot be written.
        """
        failures = self.failures()
        failures.pop(name, None)
        write_json(self.path / "failures.json", failures | ({name: reason} if reason is not None else {}))

    def stopped(self) -> dict[str, bool]:
        """Runs that a scheduler stopped early, by name.

        Raises:
            DataError: the record is damaged.
        """
        stopped = self._read("stopped.json", NamesOfRuns)
        return dict(stopped.root) if stopped else {}

    def plan(self) -> list[PlanEntry]:
        """Every run, in the order of the plan.

        Raises:
            DataError: the record is damaged.
        """
        plan = self._read("plan.json", Plan)
        return plan.runs if plan else []

    def _write_plan(self, runs: Iterable[PlanEntry]) -> None:
        write_json(self.path / "plan.json", {"runs": [run.model_dump(mode="json") for run in runs]}, indent=1)

    def _read(self, name: str, kind: type[R]) -> R | None:
        """Return a file of the study, None if it is missing."""
        path = self.path / name
        return read_record(kind, path, "delete it, --resume writes a new one") if path.exists() else None


def is_study(path: Path) -> bool:
    """Whether ``path`` is the folder of a study."""
    return (path / "study.yaml").is_file()


def _lock(path: Path) -> FileLock:
    """Take the lock of a study's folder; RunFolderError if another process holds it, or one of another host may."""
    record = path / DRIVER
    try:
        return hold(record, strict=True)
    except HeldError as error:
        who = described(error.holder) if error.holder else "another process"
        raise RunFolderError(
            f"{path}: {who} is at work on this study; end it first with Ctrl-C, or delete {record} if it is gone"
        ) from error
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be locked ({error.strerror}); choose another --out") from error


def _name(record: Path) -> str:
    try:
        tree = read_yaml(record)
    except DataError as error:
        raise RunFolderError(str(error)) from error
    if not isinstance(tree, dict) or not isinstance(tree.get("name"), str):
        raise RunFolderError(f"{record}: cannot be read (it has no name of the study); restore it from a copy")
    return str(tree["name"])
