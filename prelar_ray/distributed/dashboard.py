"""The dashboard of a cluster's head, for those who reach its port and nothing else of the cluster."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient
from requests.exceptions import Timeout

from prelar_ray.distributed.connection import first_line
from prelar_ray.distributed.ray_token import read_token, token_path
from prelar_ray.errors import ResourceError, UsageError
from prelar_ray.wording import printable

__all__ = ["Dashboard", "Job", "Node"]

PORT = 8265
"""Ray's default."""
ANSWER_SECONDS = 10.0
"""For the dashboard to answer a question."""
JOB_SECONDS = 300.0
"""For a job to end; on a busy head its process takes a while to start."""
TAKE_SECONDS = 60.0
"""For the dashboard to take a job, the first of which starts what runs them."""
STOP_SECONDS = 10.0
"""For a job to end once it was told to."""
MONITOR_SECONDS = 1.5
"""For Ray's monitor of jobs to see that one has ended."""
NOT_FOUND = 127
"""Exit code of a shell that does not know a command."""

RAYS_OWN = ("job_manager.py:", "Running entrypoint for job")
"""What Ray's own lines in the log of a job have."""

_USED = re.compile(r"^([\d.]+)/([\d.]+) (CPU|GPU)\b", re.MULTILINE)


@dataclass(frozen=True)
class Node:
    """An alive node; what of it is used is None where the head does not say."""

    name: str
    total: dict[str, float]
    """``CPU`` and ``GPU``."""
    used: dict[str, float]
    """The same, of what Ray gave away."""


@dataclass(frozen=True)
class Job:
    """A job that is running."""

    id: str
    entrypoint: str
    since: str | None
    """UTC, ISO 8601."""


