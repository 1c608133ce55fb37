"""What is known of studies, runs and a cluster at one moment: the document of ``prelar-ray status --json``.

Times are UTC in ISO 8601, durations seconds; null stands for what is not known.
"""

from __future__ import annotations

import socket
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from prelar_ray.storage.processes import is_gone
from prelar_ray.storage.records import ProcessRecord

__all__ = [
    "ClusterStatus",
    "JobStatus",
    "NodeStatus",
    "ProcessStatus",
    "RunState",
    "RunStatus",
    "StatusReport",
    "StudyStatus",
]

RunState = Literal["running", "interrupted", "failed", "stopped", "pending", "finished"]
"""``interrupted``: by a signal, or its process is gone. ``stopped``: a scheduler ended it. ``pending``: not begun."""


class _Status(BaseModel):
    """Unknown keys are ignored: the machine that is asked may have a later version."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ProcessStatus(_Status):
    """A process that is at work, or was."""

    host: str
    pid: int
    since: str | None = None
    alive: bool | None = None
    """None where it is on another host, of whose processes nothing is known here."""

    @classmethod
    def of(cls, record: ProcessRecord, since: str | None) -> Self:
        """Look for the process that ``record`` identifies, which began its work at ``since``."""
        here = record.host == socket.gethostname()
        alive = not is_gone(record.model_dump()) if here else None
        return cls(host=record.host, pid=record.pid, since=since, alive=alive)


class RunStatus(_Status):
    """One run."""

    name: str
    """In its study, or the path of a run that is of no study."""
    path: str
    phase: str
    method: str
    task: str | None = None
    """None for a pre-training."""
    seed: int | None = None
    labels: dict[str, Any] = {}
    """Settings chosen from a study's spaces, by dotted key."""
    status: RunState
    silent: bool = False
    """Whether it runs, and wrote no line of metrics for much longer than usual."""
    unit: str | None = None
    """What is counted: ``updates`` or ``env steps``."""
    done: int | None = None
    total: int | None = None
    progress: float | None = None
    """0 to 1."""
    rate: float | None = None
    """Units per second over the last lines of metrics."""
    train_return: float | None = None
    """Of the last training episodes."""
    train_success: float | None = None
    evaluation_return: float | None = None
    """Mean of the last evaluation."""
    evaluation_success: float | None = None
    seconds: float | None = None
    """How long it took so far, without the time between an interruption and its resume."""
    seconds_left: float | None = None
    last_line_age: float | None = None
    """Since the last line of metrics, or since the start where there is none yet; of runs that run."""
    created: str | None = None
    """When it began."""
    finished: str | None = None
    """When it ended."""
    process: ProcessStatus | None = None
    reason: str = ""
    """Why it failed or was interrupted."""
    resume: str | None = None
    """Command that resumes it; None where its study does, or where it left no checkpoint."""


class StudyStatus(_Status):
    """One study."""

    name: str
    path: str
    driver: ProcessStatus | None = None
    """The process that drives it, or was killed while it did."""
    driven: bool = False
    """Whether a process drives it, as far as is known."""
    counts: dict[RunState, int] = {}
    """Runs by status; those without any are left out."""
    pending: dict[str, int] = {}
    """Runs that have not begun, by phase."""
    seconds: float | None = None
    """Since its driver started; of a study that nobody drives, from the start of its first run to the end of its last.
    """
    seconds_left: float | None = None
    """None where nobody drives it, or no run of a phase that is due was measured."""
    resume: str | None = None
    """Command that resumes it, where nobody drives it and something is left."""
    runs: list[RunStatus] = []
    """All that have begun or failed, in the order of the plan."""


class NodeStatus(_Status):
    """An alive node of a cluster."""

    name: str
    cpus_used: float | None = None
    cpus: float = 0.0
    gpus_used: float | None = None
    gpus: float = 0.0


class JobStatus(_Status):
    """A job of Ray that is running."""

    id: str
    entrypoint: str
    since: str | None = None


class ClusterStatus(_Status):
    """The cluster that was asked."""

    address: str
    nodes: list[NodeStatus] = []
    jobs: list[JobStatus] = []


class StatusReport(_Status):
    """The whole document."""

    at: str
    """When it was made."""
    host: str
    """Where it was made."""
    studies: list[StudyStatus] = []
    runs: list[RunStatus] = []
    """Runs of no study."""
    problems: list[str] = []
    """Files that could not be read, one line each."""
    cluster: ClusterStatus | None = None
    """Only with ``--cluster``."""