class _Client(JobSubmissionClient):
    """Ray's, which as of 2.60 waits for ever for an answer."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, timeout=TAKE_SECONDS, **options)


class Dashboard:
    """Answers questions about a cluster, and runs commands on its head as jobs of Ray.

    The token is the one that a Ray of this user has: ``RAY_AUTH_TOKEN``, or what is in the file of
    :func:`~prelar_ray.distributed.ray_token.token_path`.

    Attributes:
        address: ``http://HOST:PORT``.
    """

    def __init__(self, head: str) -> None:
        """Look whether a dashboard answers there.

        Args:
            head: ``HOST``, ``HOST:PORT`` or ``http://HOST:PORT``; the port is 8265 if none is given.

        Raises:
            UsageError: ``head`` is no such address.
            ResourceError: nobody listens there, it is no dashboard, or it refuses the token; says what to do.
        """
        self.address = _address(head)
        token = read_token()
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._ask("/api/version")
        with _without_address(), self._explained():
            self._client = _Client(self.address, headers=dict(self._headers))

    def nodes(self) -> list[Node]:
        """Return the nodes that are alive, in order of their names.

        Raises:
            ResourceError: the dashboard does not answer.
        """
        data = self._ask("/nodes?view=summary").get("data", {})
        logical = data.get("nodeLogicalResources") or {}
        found = []
        for summary in data.get("summary") or ():
            raylet = summary.get("raylet") or {}
            if raylet.get("state") == "ALIVE":
                total = {kind: float((raylet.get("resourcesTotal") or {}).get(kind, 0.0)) for kind in ("CPU", "GPU")}
                # The launcher of `ray up` names nodes by address, where Ray's usual one names them by number.
                text = logical.get(raylet["nodeId"]) or logical.get(summary.get("ip")) or ""
                used = {kind: float(number) for number, _, kind in _USED.findall(text)}
                found.append(Node(f"{summary.get('hostname')} ({summary.get('ip')})", total, used))
        return sorted(found, key=lambda node: node.name)

    def jobs(self) -> list[Job]:
        """Return the jobs that are running, in order of their start.

        Raises:
            ResourceError: the dashboard does not answer.
        """
        with self._explained():
            running = [job for job in self._client.list_jobs() if job.status == JobStatus.RUNNING]
        running.sort(key=lambda job: job.start_time or 0)
        return [Job(job.submission_id or job.job_id or "", job.entrypoint, _since(job)) for job in running]

    def run(self, command: Sequence[str]) -> str:
        """Run a command on the head, as a job that takes no CPU, and return what it wrote; the job is deleted then.

        Raises:
            ResourceError: it failed, took too long, or the head does not know the command.
        """
        job = f"{command[0]}-{secrets.token_hex(8)}"
        try:
            with self._explained():
                self._client.submit_job(entrypoint=shlex.join(command), submission_id=job, entrypoint_num_cpus=0)
                ended = self._wait(job, JOB_SECONDS)
                log = self._client.get_job_logs(job)
        finally:
            with suppress(RuntimeError, OSError):  # what went wrong before matters more
                self._delete(job)
        if ended.status == JobStatus.SUCCEEDED:
            return log
        if ended.driver_exit_code == NOT_FOUND:
            raise ResourceError(
                f"{self.address}: {command[0]} is not on the PATH of the cluster; put the folder that holds it "
                "(.venv/bin of the project) on the PATH there before `ray start`"
            )
        if not ended.status.is_terminal():
            raise ResourceError(
                f"{self.address}: the job for {shlex.join(command)} did not end within {JOB_SECONDS:.0f} s; look "
                f"at the load of the head, then try again"
            )
        lines = [line.strip() for line in log.splitlines() if line.strip() and not any(of in line for of in RAYS_OWN)]
        said = lines[-1].removeprefix("error: ") if lines else "it wrote nothing"
        raise ResourceError(f"{self.address}: {shlex.join(command)} failed there: {printable(said, 500)}")

    def _wait(self, job: str, seconds: float) -> JobDetails:
        """Return a job when it has ended, or as it is after so many seconds."""
        deadline = time.monotonic() + seconds
        while True:
            details = self._client.get_job_info(job)
            if details.status.is_terminal() or time.monotonic() > deadline:
                return details
            time.sleep(0.25)

    def _delete(self, job: str) -> None:
        """Take a job off the list of jobs, also one that has not ended.

        Ray's monitor looks after jobs every second. One that is deleted before the monitor saw that it has ended comes
        back as failed, once (2.60: ``JobManager._monitor_job_internal``).
        """
        if not self._client.get_job_info(job).status.is_terminal():
            self._client.stop_job(job)
            self._wait(job, STOP_SECONDS)
        for _ in range(2):
            time.sleep(MONITOR_SECONDS)
            if any(one.submission_id == job for one in self._client.list_jobs()):
                self._client.delete_job(job)

    def _ask(self, path: str) -> dict[str, Any]:
        """Return the dashboard's answer to GET."""
        request = urllib.request.Request(f"{self.address}{path}", headers=self._headers)
        with self._explained(), urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response:
            answer = json.load(response)
            if not isinstance(answer, dict):
                raise ValueError("no JSON object")
            return answer

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what to do about what goes wrong between here and the dashboard."""
        try:
            yield
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                raise ResourceError(self._refused()) from error
            raise ResourceError(f"{self.address}: {_no_dashboard(f'status {error.code}')}") from error
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            reason = getattr(error, "reason", error)
            raise ResourceError(
                f"{self.address}: nobody answers there ({first_line(reason)}); give the port of the head's dashboard "
                f"({PORT} by default), which others reach after `ray start --head --dashboard-host=0.0.0.0`, or "
                f"forward it: ssh -L {PORT}:localhost:{PORT} HEAD, and --cluster localhost"
            ) from error
        except (RuntimeError, Timeout) as error:  # what the dashboard answered to Ray's client, or did not
            said = f"no answer within {TAKE_SECONDS:.0f} s" if isinstance(error, Timeout) else first_line(error)
            raise ResourceError(
                f"{self.address}: takes no job ({said}); where another Ray runs on that machine, which has the port "
                "for jobs, start this one with `ray start --dashboard-agent-listen-port=PORT`; a Ray of cluster=auto "
                "takes none"
            ) from error
        except (HTTPException, ValueError, KeyError, OSError) as error:
            raise ResourceError(f"{self.address}: {_no_dashboard(type(error).__name__)}") from error

    def _refused(self) -> str:
        place = token_path() or "RAY_AUTH_TOKEN"
        if not self._headers:
            return (
                f"{self.address}: asks for a token, and there is none here; copy ~/.ray/auth_token of the head to "
                f"{place}, with mode 600, or set RAY_AUTH_TOKEN"
            )
        return f"{self.address}: refuses the token of {place}; copy the one that the head has, ~/.ray/auth_token"


def _address(head: str) -> str:
    """Return the URL of a dashboard."""
    try:
        url = urlsplit(head if "://" in head else f"http://{head}")
        port = url.port or PORT
    except ValueError as error:
        raise UsageError(f"--cluster {head}: {error}; give HOST, HOST:{PORT} or http://HOST:{PORT}") from error
    if url.scheme not in ("http", "https") or not url.hostname or url.path not in ("", "/") or url.username:
        raise UsageError(f"--cluster {head}: no address of a dashboard; give HOST, HOST:{PORT} or http://HOST:{PORT}")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{url.scheme}://{host}:{port}"


@contextmanager
def _without_address() -> Iterator[None]:
    """Let Ray take the address that it is given: as of 2.60 these variables win over it."""
    names = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def _no_dashboard(reason: str) -> str:
    return f"does not answer as a dashboard of Ray does ({reason}); give the port of the dashboard, {PORT} by default"


def _since(job: JobDetails) -> str | None:
    started = job.start_time
    return None if not started else datetime.fromtimestamp(started / 1000, UTC).isoformat(timespec="seconds")
